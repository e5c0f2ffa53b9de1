// Peer on java.net.http.WebSocket, the client of the JDK.

import java.io.FileInputStream;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.CountDownLatch;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class JdkPeer implements WebSocket.Listener {
    private final StringBuilder text = new StringBuilder();
    private ByteBuffer binary = ByteBuffer.allocate(0);
    private final CountDownLatch closed = new CountDownLatch(1);

    @Override
    public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
        text.append(part);
        if (!last) {
            socket.request(1);
            return null;
        }
        String message = text.toString();
        text.setLength(0);
        return next(socket, reply(socket, message));
    }

    @Override
    public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer part, boolean last) {
        ByteBuffer joined = ByteBuffer.allocate(binary.remaining() + part.remaining());
        binary = joined.put(binary).put(part).flip();
        if (!last) {
            socket.request(1);
            return null;
        }
        ByteBuffer message = binary;
        binary = ByteBuffer.allocate(0);
        return next(socket, socket.sendBinary(message, true));
    }

    @Override
    public CompletionStage<?> onPong(WebSocket socket, ByteBuffer payload) {
        return next(socket, socket.sendText("pong " + StandardCharsets.UTF_8.decode(payload), true));
    }

    @Override
    public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
        System.out.println("closed " + code + " " + reason);
        closed.countDown();
        return null; // the library replies with the same code
    }

    @Override
    public void onError(WebSocket socket, Throwable error) {
        System.err.println("receive: " + error);
        System.out.println("closed 1006 ");
        closed.countDown();
    }

    /** Request the next message after a send, because a second send must wait for the first. */
    private static CompletionStage<?> next(WebSocket socket, CompletionStage<WebSocket> sent) {
        return sent.whenComplete((result, error) -> {
            if (error != null) System.err.println("send: " + error);
            socket.request(1);
        });
    }

    /** Obey a command, or send the message back. */
    private static CompletableFuture<WebSocket> reply(WebSocket socket, String message) {
        String[] words = message.split(" ", 2);
        String rest = words.length > 1 ? words[1] : "";
        switch (words[0]) {
            case "!protocol":
                return socket.sendText(socket.getSubprotocol(), true);
            case "!fragments":
                // The library rejects a fragment that ends between two surrogates.
                int third = rest.codePointCount(0, rest.length()) / 3;
                int first = rest.offsetByCodePoints(0, third);
                int second = rest.offsetByCodePoints(first, third);
                return socket.sendText(rest.substring(0, first), false)
                    .thenCompose(sent -> sent.sendText(rest.substring(first, second), false))
                    .thenCompose(sent -> sent.sendText(rest.substring(second), true));
            case "!ping":
                return socket.sendPing(StandardCharsets.UTF_8.encode(rest));
            case "!close":
                String[] close = rest.split(" ", 2);
                return socket.sendClose(Integer.parseInt(close[0]), close.length > 1 ? close[1] : "");
            default:
                return socket.sendText(message, true);
        }
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

    public static void main(String[] arguments) throws Exception {
        if (arguments[0].equals("version")) {
            System.out.println(System.getProperty("java.version"));
            return;
        }
        HttpClient.Builder client = HttpClient.newBuilder();
        if (arguments.length > 2) client.sslContext(trust(arguments[2]));
        JdkPeer peer = new JdkPeer();
        client.build().newWebSocketBuilder().subprotocols("tea", "coffee")
            .buildAsync(URI.create(arguments[1]), peer).join();
        peer.closed.await();
        // The library replies after onClose, and does not tell when it has written the reply.
        Thread.sleep(200);
        System.exit(0);
    }
}
