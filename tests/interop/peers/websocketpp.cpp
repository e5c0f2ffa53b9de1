// Peer on WebSocket++ (C++), in both roles.
#include <iostream>
#include <map>
#include <websocketpp/client.hpp>
#include <websocketpp/config/asio.hpp>
#include <websocketpp/config/asio_client.hpp>
#include <websocketpp/extensions/permessage_deflate/enabled.hpp>
#include <websocketpp/server.hpp>
#include <websocketpp/version.hpp>

namespace ssl = boost::asio::ssl;
using websocketpp::connection_hdl;
using websocketpp::frame::opcode::text;

// A configuration of the library, with compression and messages of any size.
template <class Base>
struct config : Base {
    struct permessage_deflate_config {};
    using permessage_deflate_type =
        websocketpp::extensions::permessage_deflate::enabled<permessage_deflate_config>;
    static const size_t max_message_size = 1 << 30;
};

// Obey a command, or send the message back.
template <class Connection, class Message>
void reply(Connection connection, Message message) {
    const std::string& payload = message->get_payload();
    auto space = std::min(payload.find(' '), payload.size());
    auto command = payload.substr(0, space);
    auto rest = payload.substr(std::min(space + 1, payload.size()));
    if (message->get_opcode() != text) command.clear();
    if (command == "!protocol") {
        connection->send(connection->get_response_header("Sec-WebSocket-Protocol"), text);
    } else if (command == "!compressed") {
        auto response = connection->get_response_header("Sec-WebSocket-Extensions");
        connection->send(std::string(response.empty() ? "no" : "yes"), text);
    } else if (command == "!ping") {
        connection->ping(rest);
    } else if (command == "!close") {
        auto end = std::min(rest.find(' '), rest.size());
        auto code = static_cast<websocketpp::close::status::value>(std::stoi(rest.substr(0, end)));
        connection->close(code, rest.substr(std::min(end + 1, rest.size())));
    } else {
        connection->send(payload, message->get_opcode());
    }
}

template <class Endpoint>
void prepare(Endpoint& endpoint) {
    endpoint.clear_access_channels(websocketpp::log::alevel::all);
    endpoint.clear_error_channels(websocketpp::log::elevel::all);
    endpoint.init_asio();
    endpoint.set_message_handler([&](connection_hdl handle, typename Endpoint::message_ptr message) {
        reply(endpoint.get_con_from_hdl(handle), message);
    });
    endpoint.set_pong_handler([&](connection_hdl handle, std::string payload) {
        endpoint.get_con_from_hdl(handle)->send("pong " + payload, text);
    });
    endpoint.set_close_handler([&](connection_hdl handle) {
        auto connection = endpoint.get_con_from_hdl(handle);
        std::cout << "closed " << connection->get_remote_close_code() << ' '
                  << connection->get_remote_close_reason() << std::endl;
    });
}

template <class Base>
void serve(char** argv, std::function<void(websocketpp::server<config<Base>>&)> secure) {
    websocketpp::server<config<Base>> server;
    prepare(server);
    secure(server);
    server.set_reuse_addr(true);
    server.set_validate_handler([&](connection_hdl handle) {
        auto connection = server.get_con_from_hdl(handle);
        for (auto& name : connection->get_requested_subprotocols())
            if (name == "coffee") connection->select_subprotocol(name);
        return true;
    });
    server.listen("127.0.0.1", argv[2]);
    server.start_accept();
    std::cout << "ready" << std::endl;
    server.run();
}

template <class Base>
void connect(char** argv, std::function<void(websocketpp::client<config<Base>>&)> secure) {
    websocketpp::client<config<Base>> client;
    prepare(client);
    secure(client);
    client.set_fail_handler([&](connection_hdl handle) {
        std::cerr << "connect: " << client.get_con_from_hdl(handle)->get_ec().message() << std::endl;
        std::exit(1);
    });
    websocketpp::lib::error_code error;
    auto connection = client.get_connection(argv[2], error);
    if (error) throw websocketpp::exception(error);
    connection->add_subprotocol("tea");
    connection->add_subprotocol("coffee");
    client.connect(connection);
    client.run();
}

int main(int argc, char** argv) try {
    using websocketpp::config::asio;
    using websocketpp::config::asio_client;
    using websocketpp::config::asio_tls;
    using websocketpp::config::asio_tls_client;
    std::string role = argv[1];
    if (role == "server" && argc == 3) {
        serve<asio>(argv, [](auto&) {});
    } else if (role == "server") {
        serve<asio_tls>(argv, [argv](auto& server) {
            server.set_tls_init_handler([argv](connection_hdl) {
                auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
                context->use_certificate_chain_file(argv[3]);
                context->use_private_key_file(argv[4], ssl::context::pem);
                return context;
            });
        });
    } else if (role == "client" && argc == 3) {
        connect<asio_client>(argv, [](auto&) {});
    } else if (role == "client") {
        connect<asio_tls_client>(argv, [argv](auto& client) {
            client.set_tls_init_handler([argv](connection_hdl) {
                auto context = std::make_shared<ssl::context>(ssl::context::tls_client);
                context->load_verify_file(argv[3]);
                context->set_verify_mode(ssl::verify_peer);
                return context;
            });
        });
    } else {
        std::cout << websocketpp::major_version << '.' << websocketpp::minor_version << '.'
                  << websocketpp::patch_version << std::endl;
    }
} catch (const std::exception& failure) {
    std::cerr << failure.what() << std::endl;
    return 1;
}
