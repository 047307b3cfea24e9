/* Producers that append over HTTP/1.1, one request at a time each, on one thread.
 *
 *   poster HOST PORT -c PRODUCERS -r RUNS [-x PREFIX] -b EVENTS_PER_REQUEST -t SECONDS [-p PATH -d BODY -y CONTENT_TYPE]
 *
 * Producer i appends to run PREFIX-(i % RUNS), whose name stands for %s in PATH; with fence 1 and runwire's events unless
 * BODY says otherwise. Answers one line of JSON: requests, events, seconds, latencies.
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

struct producer { int fd; char *request; size_t length, got; uint64_t asked; char answer[65536]; };

static uint64_t now_us(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000u + (uint64_t)at.tv_nsec / 1000u;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    const char *host = argv[1], *prefix = "bench", *path = "/api/agents/runs/%s/events", *given = NULL;
    const char *type = "application/json";
    int port = atoi(argv[2]), count = 32, runs = 32, batch = 1, option;
    double seconds = 3;
    optind = 3;
    while ((option = getopt(argc, argv, "c:r:x:b:t:p:d:y:")) != -1) switch (option) {
        case 'c': count = atoi(optarg); break;
        case 'r': runs = atoi(optarg); break;
        case 'x': prefix = optarg; break;
        case 'b': batch = atoi(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'p': path = optarg; break;
        case 'd': given = optarg; break;
        case 'y': type = optarg; break;
        default: return 2;
    }
    struct producer *all = calloc((size_t)count, sizeof *all);
    int epoll_fd = epoll_create1(0), yes = 1;
    for (int n = 0; n < count; n++) {
        struct producer *one = &all[n];
        char *body = malloc((size_t)batch * 64 + 64);
        size_t size = (size_t)sprintf(body, "{\"events\":[");
        for (int k = 0; k < batch; k++)
            size += (size_t)sprintf(body + size, "%s{\"type\":\"DebugTrace\",\"fn\":\"a.b\"}", k ? "," : "");
        size += (size_t)sprintf(body + size, "]}");
        const char *sent = given ? given : body;
        size = strlen(sent);
        char run[160], where[400];
        snprintf(run, sizeof run, "%s-%d", prefix, n % runs);
        snprintf(where, sizeof where, path, run);
        one->request = malloc(size + 1024);
        one->length = (size_t)sprintf(one->request,
            "POST %s HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: %s\r\n"
            "Runwire-Fence: 1\r\nContent-Length: %zu\r\n\r\n%s", where, host, port, type, size, sent);
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        inet_pton(AF_INET, host, &to.sin_addr);
        one->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(one->fd, (struct sockaddr *)&to, sizeof to) < 0) { perror("poster: connect"); return 1; }
        setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)n};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, one->fd, &event);
    }
    size_t room = 1 << 20, answered = 0;
    uint32_t *latencies = malloc(room * sizeof *latencies);
    uint64_t began = now_us(), until = began + (uint64_t)(seconds * 1e6);
    for (int n = 0; n < count; n++) {
        all[n].asked = now_us();
        if (send(all[n].fd, all[n].request, all[n].length, MSG_NOSIGNAL) < 0) return 1;
    }
    int busy = count;
    while (busy) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll_fd, events, 256, 10000);
        if (ready <= 0) { fprintf(stderr, "poster: no answer for 10 s\n"); return 1; }
        for (int i = 0; i < ready; i++) {
            struct producer *one = &all[events[i].data.u32];
            ssize_t got = recv(one->fd, one->answer + one->got, sizeof one->answer - 1 - one->got, 0);
            if (got <= 0) { fprintf(stderr, "poster: connection lost\n"); return 1; }
            one->got += (size_t)got;
            one->answer[one->got] = 0;
            char *body = strstr(one->answer, "\r\n\r\n");
            char *stated = strcasestr(one->answer, "content-length:");
            int empty = strncmp(one->answer, "HTTP/1.1 204", 12) == 0; /* states no length */
            if (!body || (!stated && !empty)) continue;
            if (stated && one->got < (size_t)(body + 4 - one->answer) + strtoul(stated + 15, NULL, 10)) continue;
            if (strncmp(one->answer, "HTTP/1.1 2", 10) != 0) { fprintf(stderr, "poster: %s\n", one->answer); return 1; }
            uint64_t now = now_us();
            if (answered == room) latencies = realloc(latencies, (room *= 2) * sizeof *latencies);
            latencies[answered++] = (uint32_t)(now - one->asked);
            one->got = 0;
            if (now >= until) { busy--; continue; }
            one->asked = now;
            if (send(one->fd, one->request, one->length, MSG_NOSIGNAL) < 0) return 1;
        }
    }
    double took = (double)(now_us() - began) / 1e6;
    qsort(latencies, answered, sizeof *latencies, by_size);
    printf("{\"requests\": %zu, \"events\": %zu, \"s\": %.6f, \"p50_ms\": %.3f, \"p99_ms\": %.3f}\n", answered,
           answered * (size_t)batch, took, latencies[answered / 2] / 1e3, latencies[answered * 99 / 100] / 1e3);
    return 0;
}
