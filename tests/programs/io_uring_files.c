/*
 * Uses files without a system call of files: everything goes through io_uring.
 *
 *   io_uring_files inline|async|sqpoll FILE OTHER NEW
 *
 * Opens FILE for reading, and OTHER into a slot of the ring's own table, so that it has no
 * descriptor; renames FILE to NEW; removes NEW. Exits 0 done, 1 failed, 77 no io_uring.
 */
#include <fcntl.h>
#include <stdint.h>

#include "ring.h"

#define OP_RENAMEAT 35 /* newer than the header of Linux 5.10 */
#define OP_UNLINKAT 36

int main(int argc, char **argv) {
    struct io_uring_sqe operation = {.fd = AT_FDCWD};
    struct ring ring;
    int none = -1;

    if (argc != 5)
        return 2;
    ring_open(&ring, argv[1]);
    if (syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_FILES, &none, 1) < 0)
        fail("register files", errno);
    operation.addr = (uintptr_t)argv[2];
    operation.opcode = IORING_OP_OPENAT;
    run(&ring, "open", operation);
    operation.addr = (uintptr_t)argv[3];
    operation.file_index = 1; /* slot 0 */
    run(&ring, "open into a slot", operation);
    operation.file_index = 0;
    operation.opcode = OP_RENAMEAT;
    operation.addr = (uintptr_t)argv[2];
    operation.len = AT_FDCWD;
    operation.off = (uintptr_t)argv[4];
    run(&ring, "rename", operation);
    operation.opcode = OP_UNLINKAT;
    operation.addr = (uintptr_t)argv[4];
    operation.len = 0;
    operation.off = 0;
    run(&ring, "unlink", operation);
    return 0;
}
