//! Peer on tungstenite (Rust), in both roles, with one thread per client.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::{env, error::Error, fs, process::exit, thread};

use native_tls::{Certificate, Identity, TlsAcceptor, TlsConnector};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::HeaderValue;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::{accept_hdr, client, Message, WebSocket};

const PROTOCOLS: &str = "Sec-WebSocket-Protocol";

type Outcome = Result<(), Box<dyn Error>>;

/// Obey a command, or send the message back.
fn reply<S: Read + Write>(
    socket: &mut WebSocket<S>,
    text: &str,
    protocol: &str,
) -> tungstenite::Result<()> {
    let (command, rest) = text.split_once(' ').unwrap_or((text, ""));
    match command {
        "!protocol" => socket.send(Message::text(protocol)),
        "!fragments" => {
            let bytes = rest.as_bytes();
            let (first, second) = (bytes.len() / 3, bytes.len() * 2 / 3);
            let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            for (number, part) in parts.into_iter().enumerate() {
                let opcode = if number == 0 { Data::Text } else { Data::Continue };
                let frame = Frame::message(part.to_vec(), OpCode::Data(opcode), number == 2);
                socket.send(Message::Frame(frame))?;
            }
            Ok(())
        }
        "!ping" => socket.send(Message::Ping(rest.to_owned().into())),
        "!close" => {
            let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            let code = code.parse::<u16>().unwrap_or(1011).into();
            socket.close(Some(CloseFrame { code, reason: reason.to_owned().into() }))
        }
        _ => socket.send(Message::text(text)),
    }
}

/// Serve an open connection until its end.
fn handle<S: Read + Write>(mut socket: WebSocket<S>, protocol: &str) {
    let mut closed = "1006 ".to_owned();
    loop {
        let sent = match socket.read() {
            Ok(Message::Text(text)) => reply(&mut socket, &text, protocol),
            Ok(Message::Pong(payload)) => {
                socket.send(Message::text(format!("pong {}", String::from_utf8_lossy(&payload))))
            }
            // The next call of `read` sends the reply, and returns an error at the end of TCP.
            Ok(Message::Close(Some(frame))) => {
                closed = format!("{} {}", u16::from(frame.code), frame.reason);
                Ok(())
            }
            Ok(Message::Close(None)) => {
                closed = "1005 ".to_owned();
                Ok(())
            }
            Ok(message @ Message::Binary(_)) => socket.send(message),
            Ok(_) => Ok(()), // the library answers a Ping
            Err(_) => break,
        };
        if let Err(error) = sent {
            eprintln!("send: {error}");
        }
    }
    println!("closed {closed}");
}

fn accept<S: Read + Write>(stream: S) {
    let mut protocol = "";
    let choose = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let mut offers = request.headers().get_all(PROTOCOLS).iter().filter_map(|v| v.to_str().ok());
        if offers.any(|offer| offer.split(',').any(|name| name.trim() == "coffee")) {
            protocol = "coffee";
            response.headers_mut().insert(PROTOCOLS, HeaderValue::from_static("coffee"));
        }
        Ok(response)
    };
    match accept_hdr(stream, choose) {
        Ok(socket) => handle(socket, protocol),
        Err(error) => eprintln!("accept: {error}"),
    }
}

fn serve(arguments: &[String]) -> Outcome {
    let tls = match arguments {
        [_, certificate, key] => {
            let identity = Identity::from_pkcs8(&fs::read(certificate)?, &fs::read(key)?)?;
            Some(TlsAcceptor::new(identity)?)
        }
        _ => None,
    };
    let listener = TcpListener::bind(format!("127.0.0.1:{}", arguments[0]))?;
    println!("ready");
    for stream in listener.incoming() {
        let (stream, tls) = (stream?, tls.clone());
        thread::spawn(move || match tls {
            None => accept(stream),
            Some(tls) => match tls.accept(stream) {
                Ok(stream) => accept(stream),
                Err(error) => eprintln!("TLS: {error}"),
            },
        });
    }
    Ok(())
}

fn connect(arguments: &[String]) -> Outcome {
    let mut request = arguments[0].as_str().into_client_request()?;
    request.headers_mut().insert(PROTOCOLS, HeaderValue::from_static("tea, coffee"));
    let host = request.uri().host().ok_or("URL: no host")?.to_owned();
    let port = request.uri().port_u16().ok_or("URL: no port")?;
    let stream = TcpStream::connect((host.as_str(), port))?;
    if let Some(authority) = arguments.get(1) {
        let certificate = Certificate::from_pem(&fs::read(authority)?)?;
        let connector = TlsConnector::builder().add_root_certificate(certificate).build()?;
        open(request, connector.connect(&host, stream)?)
    } else {
        open(request, stream)
    }
}

fn open<S: Read + Write>(request: Request, stream: S) -> Outcome {
    let (socket, response) = client(request, stream).map_err(|error| error.to_string())?;
    let protocol = response.headers().get(PROTOCOLS).map_or("", |value| value.to_str().unwrap_or(""));
    handle(socket, protocol);
    Ok(())
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments[0].as_str() {
        "server" => serve(&arguments[1..]),
        "client" => connect(&arguments[1..]),
        _ => Ok(println!("{}", env!("TUNGSTENITE_VERSION"))),
    };
    if let Err(error) = outcome {
        eprintln!("{error}");
        exit(1);
    }
}
