/* A crowd of SSE clients on one thread, so that it is not the bottleneck of what it measures.
 *
 *   loadgen HOST PORT -c CLIENTS -r RUNS [-x PREFIX] [-p PATH] [-a LAST_EVENT_ID] [-m MARK] [-t SECONDS] [-k KEY]
 *
 * Client i follows run PREFIX-(i % RUNS), whose name stands for %s in PATH. All connect at once; when each has the head
 * of its response, a line of JSON says so. Then commands are taken from stdin, and each is answered by a line:
 *
 *   reset       forgets what was counted
 *   expect N    answers when N deliveries have come since the last reset, or the time is over
 *   quit
 *
 * A delivery is a line that begins with MARK. Its "t.<microseconds of CLOCK_MONOTONIC>" is when its event was appended,
 * by the one clock all processes of a machine share; its age at the read is the lag.
 *
 * With -k a line that begins with MARK has text: what is between KEY and the next quotation mark. An empty KEY means
 * all that follows MARK, unless it begins with a brace. The texts of a client are one sequence of chunks as
 * benchmarks/chunks.py makes them, numbered from 0: a delivery is a chunk, and `wrong` counts those that are not the
 * next one, byte for byte.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUCKETS = 4096, READ_BYTES = 1 << 18, LINE_BYTES = 1 << 18, CHUNK_BYTES = 40, NUMBER_AT = 19, FILLING_AT = 27 };

struct client {
    int fd, headed;
    char *rest; /* of a line that is not whole yet */
    size_t left, room;
    uint64_t next;
    size_t have;
    char chunk[CHUNK_BYTES]; /* that is not whole yet */
};

static struct client *clients;
static int client_count = 1, run_count = 1, left_connected, headed_count, epoll_fd;
static const char *prefix = "bench", *path = "/api/agents/runs/%s/stream", *host = "127.0.0.1";
static int port;
static long cursor = 0, cursor_given = 0;
static uint64_t deliveries, wrong, bytes, lag_count, lag_max, first_us, last_us, lags[BUCKETS];
static const char *mark = "data: {", *key, *filling = ".abcdefghijkl";
static size_t mark_length = 7;
static double cpu_before;
static char buffer[LINE_BYTES + READ_BYTES];

static uint64_t now_us(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000u + (uint64_t)at.tv_nsec / 1000u;
}

/* Lags by bucket: 2 % wide, from 1 us up. */
static int bucket_of(uint64_t us) {
    int exponent = 63 - __builtin_clzll(us | 1);
    int fraction = exponent >= 6 ? (int)((us >> (exponent - 6)) & 63) : (int)((us << (6 - exponent)) & 63);
    int at = exponent * 64 + fraction;
    return at < BUCKETS ? at : BUCKETS - 1;
}

static double value_of(int at) {
    int exponent = at / 64, fraction = at % 64;
    return (double)(1ull << exponent) * (1.0 + fraction / 64.0);
}

static double quantile(double q) {
    uint64_t seen = 0, wanted = (uint64_t)(q * (double)lag_count);
    for (int at = 0; at < BUCKETS; at++)
        if ((seen += lags[at]) > wanted) return value_of(at);
    return (double)lag_max;
}

static double cpu_s(void) {
    struct timespec at;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void fail(const char *what) {
    fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void connect_client(int n) {
    struct client *one = &clients[n];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, host, &to.sin_addr);
    memset(one, 0, sizeof *one);
    one->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (one->fd < 0) fail("socket");
    int yes = 1;
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(one->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) fail("connect");
    struct epoll_event event = {.events = EPOLLOUT, .data.u32 = (uint32_t)n};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, one->fd, &event) < 0) fail("epoll_ctl");
}

static void ask(int n) {
    char run[160], where[400], request[1024];
    snprintf(run, sizeof run, "%s-%d", prefix, n % run_count);
    snprintf(where, sizeof where, path, run);
    int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%d\r\nAccept: text/event-stream\r\n", where,
                          host, port);
    if (cursor_given)
        length += snprintf(request + length, sizeof request - (size_t)length, "Last-Event-ID: %ld\r\n", cursor);
    length += snprintf(request + length, sizeof request - (size_t)length, "\r\n");
    if (send(clients[n].fd, request, (size_t)length, MSG_NOSIGNAL) != length) fail("send");
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)n};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, clients[n].fd, &event);
}

static void delivered(const char *stamp, uint64_t now) {
    deliveries++;
    if (!first_us) first_us = now;
    last_us = now;
    if (!stamp) return;
    uint64_t sent = strtoull(stamp, NULL, 10), lag = now > sent ? now - sent : 0;
    lags[bucket_of(lag)]++;
    lag_count++;
    if (lag > lag_max) lag_max = lag;
}

/* A whole chunk: t.<16 digits of us>.<8 digits of its number><filling> */
static void chunk_of(struct client *one, uint64_t now) {
    uint64_t number = 0;
    int digits = 1;
    for (int at = NUMBER_AT; at < FILLING_AT; at++) {
        digits &= one->chunk[at] >= '0' && one->chunk[at] <= '9';
        number = number * 10 + (uint64_t)(one->chunk[at] - '0');
    }
    if (!digits || number != one->next || memcmp(one->chunk, "t.", 2) != 0 || one->chunk[NUMBER_AT - 1] != '.' ||
        memcmp(one->chunk + FILLING_AT, filling, CHUNK_BYTES - FILLING_AT) != 0)
        wrong++;
    one->next++;
    delivered(one->chunk + 2, now);
}

static void text_of(struct client *one, const char *text, size_t length, uint64_t now) {
    while (length) {
        size_t some = CHUNK_BYTES - one->have;
        if (some > length) some = length;
        memcpy(one->chunk + one->have, text, some);
        one->have += some;
        text += some;
        length -= some;
        if (one->have == CHUNK_BYTES) {
            chunk_of(one, now);
            one->have = 0;
        }
    }
}

/* One complete line of a stream. */
static void line_of(struct client *one, const char *line, size_t length, uint64_t now) {
    if (length < mark_length || memcmp(line, mark, mark_length) != 0) return;
    if (!key) {
        const char *stamp = memmem(line, length, "\"t.", 3);
        delivered(stamp ? stamp + 3 : NULL, now);
        return;
    }
    const char *text = line + mark_length, *end = line + length;
    if (*key) {
        const char *at = memmem(text, (size_t)(end - text), key, strlen(key));
        if (!at) return;
        text = at + strlen(key);
        end = memchr(text, '"', (size_t)(end - text));
        if (!end) return;
    } else if (text < end && *text == '{') {
        return;
    }
    text_of(one, text, (size_t)(end - text), now);
}

/* Every line that is whole; what is left of the last one is kept for the next read. */
static void scan(struct client *one, char *data, size_t length, uint64_t now) {
    char *at = data, *end = data + length, *newline;
    while ((newline = memchr(at, '\n', (size_t)(end - at)))) {
        line_of(one, at, (size_t)(newline - at), now);
        at = newline + 1;
    }
    size_t left = (size_t)(end - at);
    if (left > LINE_BYTES) left = 0; /* no line that counts is as long */
    if (left > one->room) one->rest = realloc(one->rest, one->room = left < 4096 ? 4096 : left);
    if (left) memcpy(one->rest, at, left);
    one->left = left;
}

static void readable(int n) {
    struct client *one = &clients[n];
    for (;;) {
        char *fresh = buffer + one->left;
        if (one->left) memcpy(buffer, one->rest, one->left);
        ssize_t got = recv(one->fd, fresh, READ_BYTES, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (got <= 0) {
            close(one->fd);
            if (one->headed) left_connected--;
            else connect_client(n); /* while a herd overflows the queue of a listener the kernel resets one now and then */
            return;
        }
        if (!one->headed) {
            if (strncmp(fresh, "HTTP/1.1 200", 12) != 0 && strncmp(fresh, "HTTP/1.0 200", 12) != 0) {
                fprintf(stderr, "loadgen: %.*s\n", (int)(got < 300 ? got : 300), fresh);
                exit(1);
            }
            one->headed = 1;
            headed_count++;
        }
        bytes += (uint64_t)got;
        scan(one, buffer, one->left + (size_t)got, now_us());
        if (got < READ_BYTES) return;
    }
}

static void turn(int wait_ms) {
    static struct epoll_event events[1024];
    int ready = epoll_wait(epoll_fd, events, 1024, wait_ms);
    for (int i = 0; i < ready; i++) {
        int n = (int)events[i].data.u32;
        if (events[i].events & EPOLLOUT) ask(n);
        else readable(n);
    }
}

int main(int argc, char **argv) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int option, patience_s = 60;
    if (argc < 3) return 2;
    host = argv[1];
    port = atoi(argv[2]);
    optind = 3;
    while ((option = getopt(argc, argv, "c:r:p:x:a:m:t:k:")) != -1) switch (option) {
        case 'c': client_count = atoi(optarg); break;
        case 'r': run_count = atoi(optarg); break;
        case 'p': path = optarg; break;
        case 'x': prefix = optarg; break;
        case 'a': cursor = atol(optarg); cursor_given = 1; break;
        case 'm': mark = optarg; mark_length = strlen(mark); break;
        case 't': patience_s = atoi(optarg); break;
        case 'k': key = optarg; break;
        default: return 2;
    }
    clients = calloc((size_t)client_count, sizeof *clients);
    epoll_fd = epoll_create1(0);
    uint64_t began = now_us();
    left_connected = client_count;
    /* All at once, as a herd comes back; the kernel's queue holds who is not accepted yet. */
    for (int n = 0; n < client_count; n++) connect_client(n);
    while (headed_count < client_count) {
        turn(100);
        if (now_us() - began > (uint64_t)patience_s * 1000000u) {
            fprintf(stderr, "loadgen: only %d of %d connected\n", headed_count, client_count);
            return 1;
        }
    }
    printf("{\"connected\": %d, \"s\": %.6f, \"deliveries\": %lu}\n", headed_count, (double)(now_us() - began) / 1e6, deliveries);
    fflush(stdout);

    struct pollfd in[2] = {{.fd = 0, .events = POLLIN}, {.fd = epoll_fd, .events = POLLIN}};
    char line[256];
    size_t have = 0;
    uint64_t goal = 0, deadline = 0;
    int expecting = 0;
    for (;;) {
        if (poll(in, 2, 100) < 0) fail("poll");
        if (in[1].revents) turn(0);
        if (in[0].revents) {
            ssize_t got = read(0, line + have, sizeof line - 1 - have);
            if (got <= 0) return 0;
            have += (size_t)got;
            line[have] = 0;
            char *newline;
            while ((newline = strchr(line, '\n'))) {
                *newline = 0;
                unsigned long wanted;
                if (sscanf(line, "expect %lu", &wanted) == 1) {
                    goal = wanted;
                    expecting = 1;
                    deadline = now_us() + (uint64_t)patience_s * 1000000u;
                } else if (!strcmp(line, "reset")) {
                    deliveries = wrong = bytes = lag_count = lag_max = first_us = last_us = 0;
                    cpu_before = cpu_s();
                    memset(lags, 0, sizeof lags);
                    printf("{}\n");
                    fflush(stdout);
                } else if (!strcmp(line, "quit")) {
                    return 0;
                }
                have -= (size_t)(newline + 1 - line);
                memmove(line, newline + 1, have + 1);
            }
        }
        if (expecting && (deliveries >= goal || now_us() > deadline)) {
            printf("{\"deliveries\": %lu, \"s\": %.6f, \"since_start_s\": %.6f, \"open\": %d, \"lags\": %lu, \"p50_ms\": %.4f, "
                   "\"p99_ms\": %.4f, \"max_ms\": %.4f, \"first_us\": %lu, \"last_us\": %lu, \"wrong\": %lu, \"bytes\": %lu, "
                   "\"cpu_s\": %.6f}\n",
                   deliveries, (double)(last_us - first_us) / 1e6, (double)(last_us - began) / 1e6, left_connected, lag_count,
                   lag_count ? quantile(0.5) / 1000 : 0.0, lag_count ? quantile(0.99) / 1000 : 0.0, (double)lag_max / 1000,
                   first_us, last_us, wrong, bytes, cpu_s() - cpu_before);
            fflush(stdout);
            expecting = 0;
        }
    }
}
