/*
 * nc, ncat and socat, as far as agents use them; which one is told by the name.
 *
 *   nc|netcat|ncat [-e|-c PROGRAM] HOST PORT      nc gives the program the socket, ncat pipes
 *   nc|netcat|ncat -l [-p] PORT [-e|-c PROGRAM]
 *   socat ADDRESS ADDRESS      TCP:host:port TCP-LISTEN:port[,fork] OPENSSL:host:port (without TLS)
 *                              UNIX-CONNECT:path EXEC:command[,pty] SYSTEM:command STDIO -
 */
#define _GNU_SOURCE
#include <netdb.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PATIENCE 10000 /* ms without a byte after which a relay ends */

struct end {
    int in, out;
};

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int socket_for(const char *host, const char *port, int passive) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = passive ? AI_PASSIVE : 0};
    struct addrinfo *found, *one;
    int fd = -1, on = 1, bad = 1;

    if (getaddrinfo(host, port, &hints, &found))
        exit(1);
    for (one = found; one && bad; one = one->ai_next) {
        fd = socket(one->ai_family, SOCK_STREAM, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
        bad = passive ? bind(fd, one->ai_addr, one->ai_addrlen) || listen(fd, 8)
                      : connect(fd, one->ai_addr, one->ai_addrlen);
    }
    if (bad)
        fail(port);
    freeaddrinfo(found);
    return fd;
}

/* A guest of a listener; with `fork` each in a process of its own. */
static int guest(int listener, int forks) {
    for (;;) {
        int fd = accept(listener, NULL, NULL);

        if (fd < 0)
            fail("accept");
        if (!forks || !fork())
            return fd;
        close(fd);
    }
}

static void run_on(int in, int out, const char *command, int shell) {
    dup2(in, 0);
    dup2(out, 1);
    dup2(out, 2);
    if (shell || strchr(command, ' '))
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    execl(command, strrchr(command, '/') ? strrchr(command, '/') + 1 : command, (char *)NULL);
    execlp(command, command, (char *)NULL);
    _exit(127);
}

static struct end started(const char *command, int shell, int pipes, int terminal) {
    int to[2], from[2], pair[2], master;

    signal(SIGCHLD, SIG_IGN);
    if (terminal) {
        if (!forkpty(&master, NULL, NULL, NULL))
            run_on(0, 1, command, shell);
        return (struct end){master, master};
    }
    if (!pipes) {
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
        if (!fork())
            run_on(pair[1], pair[1], command, shell);
        close(pair[1]);
        return (struct end){pair[0], pair[0]};
    }
    if (pipe2(to, 02000000) || pipe2(from, 02000000)) /* O_CLOEXEC */
        fail("pipe");
    if (!fork())
        run_on(to[0], from[1], command, shell);
    close(to[0]);
    close(from[1]);
    return (struct end){from[0], to[1]};
}

static int carry(int from, int to) {
    char data[16384];
    ssize_t size = read(from, data, sizeof(data)), done = 0, part;

    for (; done < size; done += part)
        if ((part = write(to, data + done, size - done)) < 0)
            return 0;
    return size > 0;
}

static int relay(struct end one, struct end other, int keeps) {
    struct pollfd ends[] = {{one.in, POLLIN, 0}, {other.in, POLLIN, 0}};

    while (poll(ends, 2, PATIENCE) > 0) {
        if (ends[0].revents && !carry(one.in, other.out)) {
            if (!keeps)
                return 0;
            ends[0].fd = -1; /* standard input ended: the network goes on */
        }
        if (ends[1].revents && !carry(other.in, one.out))
            return 0;
    }
    return 0;
}

static int netcat(int argc, char **argv, int pipes) {
    const char *program = NULL, *words[2] = {0};
    int option, count = 0, listens = 0, shell = 0, fd;

    while ((option = getopt(argc, argv, "-e:c:p:w:s:i:q:lnvukz46NC")) != -1) {
        if (option == 'e' || option == 'c') {
            program = optarg;
            shell = option == 'c';
        } else if (option == 'l') {
            listens = 1;
        } else if ((option == 'p' || option == 1) && count < 2) {
            words[count++] = optarg;
        }
    }
    for (; optind < argc && count < 2; optind++)
        words[count++] = argv[optind];
    if (!count || (!listens && count < 2))
        return 1;
    fd = listens ? guest(socket_for(NULL, words[count - 1], 1), 0)
                 : socket_for(words[0], words[1], 0);
    if (program && !pipes)
        run_on(fd, fd, program, shell);
    if (program)
        return relay(started(program, shell, 1, 0), (struct end){fd, fd}, 0);
    return relay((struct end){0, 1}, (struct end){fd, fd}, 1);
}

static struct end socat_end(char *text) {
    char *rest = strchr(text, ':'), *options, *port;
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    int fd, forks;

    if (!rest)
        return (struct end){0, 1};
    *rest++ = 0;
    options = strchr(rest, ',');
    if (options)
        *options++ = 0;
    forks = options && strstr(options, "fork");
    if (!strcasecmp(text, "EXEC") || !strcasecmp(text, "SYSTEM"))
        return started(rest, !strcasecmp(text, "SYSTEM"), 0, options && strstr(options, "pty"));
    if (!strncasecmp(text, "UNIX", 4)) {
        snprintf(path.sun_path, sizeof(path.sun_path), "%s", rest);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&path, sizeof(path)))
            fail(rest);
    } else if (strcasestr(text, "-L")) {
        fd = guest(socket_for(NULL, rest, 1), forks);
    } else {
        port = strrchr(rest, ':');
        if (!port)
            exit(1);
        *port++ = 0;
        fd = socket_for(*rest == '[' ? strtok(rest, "[]") : rest, port, 0);
    }
    return (struct end){fd, fd};
}

int main(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
    int first = 1;

    signal(SIGPIPE, SIG_IGN);
    if (strcmp(name, "socat"))
        return netcat(argc, argv, !strcmp(name, "ncat"));
    while (first < argc && argv[first][0] == '-' && argv[first][1])
        first++;
    if (argc - first != 2)
        return 1;
    struct end one = socat_end(argv[first]);
    return relay(one, socat_end(argv[first + 1]), 0);
}
