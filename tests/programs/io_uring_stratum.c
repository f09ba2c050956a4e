/*
 * A stratum client that makes no socket system call: everything goes through io_uring.
 *
 *   io_uring_stratum [inline|async|sqpoll] ADDRESS PORT
 *
 * inline (as without a word): submitted and executed in io_uring_enter; async: forced onto a kernel
 * worker (IOSQE_ASYNC); sqpoll: submitted by the kernel's polling thread. ADDRESS is IPv4 or IPv6.
 * Subscribes, authorizes, reads one answer to each, and exits: 0 done, 1 failed, 2 usage,
 * 77 the kernel has no io_uring or no IORING_OP_SOCKET (5.19). Only the kernel's own header
 * is used, and numbers newer than Linux 5.15 are written out.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>

#include "ring.h"

static const char *const requests[] = {
    "{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[\"ring/1.0\"]}\n",
    "{\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"worker.1\",\"x\"]}\n",
};

static socklen_t parse(struct sockaddr_storage *address, const char *text, int port) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;

    memset(address, 0, sizeof(*address));
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return sizeof(*v4);
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        return sizeof(*v6);
    }
    return 0;
}

int main(int argc, char **argv) {
    struct ring ring = {0};
    struct sockaddr_storage address;
    char answer[4096];
    socklen_t length;
    size_t index;
    int fd;

    if (argc < 3 || argc > 4 || !(length = parse(&address, argv[argc - 2], atoi(argv[argc - 1])))) {
        fprintf(stderr, "usage: %s [inline|async|sqpoll] ADDRESS PORT\n", argv[0]);
        return 2;
    }
    ring_open(&ring, argc == 4 ? argv[1] : "inline");
    fd = run(&ring, "socket",
             (struct io_uring_sqe){
                 .opcode = OP_SOCKET, .fd = address.ss_family, .off = SOCK_STREAM, .len = 0});
    run(&ring, "connect",
        (struct io_uring_sqe){
            .opcode = IORING_OP_CONNECT, .fd = fd, .addr = (uintptr_t)&address, .off = length});
    for (index = 0; index < sizeof(requests) / sizeof(requests[0]); index++) {
        run(&ring, "send",
            (struct io_uring_sqe){.opcode = IORING_OP_SEND,
                                  .fd = fd,
                                  .addr = (uintptr_t)requests[index],
                                  .len = strlen(requests[index])});
        if (!run(&ring, "recv",
                 (struct io_uring_sqe){.opcode = IORING_OP_RECV,
                                       .fd = fd,
                                       .addr = (uintptr_t)answer,
                                       .len = sizeof(answer)})) {
            fprintf(stderr, "the pool hung up\n");
            return 1;
        }
    }
    return 0;
}
