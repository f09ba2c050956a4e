/*
 * Makes events at a steady rate, for measuring who watches them.
 *
 *   flood KIND RATE SECONDS
 *
 * KIND: udp-connect (connect a UDP socket to loopback), sendto (a datagram to loopback),
 * fork (fork, exit, wait), exec (vfork, exec /bin/true, wait), tcp-connect (a connection over
 * loopback, made and closed), pipe (a byte written and read), open (a file opened and closed), none
 * (nothing: the cost of the pacing itself). RATE is operations a second, 0 for as fast as possible;
 * SECONDS may have a fraction. At the end prints one line: operations done and seconds taken.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Operations between looks at the clock: at 500,000 a second, about every 0.1 ms. */
#define BATCH 50
#define DISCARD_PORT 9

static int udp_socket;
static struct sockaddr_in target;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void udp_open(void) {
    udp_socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (udp_socket < 0)
        fail("socket");
    target.sin_family = AF_INET;
    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    target.sin_port = htons(DISCARD_PORT);
}

static void udp_connect(void) {
    if (connect(udp_socket, (struct sockaddr *)&target, sizeof(target)))
        fail("connect");
}

static void udp_send(void) {
    static const char data[] = "flood";

    if (sendto(udp_socket, data, sizeof(data), 0, (struct sockaddr *)&target, sizeof(target)) < 0 &&
        errno != ENOBUFS)
        fail("sendto");
}

static void reap(pid_t child) {
    if (child < 0)
        fail("fork");
    while (waitpid(child, NULL, 0) < 0)
        if (errno != EINTR)
            fail("waitpid");
}

static void fork_once(void) {
    pid_t child = fork();

    if (child == 0)
        _exit(0);
    reap(child);
}

static void exec_once(void) {
    pid_t child = vfork();

    if (child == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(127);
    }
    reap(child);
}

static void tcp_connect(void) {
    static int listener = -1;
    static struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof(address);
    int client, peer;

    if (listener < 0) {
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) ||
            listen(listener, 16) || getsockname(listener, (struct sockaddr *)&address, &length))
            fail("listen");
    }
    client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client < 0 || connect(client, (struct sockaddr *)&address, sizeof(address)))
        fail("connect");
    peer = accept(listener, NULL, NULL);
    close(peer); /* first: the waiting state stays with the side that is dropped here */
    close(client);
}

static void pipe_once(void) {
    static int ends[2] = {-1, -1};
    char byte = 0;

    if (ends[0] < 0 && pipe(ends))
        fail("pipe");
    if (write(ends[1], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1)
        fail("pipe");
}

static void open_once(void) {
    int file = open("/etc/passwd", O_RDONLY);

    if (file < 0)
        fail("open");
    close(file);
}

static void nothing(void) {
}

static const struct {
    const char *name;
    void (*once)(void);
} kinds[] = {
    {"udp-connect", udp_connect}, {"sendto", udp_send}, {"fork", fork_once}, {"exec", exec_once},
    {"tcp-connect", tcp_connect}, {"pipe", pipe_once},  {"open", open_once}, {"none", nothing},
};

static double now(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* Ahead of the rate: sleep away most of the time until `until`; the next look spins the rest. */
static void rest(double until) {
    double left = until - now() - 50e-6;
    struct timespec nap;

    if (left <= 0)
        return;
    nap.tv_sec = (time_t)left;
    nap.tv_nsec = (long)((left - (double)nap.tv_sec) * 1e9);
    nanosleep(&nap, NULL);
}

static uint64_t flood(void (*once)(void), double rate, double start, double end) {
    uint64_t done = 0, step;
    double time;

    while ((time = now()) < end) {
        if (rate > 0 && (double)done >= (time - start) * rate) {
            rest(start + (double)done / rate);
            continue;
        }
        for (step = rate > 0 && rate < 10000 ? 1 : BATCH; step > 0; step--, done++)
            once();
    }
    return done;
}

int main(int argc, char **argv) {
    size_t index;
    double start;
    uint64_t done;

    for (index = 0; argc == 4 && index < sizeof(kinds) / sizeof(kinds[0]); index++) {
        if (strcmp(argv[1], kinds[index].name))
            continue;
        udp_open();
        start = now();
        done = flood(kinds[index].once, atof(argv[2]), start, start + atof(argv[3]));
        printf("%llu %.6f\n", (unsigned long long)done, now() - start);
        return 0;
    }
    fprintf(stderr,
            "usage: %s udp-connect|sendto|fork|exec|tcp-connect|pipe|open|none RATE SECONDS\n",
            argv[0]);
    return 2;
}
