// A peer with `nodejs-websocket` on Node.js.
"use strict";

const ws = require("nodejs-websocket");
const { answer, closed, ready, run } = require("./commands.cjs");

const talk = (connection, done) => {
  connection.on("text", (data) => answer(data, {
    "": (text) => connection.sendText(text),
    protocol: () => connection.sendText(connection.protocol ?? ""),
    ping: (payload) => connection.sendPing(payload),
    close: (code, reason) => connection.close(code, reason),
  }));
  connection.on("binary", (stream) => {
    const chunks = [];
    stream.on("data", (chunk) => chunks.push(chunk));
    stream.on("end", () => connection.sendBinary(Buffer.concat(chunks)));
  });
  connection.on("pong", (payload) => connection.sendText(`pong ${payload}`));
  connection.on("close", (code, reason) => {
    closed(code, reason);
    done();
  });
  connection.on("error", console.error);
};

ws.setMaxBufferLength(8 << 20);

run({
  version: require("nodejs-websocket/package.json").version,
  server: (port, tls) => {
    const options = {
      ...tls,
      secure: Boolean(tls),
      selectProtocol: (_, offered) => (offered.includes("coffee") ? "coffee" : undefined),
    };
    ws.createServer(options, (connection) => talk(connection, () => {}))
      .listen(port, "127.0.0.1", ready);
  },
  client: (url, tls) => {
    const options = { ...tls, protocols: ["tea", "coffee"] };
    talk(ws.connect(url, options), () => process.exit(0));
  },
});
