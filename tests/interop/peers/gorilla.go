// Peer on gorilla/websocket (Go), in both roles.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// The linker sets the version, because the library has no constant for it.
var version = "unknown"

// handle sends each message back and obeys the commands until the connection ends.
// `compressed` is empty if the library cannot say whether compression was negotiated.
func handle(connection *websocket.Conn, compressed string) {
	defer connection.Close()
	connection.SetPongHandler(func(payload string) error {
		return connection.WriteMessage(websocket.TextMessage, []byte("pong "+payload))
	})
	for {
		kind, message, err := connection.ReadMessage()
		if err != nil {
			code, reason := websocket.CloseAbnormalClosure, ""
			var closed *websocket.CloseError
			if errors.As(err, &closed) && closed.Code != code {
				code, reason = closed.Code, closed.Text
			}
			fmt.Printf("closed %d %s\n", code, reason)
			return
		}
		command, rest, _ := strings.Cut(string(message), " ")
		switch {
		case kind == websocket.BinaryMessage:
			err = connection.WriteMessage(kind, message)
		case command == "!protocol":
			err = connection.WriteMessage(kind, []byte(connection.Subprotocol()))
		case command == "!compressed" && compressed != "":
			err = connection.WriteMessage(kind, []byte(compressed))
		case command == "!ping":
			err = connection.WriteControl(websocket.PingMessage, []byte(rest), deadline())
		case command == "!close":
			code, reason, _ := strings.Cut(rest, " ")
			number, _ := strconv.Atoi(code)
			payload := websocket.FormatCloseMessage(number, reason)
			err = connection.WriteControl(websocket.CloseMessage, payload, deadline())
		default:
			err = connection.WriteMessage(kind, message)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "write:", err)
		}
	}
}

func deadline() time.Time {
	return time.Now().Add(5 * time.Second)
}

func serve(arguments []string) error {
	upgrader := websocket.Upgrader{EnableCompression: true, Subprotocols: []string{"coffee"}}
	handler := func(response http.ResponseWriter, request *http.Request) {
		connection, err := upgrader.Upgrade(response, request, nil)
		if err != nil {
			fmt.Fprintln(os.Stderr, "upgrade:", err)
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
	dialer := websocket.Dialer{EnableCompression: true, Subprotocols: []string{"tea", "coffee"}}
	if len(arguments) == 2 {
		certificates, err := os.ReadFile(arguments[1])
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(certificates)
		dialer.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	connection, response, err := dialer.Dial(arguments[0], nil)
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
