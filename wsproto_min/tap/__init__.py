"""The command `tap`: a proxy that shows the conversation of any client with any server.

The path of a connection through the tap:

1. `proxy` accepts it and starts a `connection`.
2. `connection` reads the head of the request. `request` changes its headers Host and Origin.
3. `upstream` connects to the server in a thread. From then on, `connection` passes the bytes of
   both ends on, through two `stream` objects.
4. `exchange` looks at the same bytes. `conversation` explains the frames of a WebSocket,
   `refusal` shows the body of a refused handshake, and `ending` describes the end. `recording`
   writes the bytes to a file.
5. `printer` prints the events of `events` through the thread of `output`. `event_json` and `web`
   show them in a browser.

`options` checks the options of the command, and `cli` runs it.
"""
