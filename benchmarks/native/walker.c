/* Clients that start runs and follow each to its end over HTTP/1.1, one run at a time each, on one thread.
 *
 *   walker HOST PORT -c CLIENTS -t SECONDS -x PREFIX -e EVENTS
 *
 * A client posts a start on its kept connection, reads the answer, opens a connection for the run's stream, and reads it
 * to the frame `event: end`. All times count from when the start was written; that of the stream's connection is in them.
 * Every stream must have EVENTS events, else the program says so and ends with 1. Answers one line of JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

struct client {
    int post, stream;
    unsigned long run;
    size_t got, seen;
    int events, ended;
    uint64_t asked, answered, first;
    char text[32768];
};

struct times { uint32_t *us; size_t count, room; };

static const char *host = "127.0.0.1", *prefix = "walk";
static int port, epoll_fd;
static struct sockaddr_in to;

static uint64_t now_us(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000u + (uint64_t)at.tv_nsec / 1000u;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void note(struct times *times, uint64_t us) {
    if (times->count == times->room) times->us = realloc(times->us, (times->room = times->room * 2 + 1024) * 4);
    times->us[times->count++] = (uint32_t)us;
}

static double at(struct times *times, size_t percent) {
    if (!times->count) return 0;
    qsort(times->us, times->count, 4, by_size);
    return times->us[times->count * percent / 100] / 1e3;
}

static void fail(const char *what, struct client *one) {
    fprintf(stderr, "walker: %s, run %s-%lu: %.*s\n", what, prefix, one->run, (int)one->got, one->text);
    exit(1);
}

static int opened(uint32_t tag) {
    int yes = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) { perror("walker: connect"); exit(1); }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = tag};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    return fd;
}

static void sent(int fd, struct client *one, const char *text) {
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0) fail("cannot send", one);
}

static void start(struct client *one, unsigned long run) {
    char body[256], request[768];
    one->run = run;
    one->got = one->seen = 0;
    one->events = one->ended = 0;
    one->first = 0;
    snprintf(body, sizeof body, "{\"runId\":\"%s-%lu\"}", prefix, run);
    snprintf(request, sizeof request, "POST /api/agents/runs HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: application/json\r\n"
             "Content-Length: %zu\r\n\r\n%s", host, port, strlen(body), body);
    one->asked = now_us();
    sent(one->post, one, request);
}

/* Whether a whole answer with a stated length is there. */
static int whole(struct client *one) {
    char *body = strstr(one->text, "\r\n\r\n"), *stated = strcasestr(one->text, "content-length:");
    return body && stated && one->got >= (size_t)(body + 4 - one->text) + strtoul(stated + 15, NULL, 10);
}

static void follow(struct client *one, uint32_t tag) {
    char request[512];
    if (strncmp(one->text, "HTTP/1.1 202", 12) != 0) fail("a start was refused", one);
    one->answered = now_us();
    one->got = one->seen = 0;
    one->stream = opened(tag);
    snprintf(request, sizeof request, "GET /api/agents/runs/%s-%lu/stream HTTP/1.1\r\nHost: %s:%d\r\n"
             "Accept: text/event-stream\r\n\r\n", prefix, one->run, host, port);
    sent(one->stream, one, request);
}

/* Reads on in the stream's text; a mark that is not there as a whole is looked for again. */
static void look(struct client *one, uint64_t now) {
    for (;;) {
        char *from = one->text + one->seen, *data = strstr(from, "\ndata: {"), *end = strstr(from, "event: end");
        if (end && (!data || end < data)) { one->ended = 1; return; }
        if (!data) return;
        if (!one->events++) one->first = now;
        one->seen = (size_t)(data - one->text) + 8;
    }
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    int count = 1, events = 13, option;
    double seconds = 3;
    host = argv[1];
    port = atoi(argv[2]);
    optind = 3;
    while ((option = getopt(argc, argv, "c:t:x:e:")) != -1) switch (option) {
        case 'c': count = atoi(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'x': prefix = optarg; break;
        case 'e': events = atoi(optarg); break;
        default: return 2;
    }
    to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, host, &to.sin_addr);
    epoll_fd = epoll_create1(0);
    struct client *all = calloc((size_t)count, sizeof *all);
    struct times posts = {0}, firsts = {0}, ends = {0};
    unsigned long runs = 0;
    for (int n = 0; n < count; n++) all[n].post = opened((uint32_t)n * 2);
    uint64_t began = now_us(), until = began + (uint64_t)(seconds * 1e6);
    for (int n = 0; n < count; n++) start(&all[n], runs++);
    int busy = count;
    while (busy) {
        struct epoll_event ready[256];
        int some = epoll_wait(epoll_fd, ready, 256, 15000);
        if (some <= 0) { fprintf(stderr, "walker: nothing came for 15 s, %d runs are open\n", busy); return 1; }
        for (int i = 0; i < some; i++) {
            uint32_t tag = ready[i].data.u32;
            struct client *one = &all[tag / 2];
            int streaming = tag % 2;
            ssize_t got = recv(streaming ? one->stream : one->post, one->text + one->got,
                               sizeof one->text - 1 - one->got, 0);
            if (got <= 0) fail("a connection was lost", one);
            uint64_t now = now_us();
            one->got += (size_t)got;
            one->text[one->got] = 0;
            if (!streaming) {
                if (whole(one)) { note(&posts, now - one->asked); follow(one, tag + 1); }
                continue;
            }
            if (strncmp(one->text, "HTTP/1.1 200", one->got < 12 ? one->got : 12) != 0) fail("no stream", one);
            look(one, now);
            if (!one->ended) continue;
            if (one->events != events) fail("events are missing", one);
            note(&firsts, one->first - one->asked);
            note(&ends, now - one->asked);
            close(one->stream);
            if (now >= until) { busy--; continue; }
            start(one, runs++);
        }
    }
    double took = (double)(now_us() - began) / 1e6;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("{\"runs\": %zu, \"s\": %.6f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"first_p50_ms\": %.3f, "
           "\"first_p99_ms\": %.3f, \"post_p50_ms\": %.3f, \"cpu_s\": %.4f}\n", ends.count, took, at(&ends, 50),
           at(&ends, 99), at(&firsts, 50), at(&firsts, 99), at(&posts, 50), cpu);
    return 0;
}
