/* Peer on libwebsockets (C), in both roles. */
#include <libwebsockets.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Flag of an entry that closes the connection; the others are arguments of lws_write. */
#define CLOSE 0x10000

/* An entry of the write buffer. The library writes its header into LWS_PRE bytes before `data`. */
struct output {
    struct output *next;
    int kind;
    size_t size;
    unsigned char data[];
};

/* A connection. The library allocates it and fills it with zeros. */
struct peer {
    char *message;
    size_t size;
    struct output *first, **last;
    bool compressed;
    char protocol[32];
    int code;
    char reason[128];
};

static bool is_client, is_done;
static int status;

static void enqueue(struct lws *wsi, struct peer *peer, int kind, const char *data, size_t size)
{
    struct output *output = malloc(sizeof *output + LWS_PRE + size + 1);
    output->next = NULL;
    output->kind = kind;
    output->size = size;
    memcpy(output->data + LWS_PRE, data, size);
    output->data[LWS_PRE + size] = 0;
    *peer->last = output;
    peer->last = &output->next;
    lws_callback_on_writable(wsi);
}

/* Obey a command in peer->message, or send the message back. */
static void reply(struct lws *wsi, struct peer *peer)
{
    char *message = peer->message, *rest = strchr(message, ' ');
    bool is_text = !lws_frame_is_binary(wsi);
    size_t size;

    rest = rest ? rest + 1 : message + peer->size;
    size = peer->size - (size_t)(rest - message);
    if (is_text && !strcmp(message, "!protocol")) {
        enqueue(wsi, peer, LWS_WRITE_TEXT, peer->protocol, strlen(peer->protocol));
    } else if (is_text && !strcmp(message, "!compressed")) {
        const char *answer = peer->compressed ? "yes" : "no";
        enqueue(wsi, peer, LWS_WRITE_TEXT, answer, strlen(answer));
    } else if (is_text && !strncmp(message, "!fragments ", 11)) {
        size_t third = size / 3;
        enqueue(wsi, peer, LWS_WRITE_TEXT | LWS_WRITE_NO_FIN, rest, third);
        enqueue(wsi, peer, LWS_WRITE_CONTINUATION | LWS_WRITE_NO_FIN, rest + third, third);
        enqueue(wsi, peer, LWS_WRITE_CONTINUATION, rest + 2 * third, size - 2 * third);
    } else if (is_text && !strncmp(message, "!ping ", 6)) {
        enqueue(wsi, peer, LWS_WRITE_PING, rest, size);
    } else if (is_text && !strncmp(message, "!close ", 7)) {
        enqueue(wsi, peer, CLOSE, rest, size);
    } else {
        enqueue(wsi, peer, is_text ? LWS_WRITE_TEXT : LWS_WRITE_BINARY, message, peer->size);
    }
}

/* Write the first entry. Return -1 to close the connection. */
static int write_output(struct lws *wsi, struct peer *peer)
{
    struct output *output = peer->first;
    unsigned char *data;
    int result = 0;

    if (!output)
        return 0;
    data = output->data + LWS_PRE;
    peer->first = output->next;
    if (!peer->first)
        peer->last = &peer->first;
    if (output->kind == CLOSE) {
        char *reason;
        long code = strtol((char *)data, &reason, 10);
        reason += *reason == ' ';
        lws_close_reason(wsi, (enum lws_close_status)code, (unsigned char *)reason, strlen(reason));
        result = -1;
    } else if (lws_write(wsi, data, output->size, (enum lws_write_protocol)output->kind) < 0) {
        result = -1;
    }
    free(output);
    if (peer->first)
        lws_callback_on_writable(wsi);
    return result;
}

static int callback(struct lws *wsi, enum lws_callback_reasons event, void *user, void *in,
                    size_t size)
{
    struct peer *peer = user;
    char header[256];

    switch (event) {
    case LWS_CALLBACK_CONFIRM_EXTENSION_OKAY: /* the server accepts permessage-deflate */
        if (peer)
            peer->compressed = true;
        return 0;
    case LWS_CALLBACK_CLIENT_FILTER_PRE_ESTABLISH:
        lws_hdr_copy(wsi, peer->protocol, sizeof peer->protocol, WSI_TOKEN_PROTOCOL);
        peer->compressed = lws_hdr_copy(wsi, header, sizeof header, WSI_TOKEN_EXTENSIONS) > 0;
        return 0;
    case LWS_CALLBACK_ESTABLISHED:
        if (lws_hdr_total_length(wsi, WSI_TOKEN_PROTOCOL))
            strcpy(peer->protocol, lws_get_protocol(wsi)->name);
        /* fall through */
    case LWS_CALLBACK_CLIENT_ESTABLISHED:
        peer->last = &peer->first;
        peer->code = 1006;
        return 0;
    case LWS_CALLBACK_RECEIVE:
    case LWS_CALLBACK_CLIENT_RECEIVE:
        peer->message = realloc(peer->message, peer->size + size + 1);
        memcpy(peer->message + peer->size, in, size);
        peer->size += size;
        peer->message[peer->size] = 0;
        if (lws_is_final_fragment(wsi)) {
            reply(wsi, peer);
            peer->size = 0;
        }
        return 0;
    case LWS_CALLBACK_RECEIVE_PONG:
    case LWS_CALLBACK_CLIENT_RECEIVE_PONG:
        snprintf(header, sizeof header, "pong %.*s", (int)size, (char *)in);
        enqueue(wsi, peer, LWS_WRITE_TEXT, header, strlen(header));
        return 0;
    case LWS_CALLBACK_SERVER_WRITEABLE:
    case LWS_CALLBACK_CLIENT_WRITEABLE:
        return write_output(wsi, peer);
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
        peer->code = 1005;
        if (size >= 2) {
            peer->code = ((unsigned char *)in)[0] << 8 | ((unsigned char *)in)[1];
            snprintf(peer->reason, sizeof peer->reason, "%.*s", (int)size - 2, (char *)in + 2);
        }
        return 0;
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
        fprintf(stderr, "connect: %s\n", in ? (char *)in : "failed");
        is_done = true;
        status = 1;
        return 0;
    case LWS_CALLBACK_CLOSED:
    case LWS_CALLBACK_CLIENT_CLOSED:
        printf("closed %d %s\n", peer->code, peer->reason);
        fflush(stdout);
        free(peer->message);
        while (peer->first) {
            struct output *next = peer->first->next;
            free(peer->first);
            peer->first = next;
        }
        is_done = is_client;
        return 0;
    default:
        return 0;
    }
}

/* The client must know all subprotocols that it offers. */
static const struct lws_protocols protocols[] = {
    {"tea", callback, sizeof(struct peer), 0, 0, NULL, 0},
    {"coffee", callback, sizeof(struct peer), 0, 0, NULL, 0},
    {NULL, NULL, 0, 0, 0, NULL, 0},
};
static const struct lws_extension extensions[] = {
    {"permessage-deflate", lws_extension_callback_pm_deflate, "permessage-deflate"},
    {NULL, NULL, NULL},
};

int main(int argc, char **argv)
{
    struct lws_context_creation_info info = {0};
    struct lws_context *context;

    if (!strcmp(argv[1], "version")) {
        printf("%d.%d.%d\n", LWS_LIBRARY_VERSION_MAJOR, LWS_LIBRARY_VERSION_MINOR,
               LWS_LIBRARY_VERSION_PATCH);
        return 0;
    }
    lws_set_log_level(LLL_ERR, NULL);
    is_client = !strcmp(argv[1], "client");
    info.options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
    /* A TLS record of 16 KiB must fit in, or else the library loses bytes of compressed messages. */
    info.pt_serv_buf_size = 1 << 14;
    info.protocols = is_client ? protocols : protocols + 1;
    info.extensions = extensions;
    info.port = is_client ? CONTEXT_PORT_NO_LISTEN : atoi(argv[2]);
    info.iface = is_client ? NULL : "127.0.0.1";
    if (is_client && argc > 3) {
        info.client_ssl_ca_filepath = argv[3];
    } else if (argc > 4) {
        info.ssl_cert_filepath = argv[3];
        info.ssl_private_key_filepath = argv[4];
    }
    context = lws_create_context(&info);
    if (!context)
        return 1;
    if (is_client) {
        struct lws_client_connect_info connection = {0};
        const char *scheme, *path;
        char target[256], host[256];
        if (lws_parse_uri(argv[2], &scheme, &connection.address, &connection.port, &path))
            return 1;
        snprintf(target, sizeof target, "%s%s", *path == '/' ? "" : "/", path);
        snprintf(host, sizeof host, "%s:%d", connection.address, connection.port);
        connection.context = context;
        connection.ssl_connection = argc > 3 ? LCCSCF_USE_SSL : 0;
        connection.path = target;
        connection.host = host;
        connection.protocol = "tea, coffee";
        lws_client_connect_via_info(&connection);
    } else {
        puts("ready");
        fflush(stdout);
    }
    while (!is_done && lws_service(context, 0) >= 0)
        ;
    lws_context_destroy(context);
    return status;
}
