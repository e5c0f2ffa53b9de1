// A peer with the WebSocket of `undici`, which is also that of Node.js; it has a client only.
"use strict";

const { Agent, WebSocket } = require("undici");
const { run, talk } = require("./commands.cjs");

run({
  version: require("undici/package.json").version,
  client: (url, tls) => {
    const dispatcher = new Agent({ connect: tls ?? {} });
    talk(new WebSocket(url, { protocols: ["tea", "coffee"], dispatcher }));
  },
});
