/*
 * A stand-in for tools that are absent: it goes by any name, and does of each what is seen outside.
 *
 * By the name it is called with: miners log in at the pool of `-o`, tunnel tools connect to their
 * service, insmod and bpftool make their system call with nothing in it, tcpdump opens its socket,
 * nmap knocks at ports, sshpass runs the command behind its options, servers listen on the port
 * that they are told. Everything else ends at once.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <netdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PATIENCE 6 /* seconds that a connection or a listener is held */
#define LOGIN                                                                                      \
    "{\"id\":1,\"jsonrpc\":\"2.0\",\"method\":\"login\",\"params\":{\"login\":\"w\",\"pass\":"     \
    "\"x\","                                                                                       \
    "\"agent\":\"stub/1.0\",\"algo\":[\"rx/0\"]}}\n"

static const struct service {
    const char *tool, *host, *port, *hello;
} services[] = {
    {"bore", "bore.pub", "7835", "{\"Hello\":9001}"},
    {"cloudflared", "region1.v2.argotunnel.com", "7844", NULL},
    {"ngrok", "connect.ngrok-agent.com", "443", NULL},
    {"tmate", "ssh.tmate.io", "22", "SSH-2.0-tmate\r\n"},
    {"gs-netcat", "gs.thc.org", "443", NULL},
    {"devtunnel", "global.rel.tunnels.api.visualstudio.com", "443", NULL},
    {"tailscale", "controlplane.tailscale.com", "443", NULL},
    {"lt", "localtunnel.me", "443", NULL},
    {"tor", "203.0.113.77", "9001", NULL},
    {"codex", "api.openai.com", "443", NULL},
    {"claude", "api.anthropic.com", "443", NULL},
};

static int reach(const char *host, const char *port) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL, *one;
    int fd = -1;

    if (getaddrinfo(host, port, &hints, &found))
        return -1;
    for (one = found; one; one = one->ai_next) {
        fd = socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && !connect(fd, one->ai_addr, one->ai_addrlen))
            break;
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

static unsigned char *put(unsigned char *at, unsigned value, int bytes) {
    while (bytes--)
        *at++ = value >> (8 * bytes);
    return at;
}

/* The first message of TLS 1.2 (RFC 5246, 7.4.1.2), with the server's name (RFC 6066, 3). */
static void say_client_hello(int fd, const char *host) {
    static const unsigned char middle[] = "\0"                   /* no session */
                                          "\0\4\xc0\x2b\xc0\x2f" /* ECDHE with AES-GCM */
                                          "\1\0";                /* no compression */
    static const unsigned char rest[] = "\0\x0a\0\4\0\2\0\x17"   /* secp256r1 */
                                        "\0\x0d\0\4\0\2\4\3";    /* ECDSA with SHA-256 */
    unsigned char message[512], *at = message;
    unsigned name = strlen(host);

    if (name > 255)
        return;
    at = put(put(at, 0x160301, 3), 74 + name, 2);
    at = put(put(at, 1, 1), 70 + name, 3);
    at = put(at, 0x0303, 2);
    at += getrandom(at, 32, 0);
    at = mempcpy(at, middle, sizeof(middle) - 1);
    at = put(at, 25 + name, 2); /* extensions: the name, then the rest */
    at = put(put(at, 0, 2), name + 5, 2);
    at = put(put(put(at, name + 3, 2), 0, 1), name, 2);
    at = mempcpy(mempcpy(at, host, name), rest, sizeof(rest) - 1);
    if (write(fd, message, at - message) < 0)
        exit(1);
}

/* Say hello, in TLS where that is what is spoken there, then take what comes for a while. */
static int talk(const char *host, const char *port, const char *hello) {
    struct timeval limit = {.tv_sec = 1};
    int fd = reach(host, port), turn;
    char buffer[4096];

    if (fd < 0)
        return 1;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    if (hello && write(fd, hello, strlen(hello)) < 0)
        return 1;
    if (!hello && (!strcmp(port, "443") || !strcmp(port, "8443") || !strcmp(port, "7844")))
        say_client_hello(fd, host);
    for (turn = 0; turn < PATIENCE; turn++)
        if (!read(fd, buffer, sizeof(buffer)))
            break;
    return 0;
}

/* [scheme://][user@]HOST:PORT[/...] */
static int talk_url(const char *text, const char *hello) {
    char copy[256], *host = copy, *port, *mark;

    snprintf(copy, sizeof(copy), "%s", text);
    if ((mark = strstr(host, "://")))
        host = mark + 3;
    if ((mark = strchr(host, '@')))
        host = mark + 1;
    host[strcspn(host, "/")] = 0;
    port = strrchr(host, ':');
    if (!port)
        return talk(host, strncmp(text, "http:", 5) && strncmp(text, "ws:", 3) ? "443" : "80",
                    hello);
    *port = 0;
    return talk(host, port + 1, hello);
}

static int serve(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 8))
        return 1;
    sleep(PATIENCE);
    return 0;
}

static const char *value_of(char **argv, const char *name) {
    size_t length = strlen(name);

    for (; *argv; argv++) {
        if (!strcmp(*argv, name))
            return argv[1];
        if (!strncmp(*argv, name, length) && (*argv)[length] == '=')
            return *argv + length + 1;
    }
    return NULL;
}

/* The first argument that names a remote side: host:port or a URL, not one on this host. */
static const char *remote_of(char **argv) {
    for (argv++; *argv; argv++) {
        const char *colon = strrchr(*argv, ':');

        if (strstr(*argv, "localhost") || strstr(*argv, "127.0.0.1") || !strncmp(*argv, "R:", 2))
            continue;
        if (strstr(*argv, "://") || (colon && strchr(*argv, '.') && atoi(colon + 1) > 0))
            return *argv;
    }
    return NULL;
}

static int load_program(void) {
    const struct bpf_insn program[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr attributes = {
        .prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
        .insn_cnt = sizeof(program) / sizeof(program[0]),
        .insns = (uintptr_t)program,
        .license = (uintptr_t) "GPL",
    };

    return syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof(attributes)) < 0;
}

/* A socket that sees every packet, held for a moment. */
static int sniff(void) {
    int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));

    sleep(1);
    return fd < 0;
}

/* Connect to the first ports of a host, one after the other; with -sS by a raw socket, unsent. */
static int scan(char **argv) {
    char port[8], local[] = "127.0.0.1", *host = local;
    int number, fd;

    for (argv++; *argv; argv++) {
        if (!strcmp(*argv, "-sS") && socket(AF_INET, SOCK_RAW, IPPROTO_TCP) < 0)
            return 1;
        if (**argv != '-' && strchr(*argv, '.'))
            host = *argv;
    }
    host[strcspn(host, "/")] = 0;
    for (number = 1; number <= 400; number++) {
        snprintf(port, sizeof(port), "%d", number);
        if ((fd = reach(host, port)) >= 0)
            close(fd);
    }
    return 0;
}

int main(int argc, char **argv) {
    const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0], *text;
    size_t index;

    if (!strcmp(name, "insmod") || !strcmp(name, "modprobe"))
        return syscall(SYS_init_module, NULL, 0UL, "") < 0;
    if (!strcmp(name, "bpftool"))
        return value_of(argv, "load") ? load_program() : 0;
    if (!strcmp(name, "tcpdump") || !strcmp(name, "tshark"))
        return sniff();
    if (!strcmp(name, "nmap") || !strcmp(name, "masscan"))
        return scan(argv);
    if (!strcmp(name, "sshpass")) {
        for (argv++; *argv && **argv == '-'; argv++)
            if (!strcmp(*argv, "-p") || !strcmp(*argv, "-f"))
                argv++;
        if (*argv)
            execvp(*argv, argv);
        return 127;
    }
    if ((text = value_of(argv, "-o")) && strchr(text, ':'))
        return talk_url(text, LOGIN);
    if ((text = value_of(argv, "--url")) && strstr(text, "stratum"))
        return talk_url(text, LOGIN);
    for (index = 0; index < sizeof(services) / sizeof(services[0]); index++)
        if (!strcmp(name, services[index].tool))
            return talk(services[index].host, services[index].port, services[index].hello);
    if ((text = remote_of(argv)))
        return talk_url(text, NULL);
    if ((text = value_of(argv, "--port")) && atoi(text) > 0)
        return serve(atoi(text));
    if (argc == 3 && strstr(name, "mine") && atoi(argv[2]) > 0) /* ./miner HOST PORT */
        return talk(argv[1], argv[2], LOGIN);
    return 0;
}
