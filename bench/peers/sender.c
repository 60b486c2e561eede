/* The kernel's limit: a loop of send(), one a connection, that does nothing else. Not a server: it takes any request for
   an upgrade to a WebSocket, and does not look at what comes after it.

   sender free|step PREFIX SUFFIX

   Says its port, then reads commands: `0` take connections, `1` send a message to each, over and over, `10` send ten
   in one piece. A message is PREFIX, its number in seven digits, SUFFIX. `step`: the next turn begins when the first
   connection has answered this one; `free`: at once, so that readers which lag read several turns at a time. */

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 20000, PIECE = 1 << 16 };

static int fds[MOST], count, listener, burst, step;

static void take(void) {
    int fd = accept(listener, NULL, NULL);
    char text[4096];
    size_t size = 0;
    ssize_t got;
    while (!memmem(text, size, "\r\n\r\n", 4) && (got = recv(fd, text + size, sizeof text - size, 0)) > 0) size += got;
    const char *answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    if (count < MOST && send(fd, answer, strlen(answer), MSG_NOSIGNAL) > 0) fds[count++] = fd;
    else close(fd);
}

static size_t frames(char *piece, const char *prefix, const char *suffix, long *number) {
    size_t at = 0;
    for (int i = 0; i < burst; i++) {
        char *text = piece + at + 4;
        int n = sprintf(text, "%s%07ld%s", prefix, (*number)++, suffix), head = n < 126 ? 2 : 4;
        if (head == 2) memmove(piece + at + 2, text, n);
        piece[at] = (char)0x81;
        piece[at + 1] = head == 2 ? n : 126;
        if (head == 4) piece[at + 2] = n >> 8, piece[at + 3] = n & 255;
        at += head + n;
    }
    return at;
}

static void leave(int i) {
    close(fds[i]);
    memmove(fds + i, fds + i + 1, (--count - i) * sizeof *fds); /* the first one stays the first */
}

static void wait_for_first(void) {
    char answer[4096];
    while (step && count && recv(fds[0], answer, sizeof answer, 0) <= 0) leave(0);
}

static void each(const char *piece, size_t size) {
    for (int i = 0; i < count; i++) {
        size_t at = 0;
        ssize_t sent = 0;
        while (at < size && (sent = send(fds[i], piece + at, size - at, MSG_NOSIGNAL)) > 0) at += sent;
        if (sent <= 0) leave(i--);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    step = !strcmp(argv[1], "step");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 4096)) return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    static char piece[PIECE];
    long number = 1;
    for (;;) {
        struct pollfd looked[] = {{.fd = 0, .events = POLLIN}, {.fd = listener, .events = POLLIN}};
        poll(looked, burst ? 1 : 2, burst ? 0 : -1);
        if (looked[0].revents) {
            char line[32] = {0};
            if (read(0, line, sizeof line - 1) <= 0) return 0;
            burst = atoi(line);
        } else if (burst) {
            each(piece, frames(piece, argv[2], argv[3], &number));
            wait_for_first();
        } else if (looked[1].revents) {
            take();
        }
    }
}
