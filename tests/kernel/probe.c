// The tests' probe: counts exits of tagged tasks, lists tasks, refuses connections to one port.
#include "kernel_types.h"

#define MAP(id) ((void *)bpf_pseudo_fd(1, id))
#define COUNTS MAP(7001)
#define TAGS MAP(7002)

struct iter_task {
    struct {
        void *seq;
        u64 session;
        u64 number;
    } * meta;
    struct task_struct *task;
};

static void *(*rdonly_cast)(void *object, u32 btf_id) = (void *)900001;

static inline void add(u32 key, u64 value) {
    u64 *count = bpf_map_lookup_elem(COUNTS, &key);
    if (count)
        __sync_fetch_and_add(count, value);
}

int count_exit(u64 *ctx) {
    struct task_struct *task = bpf_get_current_task_btf();
    u64 *tag = bpf_task_storage_get(TAGS, task, 0, 0);
    if (tag) {
        add(0, 1);
        add(1, task->tgid);
    }
    return 0;
}

int list_tasks(struct iter_task *ctx) {
    struct task_struct *task = ctx->task;
    struct {
        u32 pid, tgid;
        u64 start;
    } record = {};
    if (!task)
        return 0;
    record.pid = *(volatile int *)&task->pid; /* read as one with tgid, it is refused */
    record.tgid = task->tgid;
    record.start = task->start_boottime;
    bpf_seq_write(ctx->meta->seq, &record, sizeof record);
    return 0;
}

int tag_connector(struct bpf_sock_addr *ctx) {
    return ctx->user_port != bpf_htons(4444);
}

int tag_on_exec(u64 *ctx) {
    u64 one = 1;
    struct task_struct *task = rdonly_cast((void *)ctx[0], BTF_ID_task_struct);
    add(2, task->tgid);
    bpf_task_storage_get(TAGS, bpf_get_current_task_btf(), &one, 1);
    return 0;
}
