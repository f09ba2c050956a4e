/* Attempts at the watch itself: leaving the cgroup, signals at the monitor. */
#include <aw.h>

#define CGROUP_PATH_BYTES 256
#define DEFAULT_HIERARCHY 0 /* of cgroup v2 */
#define SIGCHLD 17          /* the kernel's own notice of a child's end */

/* tp_btf/cgroup_attach_task(struct cgroup *dst, const char *path, struct task_struct *task, bool)
 */
int on_cgroup_attach(u64 *ctx) {
    struct cgroup *cgroup = (void *)ctx[0];
    struct task_struct *task = (void *)ctx[2];
    struct tag *tag = bpf_task_storage_get(MAP(TAGS), task, 0, 0);
    struct cgroup_root *root = 0;
    struct kernfs_node *node = 0;
    struct aw_cgroup_move *event;
    int hierarchy = -1;
    long length;

    if (!tag)
        return 0;
    READ(root, cgroup->root);
    READ(hierarchy, root->hierarchy_id);
    if (hierarchy != DEFAULT_HIERARCHY)
        return 0;
    event = bpf_ringbuf_reserve(MAP(RECORDS), sizeof(*event) + CGROUP_PATH_BYTES, 0);
    if (!reserved(event, tag->agent, AW_CGROUP_MOVE))
        return 0;
    fill_header(&event->header, AW_CGROUP_MOVE, tag->agent);
    fill_task(&event->header, task);
    READ(node, cgroup->kn);
    READ(event->cgroup, node->id);
    event->mover = bpf_get_current_pid_tgid() >> 32;
    length = read_kernel_str(event->data, CGROUP_PATH_BYTES, (void *)ctx[1]);
    event->length = length > 0 ? length - 1 : 0;
    submit(event, URGENT);
    return 0;
}

INLINE void tell_signal(u32 agent, u32 sig, u32 target) {
    struct aw_signal *event = slot(AW_SIGNAL, agent, URGENT);

    if (!event)
        return;
    fill_current(&event->header);
    event->signal = sig;
    event->target = target;
    submit(event, URGENT);
}

/* tp_btf/signal_generate(int sig, struct kernel_siginfo *, struct task_struct *task, int, int) */
int on_signal(u64 *ctx) {
    struct task_struct *target = (void *)ctx[2];
    struct tag *tag = current_tag();
    u32 tgid = 0;

    if (!tag || ctx[0] == SIGCHLD)
        return 0;
    READ(tgid, target->tgid);
    if (is_monitor(tgid))
        tell_signal(tag->agent, ctx[0], tgid);
    return 0;
}
