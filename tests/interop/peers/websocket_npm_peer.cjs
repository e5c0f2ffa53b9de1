// A peer with `websocket` (WebSocket-Node) on Node.js.
"use strict";

const http = require("node:http");
const https = require("node:https");
const { client: WebSocketClient, server: WebSocketServer, frame: Frame } = require("websocket");
const { answer, closed, ready, run, thirds } = require("./commands.cjs");

const sizes = {
  maxReceivedFrameSize: 8 << 20,
  maxReceivedMessageSize: 8 << 20,
  fragmentOutgoingMessages: false,
};

const send = (connection, text, opcode, fin) => {
  const frame = new Frame(
    connection.maskBytes, connection.frameHeader, connection.config);
  frame.opcode = opcode;
  frame.fin = fin;
  frame.binaryPayload = Buffer.from(text);
  connection.sendFrame(frame);
};

const talk = (connection) => {
  connection.on("message", (message) => {
    if (message.type === "binary") return connection.sendBytes(message.binaryData);
    return answer(message.utf8Data, {
      "": (text) => connection.sendUTF(text),
      protocol: () => connection.sendUTF(connection.protocol ?? ""),
      fragments: (text) => {
        thirds(text).forEach((part, number) => send(connection, part, number ? 0 : 1, number === 2));
      },
      ping: (payload) => connection.ping(payload),
      close: (code, reason) => connection.close(code, reason),
    });
  });
  connection.on("pong", (payload) => connection.sendUTF(`pong ${payload}`));
  connection.on("close", closed);
  connection.on("error", console.error);
};

run({
  version: require("websocket/package.json").version,
  server: (port, tls) => {
    const httpServer = tls ? https.createServer(tls) : http.createServer();
    new WebSocketServer({ httpServer, ...sizes }).on("request", (request) => {
      const offered = request.requestedProtocols.includes("coffee");
      talk(request.accept(offered ? "coffee" : null, request.origin));
    });
    httpServer.listen(port, "127.0.0.1", ready);
  },
  client: (url, tls) => {
    const client = new WebSocketClient({ ...sizes, tlsOptions: tls ?? {} });
    client.on("connect", talk);
    client.on("connectFailed", console.error);
    client.connect(url, ["tea", "coffee"]);
  },
});
