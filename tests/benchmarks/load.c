/* The load client: connects peers to a server, sends, checks and counts every delivery.
 *
 * Build: cc -O2 -o load load.c -lm
 * Usage: load --port PORT [--server PID] [--seconds 2] and one of these loads:
 *   --peers 100 --senders 10 --window 64   a room in which 64 messages are in flight
 *   --peers 200 --senders 200 --rate 600   a room with 600 messages/s at random moments
 *   --peers 100 --echo                     round trips, one message of each peer in flight
 *   --peers 5000 --idle                    silent peers, whose Pings are answered
 *   --handshakes                           connections, one after the other
 * Options of a room: --chat speaks chat.v1, --nats the protocol of NATS, --rooms N spreads
 * the peers evenly over N rooms. Without --server, no CPU time or memory is measured. A
 * delivery is lost after --patience seconds without any.
 *
 * A message goes to every peer of its room, except its sender in plain mode. Each text has
 * 64 bytes: "@", the sender, its sequence number, the time in ns, dots. Each peer must
 * receive all sequence numbers of each sender, each one once and in order. Every tenth peer
 * measures latencies. The figures are one line of JSON. On an error, the program prints it
 * and exits with status 1.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PEERS = 16384, READ = 1 << 18, WRITE = 1 << 20, TEXT = 64, HEAD = 29, SAMPLES = 1 << 22 };
enum { FIRST = 20 };   /* idle peers that connect before memory is measured */
enum { SAMPLED = 10 }; /* one in this many peers measures latencies */

static const double SETTLE = 0.2;   /* servers may add a peer to its room after the handshake */
static const double PRESENCE = 1.2; /* chatd sends presence to large rooms once a second */
static const double QUIET = 0.05;   /* wait for deliveries that must not come */
static const double WARM_UP = 0.1;  /* of the measured time */

struct peer {
    int fd, joined;
    unsigned char *rest; /* an incomplete frame */
    size_t kept;         /* size of `rest` */
    long long last_id;   /* chat.v1: the last message */
    uint32_t *expected;  /* the next sequence number of each sender of the room */
};

/* Options. */
static int port, server, peers = 100, senders = 1, rooms = 1, window;
static int chat, nats, echo, idle, handshakes;
static double rate, seconds = 2;
static int patience = 10; /* seconds without a delivery after which it is lost */

static struct peer all[PEERS];
static uint32_t sent_by[PEERS];
static uint64_t sent, delivered, pings; /* since the start */
static int epoll, per_room, running = 1;
static double receivers; /* of a message */
static float latencies[SAMPLES], sender_latencies[SAMPLES];
static int samples, sender_samples;
static unsigned char dots[TEXT];

/* Figures at the beginning of the measured time. */
static uint64_t first_delivered, first_sent, first_pings;
static double begin, server_begin, client_begin;

/* Figures of the measured time. */
static double elapsed, server_taken, client_taken, counted, messages, pings_counted;

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("\n", stderr);
    exit(1);
}

static uint64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static double now(void) { return nanoseconds() / 1e9; }

static uint32_t random_word(void)
{
    static uint32_t state = 2463534242; /* xorshift: the same load for all contenders */
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return state;
}

/* Return the CPU seconds of all threads of the server. */
static double server_cpu(void)
{
    char path[128];
    double total = 0;
    struct dirent *task;
    snprintf(path, sizeof path, "/proc/%d/task", server);
    DIR *tasks = server ? opendir(path) : NULL;
    while (tasks && (task = readdir(tasks))) {
        unsigned long long taken = 0;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/schedstat", server, task->d_name);
        FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (file && fscanf(file, "%llu", &taken) == 1)
            total += taken / 1e9;
        if (file)
            fclose(file);
    }
    if (tasks)
        closedir(tasks);
    return total;
}

/* Return the resident memory of the server in KiB, shared pages included. */
static double resident(void)
{
    char path[64];
    long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", server);
    FILE *file = server ? fopen(path, "r") : NULL;
    if (file && fscanf(file, "%*d %ld", &pages) != 1)
        fail("%s: unexpected content", path);
    if (file)
        fclose(file);
    return pages * (sysconf(_SC_PAGESIZE) / 1024.0);
}

static double client_cpu(void) { return clock() / (double)CLOCKS_PER_SEC; }

static void start_clock(void)
{
    first_delivered = delivered, first_sent = sent, first_pings = pings;
    samples = sender_samples = 0;
    server_begin = server_cpu(), client_begin = client_cpu(), begin = now();
}

static void stop_clock(void)
{
    elapsed = now() - begin, running = 0;
    server_taken = server_cpu() - server_begin, client_taken = client_cpu() - client_begin;
    counted = delivered - first_delivered, messages = sent - first_sent;
    pings_counted = pings - first_pings;
}

/* Return whether to go on: for `seconds` after the warm-up, and until there is a figure.
 * Starts and stops the clock. */
static int measuring(void)
{
    static double warm;
    double at = now();
    if (!warm)
        warm = at + WARM_UP * seconds;
    if (!begin && at >= warm)
        start_clock();
    if (!begin || at < begin + seconds)
        return 1;
    if (rate ? !samples : delivered == first_delivered) { /* the machine is busy */
        if (at > begin + seconds + patience)
            fail("no delivery within %d s", patience);
        return 1;
    }
    stop_clock();
    return 0;
}

static int by_size(const void *a, const void *b)
{
    float one = *(const float *)a, other = *(const float *)b;
    return (one > other) - (one < other);
}

static void print_latencies(const char *name, float *taken, int count)
{
    if (!count)
        return;
    qsort(taken, count, sizeof *taken, by_size);
    printf(", \"%sp50\": %.4f, \"%sp99\": %.4f, \"%smax\": %.4f", name, taken[count / 2], name,
           taken[(int)(count * 0.99)], name, taken[count - 1]);
}

/* Return the size of a masked frame, written at `out`. */
static size_t frame(unsigned char *out, int opcode, const char *payload, size_t size)
{
    uint32_t key = random_word();
    size_t at = 0;
    out[at++] = 0x80 | opcode;
    out[at++] = 0x80 | (size < 126 ? size : 126);
    if (size >= 126)
        out[at++] = size >> 8, out[at++] = size;
    memcpy(out + at, &key, 4);
    const unsigned char *mask = out + at;
    at += 4;
    for (size_t i = 0; i < size; i++)
        out[at + i] = payload[i] ^ mask[i & 3];
    return at + size;
}

static void send_all(int peer, const unsigned char *data, size_t size)
{
    if (send(all[peer].fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)size)
        fail("peer %d: cannot send %zu bytes at once; the server does not read", peer, size);
}

static void send_frame(int peer, int opcode, const char *payload, size_t size)
{
    unsigned char data[512];
    send_all(peer, data, frame(data, opcode, payload, size));
}

/* Numbers are written in the letters "a" to "p", 4 bits each: no letter needs an escape. */
static void put(char *at, int letters, uint64_t number)
{
    for (int i = letters - 1; i >= 0; i--, number >>= 4)
        at[i] = 'a' + (number & 15);
}

static uint64_t get(const unsigned char *at, int letters)
{
    uint64_t number = 0;
    for (int i = 0; i < letters; i++)
        number = number << 4 | ((at[i] - 'a') & 15);
    return number;
}

static const char SAY[] = "{\"type\":\"say\",\"room\":\"lobby\",\"text\":\"%s\",\"key\":\"%d-%u\"}";

/* Send messages in one write. */
static void send_messages(int sender, int count)
{
    static unsigned char data[WRITE];
    size_t size = 0;
    char text[TEXT + 1], payload[256];
    const char *format = chat ? SAY : nats ? "PUB lobby 64\r\n%s\r\n" : "%s";
    memset(text, '.', TEXT);
    text[0] = '@', text[TEXT] = 0;
    put(text + 1, 4, sender);
    for (int i = 0; i < count; i++) {
        uint32_t number = sent_by[sender]++;
        put(text + 5, 8, number);
        put(text + 13, 16, nanoseconds());
        int length = snprintf(payload, sizeof payload, format, text, sender, number);
        size += frame(data + size, nats ? 2 : 1, payload, length);
        if (size > WRITE - sizeof payload - 8)
            fail("%d messages at once: too many; choose a smaller --window", count);
    }
    sent += count;
    send_all(sender, data, size);
}

/* Check and count one text. */
static void deliver(int peer, const unsigned char *text, size_t size)
{
    if (size < TEXT || memcmp(text + HEAD, dots, TEXT - HEAD))
        fail("peer %d: received %.*s, which differs from what was sent", peer, (int)size, text);
    int sender = get(text + 1, 4);
    uint32_t number = get(text + 5, 8);
    if (sender >= senders || sender % rooms != peer % rooms)
        fail("peer %d: received a message of peer %d, which is not in its room", peer, sender);
    if (sender == peer && !chat && !echo)
        fail("peer %d: received its own message %u", peer, number);
    uint32_t *expected = &all[peer].expected[sender / rooms];
    if (number != *expected)
        fail("peer %d: received message %u of peer %d, expected %u", peer, number, sender,
             *expected);
    ++*expected, ++delivered;
    if (running && peer % SAMPLED == (peers > 1) && samples < SAMPLES) {
        float taken = (nanoseconds() - get(text + 13, 16)) / 1e6f;
        latencies[samples++] = taken;
        if (peer < senders)
            sender_latencies[sender_samples++] = taken;
    }
    if (echo && running)
        send_messages(peer, 1);
}

/* chat.v1: the order of the store is the same for all, and only the sender receives the key. */
static void check_chat(int peer, const unsigned char *data, size_t size, const unsigned char *text)
{
    const char *id = memmem(data, text - data, "\"id\":", 5);
    long long number = id ? atoll(id + 5) : 0;
    if (number <= all[peer].last_id)
        fail("peer %d: received id %lld after %lld", peer, number, all[peer].last_id);
    all[peer].last_id = number;
    int has_key = memmem(data, size, "\"key\":", 6) != NULL;
    if (has_key != ((int)get(text + 1, 4) == peer))
        fail("peer %d: the key of a message belongs to its sender alone", peer);
}

static void take(int peer, int head, const unsigned char *data, size_t size)
{
    const unsigned char *end = data + size, *text;
    if (head == 0x89) {
        send_frame(peer, 10, (const char *)data, size);
        pings++;
        return;
    }
    if (head != (nats ? 0x82 : 0x81))
        fail("peer %d: received a frame that begins with %02x", peer, head);
    if (chat && memmem(data, size, "\"type\":\"error\"", 14))
        fail("peer %d: received %.*s", peer, (int)size, data);
    if (!all[peer].joined) {
        const char *mark = nats ? "PONG\r\n" : "\"type\":\"joined\"";
        all[peer].joined = memmem(data, size, mark, strlen(mark)) != NULL;
        return;
    }
    if (!nats && !chat && (size != TEXT || data[0] != '@'))
        fail("peer %d: received %.*s, which differs from what was sent", peer, (int)size, data);
    /* Presence in chat.v1, and INFO or PING in NATS, has no "@"; a frame of NATS has several. */
    for (; data < end && (text = memchr(data, '@', end - data)); data = text + TEXT) {
        if (chat && end - text > TEXT)
            check_chat(peer, data, end - data, text);
        deliver(peer, text, end - text);
    }
}

/* Take the complete frames; return their size in `data`. */
static size_t parse(int peer, const unsigned char *data, size_t size)
{
    size_t at = 0;
    while (size - at >= 2) {
        const unsigned char *head = data + at;
        size_t length = head[1], start = length < 126 ? 2 : length == 126 ? 4 : 10;
        if (size - at < start)
            break;
        if (head[1] > 127)
            fail("peer %d: received a masked frame", peer);
        if (start > 2)
            length = 0;
        for (size_t i = 2; i < start; i++)
            length = length << 8 | head[i];
        if (size - at - start < length)
            break;
        take(peer, head[0], head + start, length);
        at += start + length;
    }
    return at;
}

static void keep(int peer, const unsigned char *data, size_t size)
{
    if (size > READ)
        fail("peer %d: received a frame of over %d bytes", peer, READ);
    all[peer].kept = size;
    if (size) {
        all[peer].rest = realloc(all[peer].rest, size);
        memcpy(all[peer].rest, data, size);
    }
}

/* Read once; `flags` is 0 to wait for data. */
static void receive(int peer, int flags)
{
    static unsigned char data[2 * READ];
    size_t kept = all[peer].kept;
    if (kept)
        memcpy(data, all[peer].rest, kept);
    ssize_t got = recv(all[peer].fd, data + kept, READ, flags);
    if (got <= 0)
        fail("peer %d: %s", peer, got ? strerror(errno) : "the server closed the connection");
    size_t parsed = parse(peer, data, kept + got);
    keep(peer, data + parsed, kept + got - parsed);
}

/* Read once from each ready peer; return their number. */
static int receive_ready(double timeout)
{
    static struct epoll_event events[PEERS];
    int ready = epoll_wait(epoll, events, PEERS, (int)(timeout * 1000));
    for (int i = 0; i < ready; i++)
        receive(events[i].data.fd, MSG_DONTWAIT);
    return ready;
}

static void await(void)
{
    if (!receive_ready(patience))
        fail("no delivery within %d s: %.0f of %.0f are missing", patience,
             sent * receivers - delivered, sent * receivers);
}

static void settle(double quiet)
{
    for (double end = now() + quiet; now() < end;)
        if (receive_ready(quiet))
            end = now() + quiet;
}

/* The key is that of RFC 6455, 1.3, so the accept value is known. */
static void open_handshake(int peer)
{
    char path[32] = "/", request[512], answer[4096];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval timeout = {.tv_sec = patience};
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    ssize_t size = 0, got;
    char *end = NULL;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
        fail("port %d: %s", port, strerror(errno));
    all[peer] = (struct peer){.fd = fd};
    if (rooms > 1 && !echo)
        snprintf(path, sizeof path, "/r/room-%d", peer % rooms);
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                          "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                          "Sec-WebSocket-Version: 13\r\n%s\r\n",
                          path, port, chat ? "Sec-WebSocket-Protocol: chat.v1\r\n" : "");
    send_all(peer, (unsigned char *)request, length);
    while (!end && (got = recv(fd, answer + size, sizeof answer - 1 - size, 0)) > 0) {
        answer[size += got] = 0;
        end = strstr(answer, "\r\n\r\n");
    }
    if (!end || strncmp(answer, "HTTP/1.1 101 ", 13) ||
        !strstr(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
        fail("handshake: the server answered %.100s", size ? answer : "nothing");
    end += 4;
    keep(peer, (unsigned char *)end, answer + size - end);
}

static void join(int peer)
{
    char text[256];
    open_handshake(peer);
    all[peer].expected = calloc(per_room, sizeof(uint32_t));
    all[peer].joined = !chat && !nats;
    if (chat) {
        sprintf(text, "{\"type\":\"join\",\"room\":\"lobby\",\"name\":\"peer-%d-%d\"}", peer,
                getpid()); /* chatd reserves the names of earlier clients */
        send_frame(peer, 1, text, strlen(text));
    } else if (nats) {
        sprintf(text, "CONNECT {\"verbose\":false,\"echo\":false}\r\nSUB lobby 1\r\nPING\r\n");
        send_frame(peer, 2, text, strlen(text));
    }
    while (!all[peer].joined)
        receive(peer, 0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = peer};
    epoll_ctl(epoll, EPOLL_CTL_ADD, all[peer].fd, &event);
}

/* Send what the window allows, spread over the senders; one write each. */
static void fill_window(void)
{
    static int first;
    int open = window - (int)(sent - (uint64_t)(delivered / receivers));
    if (open > window)
        fail("more messages were delivered than sent");
    int share = open / senders, extra = open % senders;
    for (int step = 0; step < (share ? senders : extra); step++)
        send_messages((first + step) % senders, share + (step < extra));
    first = (first + extra) % senders;
}

/* Send at random moments (a Poisson process), without waiting for deliveries. */
static void send_at_rate(void)
{
    static double next;
    static int sender;
    for (next = next ? next : now(); next <= now(); sender = (sender + 1) % senders) {
        send_messages(sender, 1);
        next -= log((random_word() + 1.0) / 4294967297.0) / rate;
    }
}

/* Every sequence number has arrived; only the last one may be missing or twice. */
static void check_deliveries(void)
{
    while (delivered < sent * receivers)
        await();
    receive_ready(QUIET);
    for (int peer = 0; peer < peers; peer++)
        for (int sender = peer % rooms; sender < senders; sender += rooms) {
            uint32_t got = all[peer].expected[sender / rooms];
            uint32_t due = sender == peer && !chat && !echo ? 0 : sent_by[sender];
            if (got != due)
                fail("peer %d: received %u messages of peer %d, expected %u", peer, got, sender,
                     due);
        }
}

static void print_figures(double memory)
{
    printf("{\"seconds\": %.4f, \"messages\": %.0f, \"deliveries\": %.0f, \"per_second\": %.1f",
           elapsed, messages, counted, counted / elapsed);
    printf(", \"server_core\": %.3f, \"client_core\": %.3f", server_taken / elapsed,
           client_taken / elapsed);
    printf(", \"cpu_us\": %.3f", counted ? server_taken / counted * 1e6 : 0);
    printf(", \"pings\": %.1f, \"memory\": %.3f", pings_counted / elapsed, memory);
    print_latencies("", latencies, samples);
    print_latencies("sender_", sender_latencies, sender_samples);
    puts("}");
}

static void run_room(void)
{
    for (int peer = 0; echo && peer < peers; peer++)
        send_messages(peer, 1);
    while (measuring())
        if (rate) {
            send_at_rate();
            receive_ready(0); /* epoll_wait() rounds a timeout to milliseconds, so poll */
        } else {
            if (!echo)
                fill_window();
            await();
        }
    check_deliveries();
}

static void run_idle(void)
{
    start_clock();
    for (double rest; (rest = begin + seconds - now()) > 0;)
        receive_ready(rest);
    stop_clock();
}

static void run_handshakes(void)
{
    for (; measuring(); delivered++) {
        open_handshake(0);
        close(all[0].fd);
    }
}

static int number(const char *name, const char *text, int low, int high)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || end == text || value < low || value > high)
        fail("--%s %s: expected a number from %d to %d", name, text, low, high);
    return value;
}

static void read_options(int count, char **words)
{
    static const struct option options[] = {
        {"port", 1, 0, 'p'},    {"server", 1, 0, 'S'}, {"peers", 1, 0, 'n'},
        {"senders", 1, 0, 's'}, {"rooms", 1, 0, 'R'},  {"window", 1, 0, 'w'},
        {"rate", 1, 0, 'r'},    {"seconds", 1, 0, 't'}, {"patience", 1, 0, 'P'},
        {"chat", 0, &chat, 1},  {"nats", 0, &nats, 1}, {"handshakes", 0, &handshakes, 1},
        {"echo", 0, &echo, 1},  {"idle", 0, &idle, 1}, {0}};
    int letter, index = 0;
    while ((letter = getopt_long(count, words, "", options, &index)) != -1) {
        const char *name = options[index].name;
        switch (letter) {
        case 'p': port = number(name, optarg, 1, 65535); break;
        case 'S': server = number(name, optarg, 1, 1 << 30); break;
        case 'n': peers = number(name, optarg, 1, PEERS); break;
        case 's': senders = number(name, optarg, 1, PEERS); break;
        case 'R': rooms = number(name, optarg, 1, PEERS); break;
        case 'w': window = number(name, optarg, 1, 1 << 20); break;
        case 'r': rate = number(name, optarg, 1, 1 << 20); break;
        case 'P': patience = number(name, optarg, 1, 3600); break;
        case 't': seconds = atof(optarg); break;
        case '?': exit(2);
        }
    }
    if (echo)
        rooms = senders = peers;
    if (!port || (!window && !rate && !echo && !idle && !handshakes))
        fail("--port and one of --window, --rate, --echo, --idle, --handshakes are needed");
    if (senders > peers || peers % rooms || senders % rooms || (rooms > 1 && (chat || nats)))
        fail("--senders, --peers, --rooms: expected plain rooms of equal size that have senders");
    per_room = senders / rooms;
    receivers = peers / rooms - (!chat && !echo);
    if (!receivers && !idle && !handshakes)
        fail("--peers %d: each room needs a second peer to receive", peers);
}

int main(int count, char **words)
{
    struct rlimit descriptors;
    double memory = 0;
    read_options(count, words);
    getrlimit(RLIMIT_NOFILE, &descriptors);
    descriptors.rlim_cur = descriptors.rlim_max;
    setrlimit(RLIMIT_NOFILE, &descriptors);
    memset(dots, '.', sizeof dots);
    epoll = epoll_create1(0);
    if (handshakes)
        run_handshakes();
    for (int peer = 0; peer < peers && !handshakes; peer++) {
        if (peer == FIRST) {
            settle(SETTLE);
            memory = resident();
        }
        join(peer);
    }
    if (!handshakes)
        settle(chat && peers > 200 ? PRESENCE : SETTLE);
    memory = idle && peers > FIRST ? (resident() - memory) / (peers - FIRST) : 0;
    if (idle)
        run_idle();
    else if (!handshakes)
        run_room();
    print_figures(memory);
    return 0;
}
