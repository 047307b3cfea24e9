/* Producers of chunks, as benchmarks/chunks.py makes them, over HTTP/1.1 or the protocol of Redis, on one thread.
 *
 *   chunker HOST PORT -c CONNECTIONS -r STREAMS -x PREFIX
 *           -p PATH -y CONTENT_TYPE [-h HEADER]          a POST for each chunk; the stream's name stands for %s in PATH
 *           -R                                           an XADD for each chunk
 *
 * Stream i is PREFIX-i. Its chunks go over connection i % CONNECTIONS, in order, numbered from 0. Commands are taken
 * from stdin, and each is answered by a line of JSON once all its chunks are answered:
 *
 *   write RATE SECONDS DEPTH
 *
 * A connection has DEPTH chunks under way at most. With a RATE each stream gets so many chunks a second, whether the
 * server keeps up or not: a chunk's time is when it was due. With 0, connections write as fast as they are answered.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK_BYTES = 40, DEPTH_MAX = 64, ANSWER_BYTES = 1 << 16 };

struct line {
    int fd, streams, turn, under_way, first_under_way;
    uint64_t asked[DEPTH_MAX]; /* when each chunk under way was due, the oldest at first_under_way */
    size_t got;
    char answer[ANSWER_BYTES + 1];
};

static const char *host, *prefix = "bench", *path = "/%s", *type = "text/plain", *header = "";
static int port, line_count = 1, stream_count = 1, redis;
static uint64_t answered;
static uint64_t *numbers;
static struct line *lines;
static uint32_t *latencies;
static size_t room = 1 << 20;

static uint64_t now_us(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000u + (uint64_t)at.tv_nsec / 1000u;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void give_up(const char *what) {
    fprintf(stderr, "chunker: %s\n", what);
    exit(1);
}

static void put(struct line *one, int stream, uint64_t due) {
    char request[1024], chunk[CHUNK_BYTES + 1], name[160];
    int length;
    snprintf(chunk, sizeof chunk, "t.%016lu.%08lu.abcdefghijkl", (unsigned long)due, (unsigned long)numbers[stream]++);
    snprintf(name, sizeof name, "%s-%d", prefix, stream);
    if (redis) {
        length = snprintf(request, sizeof request, "*5\r\n$4\r\nXADD\r\n$%zu\r\n%s\r\n$1\r\n*\r\n$1\r\ne\r\n$%d\r\n%s\r\n",
                          strlen(name), name, CHUNK_BYTES, chunk);
    } else {
        char where[400];
        snprintf(where, sizeof where, path, name);
        length = snprintf(request, sizeof request,
                          "POST %s HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: %s\r\n%s%sContent-Length: %d\r\n\r\n%s", where, host,
                          port, type, header, *header ? "\r\n" : "", CHUNK_BYTES, chunk);
    }
    if (send(one->fd, request, (size_t)length, MSG_NOSIGNAL) != length) give_up("cannot send");
    one->asked[(one->first_under_way + one->under_way++) % DEPTH_MAX] = due;
}

/* The length of the whole answer at the head of the buffer, 0 while it is not whole. */
static size_t whole(const struct line *one) {
    const char *text = one->answer;
    if (redis) {
        if (*text == '-') give_up(text);
        const char *end = strstr(text, "\r\n");
        if (!end) return 0;
        size_t length = (size_t)(end + 2 - text) + strtoul(text + 1, NULL, 10) + 2;
        return one->got >= length ? length : 0;
    }
    const char *body = strstr(text, "\r\n\r\n");
    if (!body) return 0;
    if (strncmp(text, "HTTP/1.1 2", 10) != 0) give_up(text);
    size_t length = (size_t)(body + 4 - text);
    const char *stated = strcasestr(text, "content-length:");
    if (stated && stated < body) length += strtoul(stated + 15, NULL, 10);
    return one->got >= length ? length : 0;
}

static void readable(struct line *one) {
    ssize_t got = recv(one->fd, one->answer + one->got, ANSWER_BYTES - one->got, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) give_up("connection lost");
    one->got += (size_t)got;
    one->answer[one->got] = 0;
    size_t length;
    while (one->got && (length = whole(one))) {
        one->got -= length;
        memmove(one->answer, one->answer + length, one->got + 1);
        if (answered == room) latencies = realloc(latencies, (room *= 2) * sizeof *latencies);
        latencies[answered++] = (uint32_t)(now_us() - one->asked[one->first_under_way]);
        one->first_under_way = (one->first_under_way + 1) % DEPTH_MAX;
        one->under_way--;
    }
}

static int connected(int epoll_fd) {
    int yes = 1;
    for (int n = 0; n < line_count; n++) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        inet_pton(AF_INET, host, &to.sin_addr);
        memset(&lines[n], 0, sizeof lines[n]);
        lines[n].fd = socket(AF_INET, SOCK_STREAM, 0);
        lines[n].streams = (stream_count - n + line_count - 1) / line_count;
        if (connect(lines[n].fd, (struct sockaddr *)&to, sizeof to) < 0) give_up("cannot connect");
        setsockopt(lines[n].fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)n};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, lines[n].fd, &event);
    }
    return epoll_fd;
}

static void write_chunks(double rate, double seconds, int depth) {
    int epoll_fd = connected(epoll_create1(0));
    struct timespec cpu_before, cpu;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu_before);
    answered = 0;
    uint64_t began = now_us(), until = began + (uint64_t)(seconds * 1e6), quiet_since = began;
    /* Of a connection: chunk k of all its streams is due at k / (rate * streams) seconds. */
    uint64_t *taken = calloc((size_t)line_count, sizeof *taken);
    for (;;) {
        uint64_t now = now_us(), next_due = UINT64_MAX;
        int busy = 0;
        for (int n = 0; n < line_count; n++) {
            struct line *one = &lines[n];
            while (one->under_way < depth) {
                uint64_t due = now;
                if (rate > 0) {
                    due = began + (uint64_t)(((double)taken[n] + (double)n / line_count) * 1e6 / (rate * one->streams));
                    if (due > now && due < next_due && due < until) next_due = due;
                }
                if (due > now || due >= until) break;
                put(one, n + one->turn * line_count, due);
                one->turn = (one->turn + 1) % one->streams;
                taken[n]++;
            }
            busy |= one->under_way;
        }
        if (!busy && next_due == UINT64_MAX) break;
        struct epoll_event events[256];
        int wait_ms = next_due == UINT64_MAX ? 100 : (int)((next_due - now + 999) / 1000);
        int ready = epoll_wait(epoll_fd, events, 256, wait_ms > 100 ? 100 : wait_ms);
        for (int i = 0; i < ready; i++) readable(&lines[events[i].data.u32]);
        if (ready > 0 || !busy) quiet_since = now_us();
        if (now_us() - quiet_since > 30000000u) give_up("no answer for 30 s");
    }
    double took = (double)(now_us() - began) / 1e6;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    for (int n = 0; n < line_count; n++) close(lines[n].fd);
    close(epoll_fd);
    free(taken);
    qsort(latencies, answered, sizeof *latencies, by_size);
    printf("{\"chunks\": %lu, \"s\": %.6f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"cpu_s\": %.6f}\n", (unsigned long)answered, took,
           answered ? latencies[answered / 2] / 1e3 : 0.0, answered ? latencies[answered * 99 / 100] / 1e3 : 0.0,
           (double)(cpu.tv_sec - cpu_before.tv_sec) + (double)(cpu.tv_nsec - cpu_before.tv_nsec) / 1e9);
    fflush(stdout);
}

int main(int argc, char **argv) {
    int option;
    if (argc < 3) return 2;
    host = argv[1];
    port = atoi(argv[2]);
    optind = 3;
    while ((option = getopt(argc, argv, "c:r:x:p:y:h:R")) != -1) switch (option) {
        case 'c': line_count = atoi(optarg); break;
        case 'r': stream_count = atoi(optarg); break;
        case 'x': prefix = optarg; break;
        case 'p': path = optarg; break;
        case 'y': type = optarg; break;
        case 'h': header = optarg; break;
        case 'R': redis = 1; break;
        default: return 2;
    }
    if (line_count > stream_count) line_count = stream_count;
    numbers = calloc((size_t)stream_count, sizeof *numbers);
    lines = calloc((size_t)line_count, sizeof *lines);
    latencies = malloc(room * sizeof *latencies);
    char command[256];
    while (fgets(command, sizeof command, stdin)) {
        double rate, seconds;
        int depth;
        if (sscanf(command, "write %lf %lf %d", &rate, &seconds, &depth) != 3) return 2;
        write_chunks(rate, seconds, depth < DEPTH_MAX ? depth : DEPTH_MAX);
    }
    return 0;
}
