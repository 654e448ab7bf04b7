/* The two ends of the benchmark that must never be its limit, in one thread each, with epoll.

   load clients PORT PATH COUNT MUTE   open COUNT streams, of which the last MUTE never read; then obey stdin, whose end
                                       ends it all. In PATH each %d is the client's number, from 0 on.
       measure SECONDS GRACE           print what arrives in that time; with a GRACE, of what was due in that time, wait
                                       so much longer for the rest of it
       came COUNT                      print how many clients have so far got COUNT events with their own number in place
                                       of the time, and no other event
   load bound PORT RATE                a server that does the least there is to do: one send() for each event and client
   load publish PORT PATH RATE CHANNELS SHARED SIZE COUNT
                                       POST RATE events a second of SIZE bytes. In PATH each %s is the channel: u0 and so
                                       on, CHANNELS of them in an order that is benchmarks/project.py's as well; one event
                                       in SHARED goes to `all` (0: none). At the end of stdin, or after COUNT events (0:
                                       never), print how many were answered. With a COUNT events carry the channel's
                                       number in place of the time.

   An event is recognised by its data, "t=" and the microsecond of CLOCK_MONOTONIC when it was due, in 15 digits.
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
enum { PUBLISHERS = 64, STRIDE = 7919 }; /* a prime: i * STRIDE % channels visits all of them, in what looks like chance */

struct client {
    int fd, asked, greeted, mute, kept;
    int own, foreign; /* events with its number in place of the time, and others */
    char rest[MARK]; /* the beginning of a mark that the end of a read has cut */
};

static char buffer[1 << 20];
static struct client *all;
static long histogram[BUCKETS], timed, events, bytes;
static long from, to; /* when what is timed was due */

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
        long mark = strtol(at + 2, NULL, 10), late = (time - mark) / 100;
        if (!to || (mark >= from && mark < to)) {
            histogram[late < 0 ? 0 : late < BUCKETS ? late : BUCKETS - 1]++;
            timed++;
        }
        if (mark == c - all) c->own++;
        else c->foreign++;
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
    long wanted = timed * part, seen = 0;
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

/* The template with each of these placeholders replaced. */
static void fill(char *into, size_t size, const char *template, const char *placeholder, const char *value) {
    size_t length = 0;
    for (const char *at; (at = strstr(template, placeholder)); template = at + strlen(placeholder))
        length += snprintf(into + length, size - length, "%.*s%s", (int)(at - template), template, value);
    snprintf(into + length, size - length, "%s", template);
}

static void ask(struct client *c, const char *template) {
    char number[16], path[512], request[1024];
    snprintf(number, sizeof number, "%d", (int)(c - all));
    fill(path, sizeof path, template, "%d", number);
    int length = snprintf(request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n", path);
    send(c->fd, request, length, MSG_NOSIGNAL);
    c->asked = 1;
}

static void greet_all(int epoll, int n, int port, const char *path) {
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
            if (!c->asked && ready[i].events & EPOLLOUT) ask(c, path);
            if (!(ready[i].events & EPOLLIN)) continue;
            ssize_t size = read(c->fd, buffer, sizeof buffer - 1);
            if (size < 0 && errno == EAGAIN) continue;
            buffer[size > 0 ? size : 0] = 0;
            c->greeted = 1;
            done++;
            if (size <= 0 || !strstr(buffer, " 200 ")) { refused++; continue; }
            char *body = strstr(buffer, "\r\n\r\n"); /* "charset=" is no mark */
            if (!body) continue;
            size -= body - buffer;
            memmove(buffer, body, size + 1);
            count(c, size);
        }
    }
    printf("{\"greeted\": %d, \"refused\": %d, \"seconds\": %.3f}\n", done - refused, n - done + refused, (now() - start) / 1e6);
    fflush(stdout);
}

static void clients(int port, const char *path, int n, int mute) {
    all = calloc(n, sizeof *all);
    for (int i = 0; i < n; i++) { all[i].fd = -1; all[i].mute = i >= n - mute; }
    int epoll = epoll_create1(0), closed = 0;
    greet_all(epoll, n, port, path);
    for (int i = 0; i < n; i++) { /* from here on level-triggered, and the mute ones not at all */
        if (all[i].fd < 0) continue;
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
                if (c->mute || !take(c)) { closed++; close(c->fd); }
                continue;
            }
            char line[64] = {0};
            if (read(0, line, sizeof line - 1) == 0) return;
            if (!strncmp(line, "came ", 5)) {
                int wanted = atoi(line + 5), exactly = 0, more = 0;
                for (int k = 0; k < n; k++) {
                    exactly += all[k].own == wanted && !all[k].foreign;
                    more += all[k].own > wanted || all[k].foreign;
                }
                printf("{\"exactly\": %d, \"more\": %d}\n", exactly, more);
                fflush(stdout);
                continue;
            }
            double seconds = 0, grace = 0;
            sscanf(line, "measure %lf %lf", &seconds, &grace);
            memset(histogram, 0, sizeof histogram);
            timed = events = bytes = 0;
            since = from = now();
            until = since + (seconds + grace) * 1e6;
            to = grace > 0 ? since + seconds * 1e6 : 0;
        }
        if (until && now() >= until) {
            printf("{\"seconds\": %.3f, \"events\": %ld, \"due\": %ld, \"bytes\": %ld, \"closed\": %d, \"p50_ms\": %.1f, \"p99_ms\": %.1f}\n",
                   (now() - since) / 1e6, events, timed, bytes, closed, percentile(0.5), percentile(0.99));
            fflush(stdout);
            until = 0;
        }
    }
}

/* Over connections that are kept, each with one request at a time. Who is late publishes what was due meanwhile. */
static void publish(int port, const char *template, double rate, int channels, int shared, int size, long most) {
    static struct client slots[PUBLISHERS], *idle[PUBLISHERS];
    int free_ones = 0, epoll = epoll_create1(0), yes = 1, numbered = most > 0;
    for (int i = 0; i < PUBLISHERS; i++) {
        struct sockaddr_in server = address(port);
        slots[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(slots[i].fd, (struct sockaddr *)&server, sizeof server)) die("connect");
        fcntl(slots[i].fd, F_SETFL, O_NONBLOCK);
        setsockopt(slots[i].fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        watch(epoll, slots[i].fd, EPOLLIN, &slots[i]);
        idle[free_ones++] = &slots[i];
    }
    long period = 1e9 / rate;
    struct itimerspec tick = {{period / 1000000000L, period % 1000000000L}, {0, 1}};
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    timerfd_settime(timer, 0, &tick, NULL);
    watch(epoll, timer, EPOLLIN, &timer);
    fcntl(0, F_SETFL, O_NONBLOCK);
    watch(epoll, 0, EPOLLIN, NULL);
    struct epoll_event ready[EVENTS];
    long begun = now(), sent = 0, accepted = 0, refused = 0;
    char *request = malloc(2048 + size), *body = malloc(size + 64);
    memset(body, 'x', size + 64);
    while (!most || accepted + refused < most) {
        int many = epoll_wait(epoll, ready, EVENTS, -1);
        for (int i = 0; i < many; i++) {
            struct client *c = ready[i].data.ptr;
            if (!c) { most = -1; continue; }
            if (ready[i].data.ptr == &timer) {
                long due;
                if (read(timer, &due, sizeof due) < 0) continue;
                continue;
            }
            ssize_t got = read(c->fd, buffer, sizeof buffer - 1);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) { fprintf(stderr, "publish: the server has closed\n"); exit(1); }
            buffer[got] = 0;
            if (!c->asked) continue; /* the rest of an answer */
            if (strstr(buffer, "HTTP/1.1 20")) accepted++;
            else refused++;
            c->asked = 0;
            idle[free_ones++] = c;
        }
        for (long due; free_ones && (most <= 0 || sent < most) && (due = begun + sent * 1e6 / rate) <= now(); sent++) {
            struct client *c = idle[--free_ones];
            int number = channels ? sent * STRIDE % channels : 0;
            char channel[16], path[512];
            if (shared && sent % shared == 0) strcpy(channel, "all");
            else snprintf(channel, sizeof channel, "u%d", number);
            fill(path, sizeof path, template, "%s", channel);
            snprintf(body, MARK + 1, "t=%015ld", numbered ? (long)number : due);
            if (size > MARK) body[MARK] = 'x';
            int length = sprintf(request, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n", path, size);
            memcpy(request + length, body, size);
            c->asked = 1;
            if (send(c->fd, request, length + size, MSG_NOSIGNAL) != length + size) die("send");
        }
    }
    printf("{\"published\": %ld, \"accepted\": %ld, \"refused\": %ld}\n", sent, accepted, refused);
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
    else if (argc == 9 && !strcmp(argv[1], "publish"))
        publish(atoi(argv[2]), argv[3], atof(argv[4]), atoi(argv[5]), atoi(argv[6]), atoi(argv[7]), atol(argv[8]));
    else return fprintf(stderr, "see the top of load.c\n"), 2;
    return 0;
}
