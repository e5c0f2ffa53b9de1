/* The floor in C: the cost of the kernel, without checks or buffers.
 *
 * `floor chat` sends each message to all other peers, in one write per peer and loop
 * iteration; `floor echo` sends it back. It expects masked text frames of under 126
 * bytes, in any chunks. Build with `cc -O2`.
 */

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PEERS = 16384, READ = 1 << 16, OUTPUT = 1 << 22 };

struct peer {
    int index;           /* in `room`, -1 before the handshake */
    int kept;            /* size of `rest` */
    unsigned char *rest; /* an incomplete frame or request */
    int sent_in;         /* the last loop iteration in which the peer sent a frame */
};

struct chunk {
    int sender;
    size_t begin, end;
};

static struct peer peers[PEERS];
static int room[PEERS], members;
static unsigned char output[OUTPUT]; /* the frames of this iteration */
static unsigned char merged[OUTPUT]; /* the same without the frames of one sender */
static struct chunk chunks[OUTPUT / 8];
static size_t used;
static int count, iteration;

static uint32_t rotate(uint32_t word, int bits) { return word << bits | word >> (32 - bits); }

/* SHA-1 (RFC 3174) of a key and the GUID, 60 bytes; the second block is padding. */
static void sha1(const char *text, unsigned char digest[20])
{
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char data[128] = {0};
    memcpy(data, text, 60);
    data[60] = 0x80;
    data[126] = 60 * 8 >> 8;
    data[127] = 60 * 8 & 255;
    for (int block = 0; block < 128; block += 64) {
        uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 16; i++) {
            const unsigned char *at = data + block + 4 * i;
            w[i] = (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
        }
        for (int i = 16; i < 80; i++)
            w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        for (int i = 0; i < 80; i++) {
            static const uint32_t k[] = {0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6};
            uint32_t f = i / 20 == 0   ? (b & c) | (~b & d)
                         : i / 20 == 2 ? (b & c) | (b & d) | (c & d)
                                       : b ^ c ^ d;
            uint32_t next = rotate(a, 5) + f + e + w[i] + k[i / 20];
            e = d, d = c, c = rotate(b, 30), b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++)
        digest[i] = h[i / 4] >> (24 - i % 4 * 8);
}

/* Blocks, where a server would buffer the rest. */
static void send_all(int fd, const unsigned char *data, size_t size)
{
    ssize_t sent;
    for (; size && (sent = send(fd, data, size, MSG_NOSIGNAL)) > 0; size -= sent)
        data += sent;
}

static void answer(int fd, const char *request)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *key = strstr(request, "Sec-WebSocket-Key: ");
    char text[61], proof[29] = {0}, head[256];
    unsigned char digest[21] = {0};
    if (!key)
        return;
    memcpy(text, key + 19, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 37);
    sha1(text, digest);
    for (int i = 0; i < 28; i++) {
        int bit = i * 6, two = digest[bit / 8] << 8 | (bit / 8 < 20 ? digest[bit / 8 + 1] : 0);
        proof[i] = i < 27 ? digits[two >> (10 - bit % 8) & 63] : '=';
    }
    int size = sprintf(head,
                       "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                       "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                       proof);
    send_all(fd, (unsigned char *)head, size);
    peers[fd].index = members;
    room[members++] = fd;
}

static void leave(int fd)
{
    int index = peers[fd].index;
    if (index >= 0) {
        room[index] = room[--members];
        peers[room[index]].index = index;
    }
    free(peers[fd].rest);
    close(fd);
}

/* Append the complete frames to `output`, unmasked; return their size in `data`. */
static int parse(int fd, unsigned char *data, int size)
{
    int at = 0;
    size_t begin = used;
    while (at + 6 <= size && at + 6 + (data[at + 1] & 127) <= size) {
        int length = data[at + 1] & 127;
        output[used++] = data[at];
        output[used++] = length;
        for (int i = 0; i < length; i++)
            output[used++] = data[at + 6 + i] ^ data[at + 2 + i % 4];
        at += 6 + length;
    }
    if (used > begin) {
        chunks[count++] = (struct chunk){fd, begin, used};
        peers[fd].sent_in = iteration;
    }
    return at;
}

static void receive(int fd)
{
    static unsigned char data[2 * READ + 1];
    struct peer *peer = &peers[fd];
    memcpy(data, peer->rest, peer->kept);
    ssize_t got = recv(fd, data + peer->kept, READ, 0);
    if (got <= 0) {
        leave(fd);
        return;
    }
    int size = peer->kept + got, parsed = 0;
    data[size] = 0;
    if (peer->index >= 0)
        parsed = parse(fd, data, size);
    else if (strstr((char *)data, "\r\n\r\n")) {
        answer(fd, (char *)data);
        parsed = size;
    }
    peer->kept = size - parsed;
    if (peer->kept) {
        peer->rest = realloc(peer->rest, peer->kept);
        memcpy(peer->rest, data + parsed, peer->kept);
    }
}

static void deliver(int echo)
{
    for (int i = 0; i < count && echo; i++)
        send_all(chunks[i].sender, output + chunks[i].begin, chunks[i].end - chunks[i].begin);
    for (int i = 0; i < members && !echo; i++) {
        int fd = room[i];
        size_t size = 0;
        if (peers[fd].sent_in != iteration) {
            send_all(fd, output, used);
            continue;
        }
        for (int j = 0; j < count; j++)
            if (chunks[j].sender != fd) {
                memcpy(merged + size, output + chunks[j].begin, chunks[j].end - chunks[j].begin);
                size += chunks[j].end - chunks[j].begin;
            }
        send_all(fd, merged, size);
    }
}

int main(int arguments, char **argument)
{
    int echo = arguments > 1 && !strcmp(argument[1], "echo"), on = 1;
    int listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    static struct epoll_event events[PEERS];
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1024))
        return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    printf("floor is ready: ws://127.0.0.1:%d/\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(epoll, events, PEERS, -1);
        iteration++, used = 0, count = 0;
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                /* When `output` is full, the next iteration reads the rest. */
                if (used < OUTPUT - 2 * READ)
                    receive(fd);
                continue;
            }
            fd = accept(listener, 0, 0);
            if (fd < 0 || fd >= PEERS)
                continue;
            peers[fd] = (struct peer){.index = -1};
            event.data.fd = fd;
            epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
        }
        if (count)
            deliver(echo);
    }
}
