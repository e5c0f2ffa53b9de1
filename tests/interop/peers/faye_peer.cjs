// A peer with `faye-websocket` on Node.js.
"use strict";

const http = require("node:http");
const https = require("node:https");
const WebSocket = require("faye-websocket");
const { answer, closed, ready, run } = require("./commands.cjs");

const talk = (socket, done) => {
  socket.on("message", ({ data }) => {
    if (typeof data !== "string") return socket.send(data);
    return answer(data, {
      "": (text) => socket.send(text),
      protocol: () => socket.send(socket.protocol),
      ping: (payload) => socket.ping(payload, () => socket.send(`pong ${payload}`)),
      close: (code, reason) => socket.close(code, reason),
    });
  });
  socket.on("close", ({ code, reason }) => {
    closed(code, reason);
    done();
  });
  socket.on("error", ({ message }) => console.error(message));
};

run({
  version: require("faye-websocket/package.json").version,
  server: (port, tls) => {
    const server = tls ? https.createServer(tls) : http.createServer();
    server.on("upgrade", (request, socket, body) => {
      talk(new WebSocket(request, socket, body, ["coffee"], { maxLength: 8 << 20 }), () => {});
    });
    server.listen(port, "127.0.0.1", ready);
  },
  client: (url, tls) => {
    const options = { maxLength: 8 << 20, tls: tls ?? {} };
    talk(new WebSocket.Client(url, ["tea", "coffee"], options), () => process.exit(0));
  },
});
