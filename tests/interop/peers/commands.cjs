// Parts of the peers in JavaScript: commands in messages, and the output.
"use strict";

const fs = require("node:fs");

const thirds = (text) => {
  const characters = [...text];
  const size = Math.max(1, Math.floor(characters.length / 3));
  const part = (from, to) => characters.slice(from, to).join("");
  return [part(0, size), part(size, 2 * size), part(2 * size)];
};

// Call the function of `commands` for a text message; an echo has the name "".
const answer = (text, commands) => {
  if (!text.startsWith("!")) return commands[""](text);
  const [, name, argument] = /^!(\w+) ?([^]*)$/.exec(text);
  if (!commands[name]) throw new Error(`command ${name}: unknown; see tests/interop/peer.py`);
  if (name !== "close") return commands[name](argument);
  const [, code, reason] = /^(\d+) ?([^]*)$/.exec(argument);
  return commands.close(Number(code), reason);
};

const ready = () => console.log("ready");
const closed = (code, reason) => console.log(`closed ${code} ${reason ?? ""}`.trimEnd());

// Run the role of the command line.
const run = ({ version, server, client }) => {
  const [role, place, ...files] = process.argv.slice(2);
  if (role === "version") console.log(version);
  const [first, second] = files.map((file) => fs.readFileSync(file));
  if (role === "server") server(Number(place), first && { cert: first, key: second });
  if (role === "client") client(place, first && { ca: first });
};

// Install the client role on a WebSocket with the interface of browsers.
const talk = (socket) => {
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => {
    if (typeof data !== "string") return socket.send(data);
    return answer(data, {
      "": (text) => socket.send(text),
      protocol: () => socket.send(socket.protocol),
      compressed: () => socket.send(socket.extensions.includes("deflate") ? "yes" : "no"),
      close: (code, reason) => socket.close(code, reason),
    });
  };
  socket.onclose = ({ code, reason }) => {
    closed(code, reason);
    process.exit(0);
  };
  socket.onerror = (event) => console.error(event.message ?? event.error ?? "error");
};

module.exports = { answer, closed, ready, run, talk, thirds };
