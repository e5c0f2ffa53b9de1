// Peer on Apache Tomcat (Java), in both roles, with the interfaces of jakarta.websocket.

import jakarta.websocket.ClientEndpointConfig;
import jakarta.websocket.CloseReason;
import jakarta.websocket.Endpoint;
import jakarta.websocket.EndpointConfig;
import jakarta.websocket.Extension;
import jakarta.websocket.PongMessage;
import jakarta.websocket.RemoteEndpoint;
import jakarta.websocket.Session;
import jakarta.websocket.server.ServerContainer;
import jakarta.websocket.server.ServerEndpointConfig;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.logging.Level;
import java.util.logging.Logger;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.apache.catalina.Context;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;
import org.apache.catalina.util.ServerInfo;
import org.apache.tomcat.util.net.SSLHostConfig;
import org.apache.tomcat.util.net.SSLHostConfigCertificate;
import org.apache.tomcat.websocket.WsWebSocketContainer;
import org.apache.tomcat.websocket.server.WsSci;

public class TomcatPeer extends Endpoint {
    private static final int SIZE_LIMIT = 1 << 24;
    private static final CountDownLatch closed = new CountDownLatch(1);

    @Override
    public void onOpen(Session session, EndpointConfig config) {
        session.setMaxTextMessageBufferSize(SIZE_LIMIT);
        session.setMaxBinaryMessageBufferSize(SIZE_LIMIT);
        RemoteEndpoint.Basic remote = session.getBasicRemote();
        session.addMessageHandler(String.class, message -> attempt(() -> reply(session, message)));
        session.addMessageHandler(
            ByteBuffer.class, message -> attempt(() -> remote.sendBinary(message)));
        session.addMessageHandler(PongMessage.class, pong -> attempt(() -> {
            String payload = StandardCharsets.UTF_8.decode(pong.getApplicationData()).toString();
            remote.sendText("pong " + payload);
        }));
    }

    @Override
    public void onClose(Session session, CloseReason reason) {
        String phrase = reason.getReasonPhrase() == null ? "" : reason.getReasonPhrase();
        System.out.println("closed " + reason.getCloseCode().getCode() + " " + phrase);
        closed.countDown();
    }

    @Override
    public void onError(Session session, Throwable error) {
        System.err.println("session: " + error);
    }

    private interface Action {
        void run() throws IOException;
    }

    private static void attempt(Action action) {
        try {
            action.run();
        } catch (IOException error) {
            System.err.println("send: " + error);
        }
    }

    /** Obey a command, or send the message back. */
    private static void reply(Session session, String message) throws IOException {
        RemoteEndpoint.Basic remote = session.getBasicRemote();
        String[] words = message.split(" ", 2);
        String rest = words.length > 1 ? words[1] : "";
        switch (words[0]) {
            case "!protocol":
                remote.sendText(session.getNegotiatedSubprotocol());
                break;
            case "!compressed":
                remote.sendText(session.getNegotiatedExtensions().isEmpty() ? "no" : "yes");
                break;
            case "!fragments":
                // The library rejects a fragment that ends between two surrogates.
                int third = rest.codePointCount(0, rest.length()) / 3;
                int first = rest.offsetByCodePoints(0, third);
                int second = rest.offsetByCodePoints(first, third);
                remote.sendText(rest.substring(0, first), false);
                remote.sendText(rest.substring(first, second), false);
                remote.sendText(rest.substring(second), true);
                break;
            case "!ping":
                remote.sendPing(StandardCharsets.UTF_8.encode(rest));
                break;
            case "!close":
                String[] close = rest.split(" ", 2);
                int code = Integer.parseInt(close[0]);
                String reason = close.length > 1 ? close[1] : "";
                session.close(new CloseReason(CloseReason.CloseCodes.getCloseCode(code), reason));
                break;
            default:
                remote.sendText(message);
        }
    }

    private static void serve(String[] arguments) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(System.getProperty("java.io.tmpdir"));
        Connector connector = new Connector();
        connector.setProperty("address", "127.0.0.1");
        connector.setPort(Integer.parseInt(arguments[1]));
        if (arguments.length > 3) {
            SSLHostConfig host = new SSLHostConfig();
            SSLHostConfigCertificate certificate =
                new SSLHostConfigCertificate(host, SSLHostConfigCertificate.Type.UNDEFINED);
            certificate.setCertificateFile(arguments[2]);
            certificate.setCertificateKeyFile(arguments[3]);
            host.addCertificate(certificate);
            connector.addSslHostConfig(host);
            connector.setProperty("SSLEnabled", "true");
            connector.setScheme("https");
            connector.setSecure(true);
        }
        tomcat.setConnector(connector);
        Context context = tomcat.addContext("", null);
        Tomcat.addServlet(context, "default", "org.apache.catalina.servlets.DefaultServlet");
        context.addServletMappingDecoded("/", "default");
        context.addServletContainerInitializer(new WsSci(), null);
        context.addServletContainerInitializer((classes, servlets) -> {
            String name = ServerContainer.class.getName();
            ServerContainer container = (ServerContainer) servlets.getAttribute(name);
            try {
                for (String path : List.of("/", "/no-context-takeover")) {
                    container.addEndpoint(
                        ServerEndpointConfig.Builder.create(TomcatPeer.class, path)
                            .subprotocols(List.of("coffee")).build());
                }
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        }, null);
        tomcat.start();
        System.out.println("ready");
        tomcat.getServer().await();
    }

    /** Return a TLS configuration that trusts the certificate in a PEM file. */
    private static SSLContext trust(String file) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null);
        try (InputStream stream = new FileInputStream(file)) {
            CertificateFactory certificates = CertificateFactory.getInstance("X.509");
            store.setCertificateEntry("authority", certificates.generateCertificate(stream));
        }
        TrustManagerFactory managers =
            TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }

    private static void connect(String[] arguments) throws Exception {
        WsWebSocketContainer container = new WsWebSocketContainer();
        ClientEndpointConfig.Builder config = ClientEndpointConfig.Builder.create()
            .preferredSubprotocols(List.of("tea", "coffee"))
            .extensions(new ArrayList<Extension>(container.getInstalledExtensions()));
        if (arguments.length > 2) config.sslContext(trust(arguments[2]));
        container.connectToServer(new TomcatPeer(), config.build(), URI.create(arguments[1]));
        closed.await();
        System.exit(0);
    }

    public static void main(String[] arguments) throws Exception {
        Logger.getLogger("org.apache").setLevel(Level.WARNING);
        if (arguments[0].equals("server")) serve(arguments);
        else if (arguments[0].equals("client")) connect(arguments);
        else System.out.println(ServerInfo.getServerNumber());
    }
}
