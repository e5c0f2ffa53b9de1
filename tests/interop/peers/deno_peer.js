// A peer with the WebSocket of Deno.
import commands from "./commands.cjs";

const { answer, closed, ready, run, talk } = commands;

const serve = (request) => {
  if (request.headers.get("Upgrade")?.toLowerCase() !== "websocket") {
    return new Response("a WebSocket handshake is expected", { status: 400 });
  }
  const offered = request.headers.get("Sec-WebSocket-Protocol") ?? "";
  const protocol = offered.includes("coffee") ? "coffee" : undefined;
  const { socket, response } = Deno.upgradeWebSocket(request, { protocol, idleTimeout: 0 });
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => {
    if (typeof data !== "string") return socket.send(data);
    return answer(data, {
      "": (text) => socket.send(text),
      protocol: () => socket.send(socket.protocol),
      close: (code, reason) => socket.close(code, reason),
    });
  };
  socket.onclose = ({ code, reason }) => closed(code, reason);
  socket.onerror = (event) => console.error(event.message);
  return response;
};

run({
  version: Deno.version.deno,
  server: (port, tls) => {
    const files = tls && { cert: tls.cert.toString(), key: tls.key.toString() };
    Deno.serve({ hostname: "127.0.0.1", port, onListen: ready, ...files }, serve);
  },
  client: (url, tls) => {
    const client = tls && Deno.createHttpClient({ caCerts: [tls.ca.toString()] });
    talk(new WebSocket(url, { protocols: ["tea", "coffee"], ...(client && { client }) }));
  },
});
