// A peer with `ws` on Node.js.
"use strict";

const http = require("node:http");
const https = require("node:https");
const { WebSocket, WebSocketServer } = require("ws");
const { answer, closed, ready, run, thirds } = require("./commands.cjs");

const talk = (socket) => {
  socket.on("message", (data, isBinary) => {
    if (isBinary) return socket.send(data);
    return answer(data.toString(), {
      "": (text) => socket.send(text),
      protocol: () => socket.send(socket.protocol),
      compressed: () => socket.send(socket.extensions ? "yes" : "no"),
      fragments: (text) => {
        thirds(text).forEach((part, number) => socket.send(part, { fin: number === 2 }));
      },
      ping: (payload) => socket.ping(payload),
      close: (code, reason) => socket.close(code, reason),
    });
  });
  socket.on("pong", (payload) => socket.send(`pong ${payload}`));
  socket.on("close", (code, reason) => closed(code, reason.toString()));
  socket.on("error", console.error);
};

const deflate = { threshold: 0 };

run({
  version: require("ws/package.json").version,
  server: (port, tls) => {
    const server = tls ? https.createServer(tls) : http.createServer();
    const choose = (offered) => (offered.has("coffee") ? "coffee" : false);
    new WebSocketServer({ server, perMessageDeflate: deflate, handleProtocols: choose })
      .on("connection", talk);
    server.listen(port, "127.0.0.1", ready);
  },
  client: (url, tls) => {
    talk(new WebSocket(url, ["tea", "coffee"], { ...tls, perMessageDeflate: deflate }));
  },
});
