// `ws` on Node.js with the same task as ours: node rival_ws.cjs chat | echo

const { WebSocket, WebSocketServer } = require("ws");

const echo = process.argv[2] === "echo";
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: false });

server.on("connection", (peer) => {
  peer.on("error", () => {}); // the client closes without closing handshakes
  peer.on("message", (data, isBinary) => {
    if (echo) {
      peer.send(data, { binary: isBinary });
      return;
    }
    for (const other of server.clients) {
      if (other !== peer && other.readyState === WebSocket.OPEN) {
        other.send(data, { binary: isBinary });
      }
    }
  });
});

server.on("listening", () => {
  console.log(`ws is ready: ws://127.0.0.1:${server.address().port}/`);
});
