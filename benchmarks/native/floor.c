/* The least a server can do: it writes the same bytes to every client, on one thread, and nothing else.
 *
 *   floor PORT BYTES
 *
 * Answers each request with the head of an event stream.
 * Commands on stdin: "emit EVENTS JOINED GAP_US" writes EVENTS events of BYTES bytes to every client, JOINED
 * of them in one write, group by group; every GAP_US one such tick (0: as fast as it goes). Answers a line when done.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
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

struct peer { int fd; char *rest; size_t left; };

static const char HEAD[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
static struct peer peers[65536];
static int peer_count, epoll_fd;

static uint64_t now_us(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000u + (uint64_t)at.tv_nsec / 1000u;
}

static void flush_peer(struct peer *one) {
    ssize_t sent = send(one->fd, one->rest, one->left, MSG_NOSIGNAL);
    if (sent < 0) return;
    one->left -= (size_t)sent;
    memmove(one->rest, one->rest + sent, one->left);
}

static void write_to(struct peer *one, const char *data, size_t length) {
    if (one->left == 0) {
        ssize_t sent = send(one->fd, data, length, MSG_NOSIGNAL);
        if (sent == (ssize_t)length) return;
        if (sent < 0) sent = 0;
        data += sent;
        length -= (size_t)sent;
    }
    one->rest = realloc(one->rest, one->left + length);
    memcpy(one->rest + one->left, data, length);
    one->left += length;
}

static int flush_all(void) {
    int waiting = 0;
    for (int n = 0; n < peer_count; n++)
        if (peers[n].left) {
            flush_peer(&peers[n]);
            waiting += peers[n].left > 0;
        }
    return waiting;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    size_t bytes = (size_t)atoi(argv[2]);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listening, (struct sockaddr *)&at, sizeof at) < 0 || listen(listening, 4096) < 0) return 1;
    socklen_t size = sizeof at;
    getsockname(listening, (struct sockaddr *)&at, &size);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    epoll_fd = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listening};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listening, &event);
    event.data.fd = 0;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event);
    static char scratch[65536];
    for (;;) {
        struct epoll_event events[512];
        int ready = epoll_wait(epoll_fd, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listening) {
                int one;
                while ((one = accept4(listening, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(one, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                    event.data.fd = one;
                    event.events = EPOLLIN;
                    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, one, &event);
                }
            } else if (fd == 0) {
                ssize_t got = read(0, scratch, sizeof scratch - 1);
                if (got <= 0) return 0;
                scratch[got] = 0;
                unsigned long emits, joined, gap;
                if (sscanf(scratch, "emit %lu %lu %lu", &emits, &joined, &gap) != 3) return 2;
                char *tick = malloc(joined * (bytes + 1) + 32);
                size_t length = (size_t)sprintf(tick, "%zx\r\n", joined * bytes);
                for (unsigned long n = 0; n < joined; n++) {
                    size_t at_event = length;
                    length += (size_t)sprintf(tick + length, "id: 12345\ndata: {");
                    while (length - at_event < bytes - 3) tick[length++] = 'x';
                    tick[length++] = '}';
                    tick[length++] = '\n';
                    tick[length++] = '\n';
                }
                length += (size_t)sprintf(tick + length, "\r\n");
                uint64_t due = now_us();
                for (unsigned long done = 0; done < emits; done += joined) {
                    for (int n = 0; n < peer_count; n++) write_to(&peers[n], tick, length);
                    flush_all();
                    due += gap;
                    while (gap && now_us() < due) usleep(100);
                }
                while (flush_all()) usleep(100);
                free(tick);
                printf("{}\n");
                fflush(stdout);
            } else {
                ssize_t got = recv(fd, scratch, sizeof scratch, 0);
                if (got <= 0) {
                    for (int n = 0; n < peer_count; n++)
                        if (peers[n].fd == fd) {
                            free(peers[n].rest);
                            peers[n] = peers[--peer_count];
                            break;
                        }
                    close(fd);
                    continue;
                }
                peers[peer_count++] = (struct peer){.fd = fd};
                if (send(fd, HEAD, sizeof HEAD - 1, MSG_NOSIGNAL) < 0) return 1;
            }
        }
    }
}
