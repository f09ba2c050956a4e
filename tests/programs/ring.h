/* A ring of io_uring for tests: no library, only the kernel's own header. */
#pragma once

#include <errno.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTRIES 8
#define SKIPPED 77
#define OP_SOCKET 45 /* IORING_OP_SOCKET */

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
