// Peer on nhooyr.io/websocket (Go, later renamed coder/websocket), in both roles.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"nhooyr.io/websocket"
)

// The linker sets the version, because the library has no constant for it.
var version = "unknown"

// handle sends each message back and obeys the commands until the connection ends.
// `compressed` is empty if the library cannot say whether compression was negotiated.
func handle(connection *websocket.Conn, compressed string) {
	connection.SetReadLimit(1 << 30)
	ctx := context.Background()
	for {
		kind, message, err := connection.Read(ctx)
		if err != nil {
			code, reason := websocket.StatusAbnormalClosure, ""
			var closed websocket.CloseError
			if errors.As(err, &closed) {
				code, reason = closed.Code, closed.Reason
			}
			fmt.Printf("closed %d %s\n", code, reason)
			return
		}
		command, rest, _ := strings.Cut(string(message), " ")
		switch {
		case kind == websocket.MessageBinary:
			err = connection.Write(ctx, kind, message)
		case command == "!protocol":
			err = connection.Write(ctx, kind, []byte(connection.Subprotocol()))
		case command == "!compressed" && compressed != "":
			err = connection.Write(ctx, kind, []byte(compressed))
		case command == "!fragments":
			err = writeFragments(ctx, connection, rest)
		case command == "!close":
			code, reason, _ := strings.Cut(rest, " ")
			number, _ := strconv.Atoi(code)
			// After Close, Read reports the code that Close sent, and not the one of the reply.
			err = connection.Close(websocket.StatusCode(number), reason)
		default:
			err = connection.Write(ctx, kind, message)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "write:", err)
		}
	}
}

// writeFragments sends `text` in three frames: one for each Write, and an empty one for Close.
func writeFragments(ctx context.Context, connection *websocket.Conn, text string) error {
	writer, err := connection.Writer(ctx, websocket.MessageText)
	if err != nil {
		return err
	}
	middle := len(text) / 2
	for _, part := range []string{text[:middle], text[middle:]} {
		if _, err := writer.Write([]byte(part)); err != nil {
			return err
		}
	}
	return writer.Close()
}

func serve(arguments []string) error {
	options := websocket.AcceptOptions{
		CompressionMode: websocket.CompressionContextTakeover,
		Subprotocols:    []string{"coffee"},
	}
	handler := func(response http.ResponseWriter, request *http.Request) {
		connection, err := websocket.Accept(response, request, &options)
		if err != nil {
			fmt.Fprintln(os.Stderr, "accept:", err)
			return
		}
		handle(connection, "")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+arguments[0])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if len(arguments) == 3 {
		return http.ServeTLS(listener, http.HandlerFunc(handler), arguments[1], arguments[2])
	}
	return http.Serve(listener, http.HandlerFunc(handler))
}

func connect(arguments []string) error {
	options := websocket.DialOptions{
		CompressionMode: websocket.CompressionContextTakeover,
		Subprotocols:    []string{"tea", "coffee"},
	}
	if len(arguments) == 2 {
		certificates, err := os.ReadFile(arguments[1])
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(certificates)
		// The client of the opening handshake is an ordinary HTTP client.
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
		options.HTTPClient = &http.Client{Transport: transport}
	}
	connection, response, err := websocket.Dial(context.Background(), arguments[0], &options)
	if err != nil {
		return err
	}
	compressed := "no"
	if strings.Contains(response.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
		compressed = "yes"
	}
	handle(connection, compressed)
	return nil
}

func main() {
	run := map[string]func([]string) error{"server": serve, "client": connect}[os.Args[1]]
	if run == nil {
		fmt.Println(version)
	} else if err := run(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
