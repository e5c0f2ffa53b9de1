// A peer with the WebSocket of Bun.
const { answer, closed, ready, run, talk } = require("./commands.cjs");

const websocket = {
  perMessageDeflate: { compress: "dedicated", decompress: "dedicated" },
  maxPayloadLength: 8 << 20,
  backpressureLimit: 64 << 20,
  idleTimeout: 0,
  sendPings: false,
  message: (socket, data) => {
    if (typeof data !== "string") return socket.sendBinary(data, true);
    return answer(data, {
      "": (text) => socket.sendText(text, true),
      protocol: () => socket.sendText(socket.data.protocol),
      ping: (payload) => socket.ping(payload),
      close: (code, reason) => socket.close(code, reason),
    });
  },
  pong: (socket, payload) => socket.sendText(`pong ${payload}`),
  close: (socket, code, reason) => closed(code, reason),
};

run({
  version: Bun.version,
  server: (port, tls) => {
    const fetch = (request, server) => {
      const offered = request.headers.get("Sec-WebSocket-Protocol") ?? "";
      const protocol = offered.includes("coffee") ? "coffee" : "";
      const headers = protocol ? { "Sec-WebSocket-Protocol": protocol } : {};
      if (server.upgrade(request, { headers, data: { protocol } })) return undefined;
      return new Response("a WebSocket handshake is expected", { status: 400 });
    };
    Bun.serve({ hostname: "127.0.0.1", port, tls, fetch, websocket });
    ready();
  },
  client: (url, tls) => {
    talk(new WebSocket(url, { protocols: ["tea", "coffee"], tls }));
  },
});
