/* Ends of system calls: what their tracepoints give, and what an argument stands for. */
#pragma once

#include <aw.h>

/* The context of tracepoint/syscalls/sys_exit_*: struct syscall_tp_t of kernel/trace. */
struct syscall_end {
    u64 unused;
    u64 number; /* in the lower half */
    s64 result;
};

/* Reads a text of the process, or a copy that the kernel has (addresses of the upper half). */
INLINE long read_text(void *to, u32 size, u64 from) {
    if ((s64)from < 0)
        return read_kernel_str(to, size, (void *)from);
    return read_user_str(to, size, (void *)from);
}

INLINE struct file *open_file(s32 fd) {
    struct task_struct *task = (void *)bpf_get_current_task();
    struct files_struct *files = 0;
    struct fdtable *table = 0;
    struct file **open = 0, *file = 0;
    u32 size = 0;

    READ(files, task->files);
    READ(table, files->fdt);
    READ(size, table->max_fds);
    if (fd < 0 || (u32)fd >= size)
        return 0;
    READ(open, table->fd);
    READ(file, open[fd]);
    return file;
}
