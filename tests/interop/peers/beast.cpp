// Peer on Boost.Beast (C++), in both roles, with its blocking interface and one thread per client.
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/version.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/beast/websocket/ssl.hpp>
#include <iostream>
#include <regex>
#include <thread>

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
namespace ssl = asio::ssl;
namespace websocket = beast::websocket;
using asio::ip::tcp;
using Plain = websocket::stream<tcp::socket>;
using Secure = websocket::stream<ssl::stream<tcp::socket>>;

// Obey a command, or send the message back. `response` is the response 101.
template <class Stream>
void reply(Stream& stream, const std::string& message, const websocket::response_type& response) {
    auto space = std::min(message.find(' '), message.size());
    auto command = message.substr(0, space);
    auto rest = message.substr(std::min(space + 1, message.size()));
    if (!stream.got_text()) command.clear();
    if (command == "!protocol") {
        stream.write(asio::buffer(std::string(response["Sec-WebSocket-Protocol"])));
    } else if (command == "!compressed" && response.find("Sec-WebSocket-Accept") != response.end()) {
        bool compressed = response["Sec-WebSocket-Extensions"].starts_with("permessage-deflate");
        stream.write(asio::buffer(std::string(compressed ? "yes" : "no")));
    } else if (command == "!fragments") {
        auto third = rest.size() / 3;
        stream.write_some(false, asio::buffer(rest.substr(0, third)));
        stream.write_some(false, asio::buffer(rest.substr(third, third)));
        stream.write_some(true, asio::buffer(rest.substr(2 * third)));
    } else if (command == "!ping") {
        stream.ping(websocket::ping_data(rest));
    } else if (command == "!close") {
        auto end = std::min(rest.find(' '), rest.size());
        auto reason = rest.substr(std::min(end + 1, rest.size()));
        stream.close({static_cast<websocket::close_code>(std::stoi(rest.substr(0, end))), reason});
    } else {
        stream.write(asio::buffer(message));
    }
}

// Serve an open connection until its end.
template <class Stream>
void handle(Stream& stream, const websocket::response_type& response) {
    stream.read_message_max(0);  // no limit
    bool close_received = false;
    stream.control_callback([&](websocket::frame_type kind, beast::string_view payload) {
        if (kind == websocket::frame_type::close) close_received = true;
        if (kind != websocket::frame_type::pong) return;
        stream.text(true);
        stream.write(asio::buffer("pong " + std::string(payload)));
    });
    beast::error_code error;
    while (!error) {
        beast::flat_buffer buffer;
        stream.read(buffer, error);
        if (error) break;
        stream.text(stream.got_text());
        try {
            reply(stream, beast::buffers_to_string(buffer.data()), response);
        } catch (const beast::system_error& failure) {
            std::cerr << "write: " << failure.what() << std::endl;
        }
    }
    // Code 0 stands for a Close frame without a code. Stream::close does not call the callback.
    int code = stream.reason().code;
    if (!code) code = close_received ? 1005 : 1006;
    std::cout << "closed " << code << ' ' << stream.reason().reason << std::endl;
}

template <class Stream>
void allow_compression(Stream& stream) {
    websocket::permessage_deflate options;
    options.server_enable = options.client_enable = true;
    stream.set_option(options);
}

// The library leaves the subprotocol to the program, and does not show its response.
template <class Stream>
void accept(Stream& stream) {
    beast::flat_buffer buffer;
    http::request<http::string_body> request;
    http::read(stream.next_layer(), buffer, request);
    websocket::response_type chosen;
    if (http::token_list(request["Sec-WebSocket-Protocol"]).exists("coffee"))
        chosen.set("Sec-WebSocket-Protocol", "coffee");
    allow_compression(stream);
    stream.set_option(websocket::stream_base::decorator([&](websocket::response_type& response) {
        for (auto& field : chosen) response.set(field.name_string(), field.value());
    }));
    stream.accept(request);
    handle(stream, chosen);
}

void serve(int argc, char** argv) {
    asio::io_context context;
    ssl::context tls(ssl::context::tls_server);
    if (argc == 5) {
        tls.use_certificate_chain_file(argv[3]);
        tls.use_private_key_file(argv[4], ssl::context::pem);
    }
    auto port = static_cast<unsigned short>(std::stoi(argv[2]));
    tcp::acceptor acceptor(context, {asio::ip::make_address("127.0.0.1"), port});
    std::cout << "ready" << std::endl;
    for (;;) {
        std::thread([socket = acceptor.accept(), &tls, argc]() mutable {
            try {
                if (argc == 5) {
                    Secure stream(std::move(socket), tls);
                    stream.next_layer().handshake(ssl::stream_base::server);
                    accept(stream);
                } else {
                    Plain stream(std::move(socket));
                    accept(stream);
                }
            } catch (const std::exception& failure) {
                std::cerr << "accept: " << failure.what() << std::endl;
            }
        }).detach();
    }
}

template <class Stream>
void open(Stream& stream, const std::string& host, const std::string& path) {
    allow_compression(stream);
    stream.set_option(websocket::stream_base::decorator([](websocket::request_type& request) {
        request.set("Sec-WebSocket-Protocol", "tea, coffee");
    }));
    websocket::response_type response;
    stream.handshake(response, host, path);
    handle(stream, response);
}

void connect(int argc, char** argv) {
    std::cmatch url;
    if (!std::regex_match(argv[2], url, std::regex("wss?://([^:/]+):([0-9]+)(/.*)")))
        throw std::invalid_argument("URL: invalid; use ws://HOST:PORT/PATH");
    asio::io_context context;
    auto address = tcp::resolver(context).resolve(tcp::v4(), url.str(1), url.str(2))->endpoint();
    tcp::socket socket(context);
    socket.connect(address);
    auto host = url.str(1) + ':' + url.str(2);
    if (argc == 4) {
        ssl::context tls(ssl::context::tls_client);
        tls.load_verify_file(argv[3]);
        tls.set_verify_mode(ssl::verify_peer);
        Secure stream(std::move(socket), tls);
        stream.next_layer().set_verify_callback(ssl::host_name_verification(url.str(1)));
        stream.next_layer().handshake(ssl::stream_base::client);
        open(stream, host, url.str(3));
    } else {
        Plain stream(std::move(socket));
        open(stream, host, url.str(3));
    }
}

int main(int argc, char** argv) try {
    std::string role = argv[1];
    if (role == "server") serve(argc, argv);
    else if (role == "client") connect(argc, argv);
    else std::cout << BOOST_LIB_VERSION << std::endl;
} catch (const std::exception& failure) {
    std::cerr << failure.what() << std::endl;
    return 1;
}
