/* The two ends of the benchmark that must never be its limit, in one thread each, with epoll.

   load clients PORT PATH COUNT MUTE   open COUNT streams, of which the last MUTE never read; then obey stdin:
                                       "measure SECONDS" prints what arrived in that time, end of file ends it all
   load bound PORT RATE                a server that does the least there is to do: one send() for each event and client

   An event is recognised by its data, "t=" and the microsecond of CLOCK_MONOTONIC when it was published, in 15 digits.
   What is printed is JSON, an object a line. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MARK = 17, EVENTS = 512, CONNECTING = 1000, BUCKETS = 600000 }; /* buckets of 100 microseconds */

struct client {
    int fd, greeted, mute, kept;
    char head[256]; /* of the answer, until its blank line has come */
    char rest[MARK]; /* the beginning of a mark that the end of a read has cut */
};

static char buffer[1 << 20];
static long histogram[BUCKETS], events, bytes;

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void die(const char *what) { perror(what); exit(1); }

static struct sockaddr_in address(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return to;
}

static void watch(int epoll, int fd, int what, void *who) {
    struct epoll_event e = {.events = what, .data.ptr = who};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e)) die("epoll_ctl");
}

static void count(struct client *c, ssize_t size) {
    char *at = buffer, *end = buffer + size;
    long time = now();
    while ((at = memmem(at, end - at, "t=", 2)) && end - at >= MARK) {
        long late = (time - strtol(at + 2, NULL, 10)) / 100;
        histogram[late < 0 ? 0 : late < BUCKETS ? late : BUCKETS - 1]++;
        events++;
        at += MARK;
    }
    if (!at && end[-1] == 't') at = end - 1;
    c->kept = at ? end - at : 0;
    memcpy(c->rest, at ? at : end, c->kept);
}

/* What there is to read. Returns 0 when the server has closed. */
static int take(struct client *c) {
    memcpy(buffer, c->rest, c->kept);
    ssize_t size = read(c->fd, buffer + c->kept, sizeof buffer - c->kept - 1);
    if (size < 0) return errno == EAGAIN;
    if (size == 0) return 0;
    bytes += size;
    buffer[c->kept + size] = 0; /* for strtol */
    count(c, c->kept + size);
    return 1;
}

static double percentile(double part) {
    long wanted = events * part, seen = 0;
    for (int i = 0; i < BUCKETS; i++)
        if ((seen += histogram[i]) >= wanted && seen) return i / 10.0;
    return 0;
}

static int connect_to(int port) {
    struct sockaddr_in to = address(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0) die("socket");
    if (connect(fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect");
    return fd;
}

static void greet_all(int epoll, struct client *all, int n, int port, const char *path) {
    char request[512];
    int length = snprintf(request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n", path);
    int opened = 0, done = 0, refused = 0;
    long start = now();
    struct epoll_event ready[EVENTS];
    while (done < n && now() - start < 60000000L) {
        for (; opened < n && opened - done < CONNECTING; opened++) {
            all[opened].fd = connect_to(port);
            watch(epoll, all[opened].fd, EPOLLIN | EPOLLOUT | EPOLLET, &all[opened]);
        }
        int many = epoll_wait(epoll, ready, EVENTS, 1000);
        for (int i = 0; i < many; i++) {
            struct client *c = ready[i].data.ptr;
            if (c->greeted) { if (!c->mute) take(c); continue; }
            if (!c->kept && ready[i].events & EPOLLOUT) { c->kept = 1; send(c->fd, request, length, 0); }
            if (!(ready[i].events & EPOLLIN)) continue;
            ssize_t size = read(c->fd, buffer, sizeof buffer - 1);
            if (size < 0 && errno == EAGAIN) continue;
            buffer[size > 0 ? size : 0] = 0;
            c->greeted = 1;
            c->kept = 0;
            done++;
            if (size <= 0 || !strstr(buffer, " 200 ")) refused++;
        }
    }
    printf("{\"greeted\": %d, \"refused\": %d, \"seconds\": %.3f}\n", done - refused, n - done + refused, (now() - start) / 1e6);
    fflush(stdout);
}

static void clients(int port, const char *path, int n, int mute) {
    struct client *all = calloc(n, sizeof *all);
    for (int i = n - mute; i < n; i++) all[i].mute = 1;
    int epoll = epoll_create1(0), closed = 0;
    greet_all(epoll, all, n, port, path);
    for (int i = 0; i < n; i++) { /* from here on level-triggered, and the mute ones not at all */
        struct epoll_event e = {.events = all[i].mute ? 0 : EPOLLIN, .data.ptr = &all[i]};
        if (epoll_ctl(epoll, EPOLL_CTL_MOD, all[i].fd, &e)) die("epoll_ctl");
    }
    fcntl(0, F_SETFL, O_NONBLOCK);
    watch(epoll, 0, EPOLLIN, NULL);
    long since = 0, until = 0;
    struct epoll_event ready[EVENTS];
    for (;;) {
        int many = epoll_wait(epoll, ready, EVENTS, 100);
        for (int i = 0; i < many; i++) {
            struct client *c = ready[i].data.ptr;
            if (c) {
                if (!take(c)) { closed++; close(c->fd); }
                continue;
            }
            char line[64] = {0};
            if (read(0, line, sizeof line - 1) == 0) return;
            memset(histogram, 0, sizeof histogram);
            events = bytes = 0;
            since = now();
            until = since + atof(line + strlen("measure ")) * 1e6;
        }
        if (until && now() >= until) {
            printf("{\"seconds\": %.3f, \"events\": %ld, \"bytes\": %ld, \"closed\": %d, \"p50_ms\": %.1f, \"p99_ms\": %.1f}\n",
                   (now() - since) / 1e6, events, bytes, closed, percentile(0.5), percentile(0.99));
            fflush(stdout);
            until = 0;
        }
    }
}

static void bound(int port, int rate) {
    static struct client slots[20000];
    int n = 0, yes = 1, epoll = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in here = address(port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 4096)) die("listen");
    long period = 1000000000L / rate;
    struct itimerspec tick = {{period / 1000000000L, period % 1000000000L}, {0, 1}};
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    timerfd_settime(timer, 0, &tick, NULL);
    watch(epoll, listener, EPOLLIN, &listener);
    watch(epoll, timer, EPOLLIN, &timer);
    struct epoll_event ready[EVENTS];
    for (long id = 0;;) {
        int many = epoll_wait(epoll, ready, EVENTS, -1);
        for (int i = 0; i < many; i++) {
            if (ready[i].data.ptr == &listener) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0) continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                slots[n].fd = fd;
                watch(epoll, fd, EPOLLIN | EPOLLET, &slots[n++]);
            } else if (ready[i].data.ptr == &timer) {
                long due;
                if (read(timer, &due, sizeof due) < 0) continue;
                char frame[128]; /* one, however many were due: others have their turn */
                int size = sprintf(frame, "2d\r\nid: %015ld\ndata: t=%015ld\n\n\r\n", id++, now());
                for (int c = 0; c < n; c++)
                    if (slots[c].greeted) send(slots[c].fd, frame, size, MSG_NOSIGNAL);
            } else {
                struct client *c = ready[i].data.ptr;
                const char *head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                ssize_t size = read(c->fd, buffer, sizeof buffer);
                if (size > 0) c->greeted = send(c->fd, head, strlen(head), MSG_NOSIGNAL) > 0;
                if (size == 0) { close(c->fd); c->greeted = 0; }
            }
        }
    }
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc == 6 && !strcmp(argv[1], "clients")) clients(atoi(argv[2]), argv[3], atoi(argv[4]), atoi(argv[5]));
    else if (argc == 4 && !strcmp(argv[1], "bound")) bound(atoi(argv[2]), atoi(argv[3]));
    else return fprintf(stderr, "see the top of load.c\n"), 2;
    return 0;
}
