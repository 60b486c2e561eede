/* Many clients in one process, in C, so that what is measured is the server: connects, subscribes, counts what comes.

   receivers KIND HOST PORT COUNT WINDOW SIZE TAIL MARK HELLO REQUESTS

   COUNT connections, at most WINDOW of them on the way at a time. KIND `ws`: each sends the file HELLO, waits for the
   answer's head and sends its own part of the file REQUESTS (COUNT times a length in four bytes, lowest first, and so
   many bytes; perhaps none). `step`: as `ws`, and the first one answers each event. `sse`: each sends only its own part,
   and is answered with a stream of server-sent events; `poll`: as `sse`, with an answer after which it asks again, with
   the cursor that is in it. It is live once it has heard a message with MARK in it, or at
   once where MARK is empty. Then it counts: every message of SIZE bytes (0: of any size) is an event. Its number are
   the digits that end TAIL bytes before its end (-1: it has none); each must follow the last one of its connection.
   Where an event has `@NANOSECONDS@` in it, on CLOCK_MONOTONIC, the delay since then is kept. Pings are answered.

   For each line on standard input, and when all are live, a line of JSON tells the counts so far and the delays since
   the last line; it ends with its input. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IDLE, UPGRADING, JOINING, LIVE, CLOSED };
enum { BUFFER = 1 << 18, DELAYS = 1 << 20 };

struct client {
    int fd, state;
    uint32_t kept_size;
    char *kept; /* the beginning of a message whose rest has not come */
    long number;
    double begun;
};

static struct client *clients;
static int http, poll, step, count, window, tail, epoll, started, live, closed;
static size_t size, hello_size;
static char *mark, *hello, **requests;
static uint32_t *request_sizes;
static struct sockaddr_in server;
static long events, bytes, reads, skipped, wrong;
static double *joins, *delays;
static long joined, delayed;
static char buffer[BUFFER];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static char *file(const char *path, size_t *length) {
    FILE *f = fopen(path, "rb");
    if (!f) fail(path);
    fseek(f, 0, SEEK_END);
    *length = ftell(f);
    rewind(f);
    char *text = malloc(*length + 1);
    if (fread(text, 1, *length, f) != *length) fail(path);
    fclose(f);
    return text;
}

static void put(struct client *c, const char *text, size_t length) { /* short, into an empty buffer: it fits */
    if (length && send(c->fd, text, length, MSG_NOSIGNAL) != (ssize_t)length) fail("send");
}

/* reports ---------------------------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void quantiles(const char *name, double *of, long n) {
    qsort(of, n, sizeof *of, by_size);
    printf(", \"%s\": {\"n\": %ld", name, n);
    if (n)
        printf(", \"p50\": %.6f, \"p95\": %.6f, \"p99\": %.6f, \"max\": %.6f", of[n / 2], of[n * 95 / 100],
               of[n * 99 / 100], of[n - 1]);
    printf("}");
}

static void report(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("{\"live\": %d, \"closed\": %d, \"events\": %ld, \"bytes\": %ld, \"reads\": %ld, "
           "\"skipped\": %ld, \"wrong\": %ld, "
           "\"cpu\": %.6f, \"clock\": %.6f", live, closed, events, bytes, reads, skipped,
           wrong, cpu, now());
    quantiles("joins", joins, joined);
    quantiles("delays", delays, delayed);
    printf("}\n");
    fflush(stdout);
    delayed = 0;
}

/* clients ---------------------------------------------------------------------------------------------------------- */

static void ask(struct client *c) {
    put(c, requests[c - clients], request_sizes[c - clients]);
}

static void start(struct client *c) {
    c->begun = now();
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&server, sizeof server)) fail("connect");
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    if (http) ask(c);
    else put(c, hello, hello_size);
    c->state = UPGRADING;
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e);
}

static void go_on(void) {
    while (started < count && started - live - closed < window) start(&clients[started++]);
    if (live + closed == count && started == count) {
        started++; /* said once */
        report();
    }
}

static void joined_now(struct client *c) {
    c->state = LIVE;
    live++;
    joins[joined++] = now() - c->begun;
    go_on();
}

static void end(struct client *c) {
    if (c->state == LIVE) live--;
    c->state = CLOSED;
    closed++;
    close(c->fd);
    go_on();
}

static size_t head(struct client *c, char *text, size_t length) { /* how much of it is the answer's head; 0: not all */
    char *found = memmem(text, length, "\r\n\r\n", 4);
    if (!found) return 0;
    if (!memmem(text, 15, http ? " 200" : " 101", 4)) {
        fprintf(stderr, "refused: %.*s\n", (int)(found - text), text);
        exit(1);
    }
    if (!http) ask(c);
    c->state = JOINING;
    if (!*mark) joined_now(c);
    return found + 4 - text;
}

static void event(struct client *c, char *text, size_t length) {
    events++;
    if (tail >= 0) {
        long number = 0, unit = 1;
        for (char *digit = text + length - tail - 1; digit >= text && *digit >= '0' && *digit <= '9'; digit--, unit *= 10)
            number += unit * (*digit - '0');
        if (c->number >= 0 && number > c->number + 1) skipped += number - c->number - 1;
        if (c->number >= 0 && number <= c->number) wrong++;
        c->number = number;
    }
    if (step && c == clients) put(c, (char[]){(char)0x81, (char)0x80, 0, 0, 0, 0}, 6);
    char *stamp = memchr(text, '@', length);
    if (stamp && delayed < DELAYS) delays[delayed++] = now() - strtoull(stamp + 1, NULL, 10) / 1e9;
}

static void message(struct client *c, int code, char *text, size_t length) {
    if (code == 9) {
        char pong[6 + 125] = {(char)0x8a, (char)(0x80 | length)}; /* under a mask of zeros */
        memcpy(pong + 6, text, length);
        put(c, pong, 6 + length);
    } else if (c->state == LIVE) {
        if (code < 3 && (!size || length == size)) event(c, text, length);
    } else if (c->state == JOINING && memmem(text, length, mark, strlen(mark))) {
        joined_now(c);
    }
}

static size_t messages(struct client *c, char *text, size_t length) { /* how much of it was whole messages */
    size_t at = 0;
    while (length - at >= 2) {
        unsigned char *b = (unsigned char *)text + at;
        size_t begin = 2, n = b[1];
        if (n >= 126) {
            int wide = n == 126 ? 2 : 8;
            begin += wide;
            if (length - at < begin) break;
            n = 0;
            for (int i = 2; i < 2 + wide; i++) n = n << 8 | b[i];
        }
        if (length - at < begin + n) break;
        message(c, b[0] & 15, text + at + begin, n);
        at += begin + n;
    }
    return at;
}

static size_t blocks(struct client *c, char *text, size_t length) { /* of a stream; the sizes of chunks do no harm */
    char *at = text, *end;
    while ((end = memmem(at, text + length - at, "\n\n", 2))) {
        message(c, 1, at, end - at);
        at = end + 2;
    }
    return at - text;
}

static void ask_again(struct client *c, char *text, size_t length) {
    const char *name = "\"cursor\":\"", *end_of_path = " HTTP/1.1\r\n";
    char *cursor = memmem(text, length, name, strlen(name)), again[4096];
    char *request = requests[c - clients], *path = memmem(request, request_sizes[c - clients], end_of_path, 11);
    if (!cursor || !path) { /* an error: told once, and counted as closed */
        if (!closed) fprintf(stderr, "answered: %.*s\n", (int)length, text);
        return end(c);
    }
    cursor += strlen(name);
    int size = snprintf(again, sizeof again, "%.*s&cursor=%.*s%.*s", (int)(path - request), request,
                        (int)strcspn(cursor, "\""), cursor, (int)(request_sizes[c - clients] - (path - request)), path);
    put(c, again, size);
}

static size_t answers(struct client *c, char *text, size_t length) { /* one at a time: the next one is asked for then */
    char *end = memmem(text, length, "\r\n\r\n", 4), *size = memmem(text, length, "Content-Length: ", 16);
    if (!end || !size) return 0;
    size_t begin = end + 4 - text, n = atol(size + 16);
    if (length < begin + n) return 0;
    message(c, 1, text + begin, n);
    ask_again(c, text + begin, n);
    return begin + n;
}

static void readable(struct client *c) {
    memcpy(buffer, c->kept, c->kept_size);
    ssize_t got = recv(c->fd, buffer + c->kept_size, BUFFER - c->kept_size, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return end(c);
    bytes += got, reads++;
    size_t length = c->kept_size + got, at = 0;
    if (c->state == UPGRADING && (at = head(c, buffer, length)) && poll) at = 0; /* each answer has a head */
    if (c->state != UPGRADING) at += (poll ? answers : http ? blocks : messages)(c, buffer + at, length - at);
    c->kept_size = length - at;
    if (c->kept_size == BUFFER) fail("a message larger than the buffer");
    if (c->kept_size) {
        c->kept = realloc(c->kept, c->kept_size);
        memcpy(c->kept, buffer + at, c->kept_size);
    }
}

static int asked(void) { /* 0: the input has ended */
    char line[256];
    ssize_t got = read(0, line, sizeof line);
    for (ssize_t i = 0; i < got; i++)
        if (line[i] == '\n') report();
    return got > 0;
}

int main(int argc, char **argv) {
    if (argc != 11) return 2;
    poll = !strcmp(argv[1], "poll"), http = poll || !strcmp(argv[1], "sse"), step = !strcmp(argv[1], "step"), argv++;
    server.sin_family = AF_INET;
    server.sin_addr.s_addr = inet_addr(argv[1]);
    server.sin_port = htons(atoi(argv[2]));
    count = atoi(argv[3]), window = atoi(argv[4]), size = atol(argv[5]), tail = atoi(argv[6]), mark = argv[7];
    size_t length;
    hello = file(argv[8], &hello_size);
    char *each = file(argv[9], &length), *last = each + length;
    clients = calloc(count, sizeof *clients), requests = calloc(count, sizeof *requests);
    request_sizes = calloc(count, sizeof *request_sizes);
    joins = calloc(count, sizeof *joins), delays = calloc(DELAYS, sizeof *delays);
    for (int i = 0; i < count; i++) {
        clients[i].number = -1;
        if (each == last) continue;
        memcpy(&request_sizes[i], each, 4);
        requests[i] = each + 4;
        each += 4 + request_sizes[i];
    }
    epoll = epoll_create1(0);
    struct epoll_event input = {.events = EPOLLIN}, found[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &input);
    go_on();
    for (;;) {
        int n = epoll_wait(epoll, found, 256, -1);
        for (int i = 0; i < n; i++) {
            if (found[i].data.ptr) readable(found[i].data.ptr);
            else if (!asked()) return 0;
        }
    }
}
