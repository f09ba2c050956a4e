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
#include <errno.h>
#include <linux/io_uring.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTRIES 8
#define OP_SOCKET 45 /* IORING_OP_SOCKET */
#define SKIPPED 77

static const char *const requests[] = {
    "{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[\"ring/1.0\"]}\n",
    "{\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"worker.1\",\"x\"]}\n",
};

struct ring {
    int fd;
    unsigned sqe_flags;
    int polled;
    unsigned *sq_tail, *sq_mask, *sq_array, *sq_flags;
    unsigned *cq_head, *cq_tail, *cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
};

static void fail(const char *what, int error) {
    fprintf(stderr, "%s: %s\n", what, strerror(error));
    exit(error == ENOSYS || error == EPERM ? SKIPPED : 1);
}

static void *map(int fd, size_t size, off_t offset) {
    void *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, offset);

    if (area == MAP_FAILED)
        fail("mmap", errno);
    return area;
}

static void ring_open(struct ring *ring, const char *mode) {
    struct io_uring_params params = {0};
    char *sq, *cq;

    ring->polled = !strcmp(mode, "sqpoll");
    ring->sqe_flags = !strcmp(mode, "async") ? IOSQE_ASYNC : 0;
    if (ring->polled)
        params.flags = IORING_SETUP_SQPOLL;
    ring->fd = syscall(SYS_io_uring_setup, ENTRIES, &params);
    if (ring->fd < 0)
        fail("io_uring_setup", errno);
    sq = map(ring->fd, params.sq_off.array + params.sq_entries * sizeof(unsigned),
             IORING_OFF_SQ_RING);
    cq = map(ring->fd, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
             IORING_OFF_CQ_RING);
    ring->sqes = map(ring->fd, params.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
    ring->sq_tail = (unsigned *)(sq + params.sq_off.tail);
    ring->sq_mask = (unsigned *)(sq + params.sq_off.ring_mask);
    ring->sq_array = (unsigned *)(sq + params.sq_off.array);
    ring->sq_flags = (unsigned *)(sq + params.sq_off.flags);
    ring->cq_head = (unsigned *)(cq + params.cq_off.head);
    ring->cq_tail = (unsigned *)(cq + params.cq_off.tail);
    ring->cq_mask = (unsigned *)(cq + params.cq_off.ring_mask);
    ring->cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
}

/* Hand the kernel what was queued and wait for one completion. */
static void ring_enter(struct ring *ring) {
    unsigned flags = IORING_ENTER_GETEVENTS;
    int submit = ring->polled ? 0 : 1;

    if (ring->polled) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (__atomic_load_n(ring->sq_flags, __ATOMIC_RELAXED) & IORING_SQ_NEED_WAKEUP)
            flags |= IORING_ENTER_SQ_WAKEUP;
    }
    while (syscall(SYS_io_uring_enter, ring->fd, submit, 1, flags, NULL, 0) < 0) {
        if (errno != EINTR)
            fail("io_uring_enter", errno);
        if (__atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE) != *ring->cq_head)
            return;
        submit = 0;
    }
}

/* Run one operation; return its result, exit on an error. */
static int run(struct ring *ring, const char *what, struct io_uring_sqe operation) {
    unsigned tail = *ring->sq_tail, slot = tail & *ring->sq_mask;
    unsigned head = *ring->cq_head;
    int result;

    operation.flags = ring->sqe_flags;
    ring->sqes[slot] = operation;
    ring->sq_array[slot] = slot;
    __atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE) == head)
        ring_enter(ring);
    result = ring->cqes[head & *ring->cq_mask].res;
    __atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
    if (result == -EINVAL && operation.opcode == OP_SOCKET)
        fail(what, ENOSYS);
    if (result < 0)
        fail(what, -result);
    return result;
}

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
