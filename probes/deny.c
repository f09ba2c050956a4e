/* What the kernel refuses agents, on LSM hooks: nothing that others do is refused.
 *
 * DENIED says of each agent whether the watch is guarded against it, and whether it is blocked. A
 * refusal is told once a second for the same process and the same thing. Packets of a blocked
 * agent are dropped in payload.c.
 */
#include <aw.h>

#define EPERM 1
#define PTRACE_MODE_ATTACH 2 /* of tracing, reading and writing memory; not of reading in /proc */
#define READING_MODULE 2     /* enum kernel_read_file_id; after it come kinds of kernels */
#define READING_KERNEL_LAST 4
#define LOOK_DENIAL 0x100 /* access of a key of LOOKED_AT: beyond those of files */

/* The agent of the current task, if this is denied to it, or 0. */
INLINE u32 denied(u32 what) {
    struct tag *tag = current_tag();
    u32 agent, *of_agent;

    if (!tag)
        return 0;
    agent = tag->agent;
    of_agent = bpf_map_lookup_elem(MAP(DENIED), &agent);
    return of_agent && *of_agent & what ? agent : 0;
}

/* Tells of a refusal, and refuses. */
INLINE int deny(u32 agent, u32 what, u32 target, u64 argument) {
    struct file_id thing = {.inode = argument, .device = target};
    struct aw_denied *event;

    if (just_seen(&thing, LOOK_DENIAL | what))
        return -EPERM;
    event = slot(AW_DENIED, agent, RESERVED);
    if (!event)
        return -EPERM;
    fill_current(&event->header);
    event->argument = argument;
    event->target = target;
    event->what = what;
    submit(event, URGENT);
    return -EPERM;
}

/* lsm/bprm_creds_for_exec(struct linux_binprm *) */
int deny_exec(u64 *ctx) {
    u32 agent = denied(AW_BLOCKED);

    return agent ? deny(agent, AW_DENIAL_EXEC, 0, 0) : 0;
}

/* lsm/socket_connect(struct socket *, struct sockaddr *, int) */
int deny_connect(u64 *ctx) {
    u32 agent = denied(AW_BLOCKED);

    return agent ? deny(agent, AW_DENIAL_CONNECT, 0, 0) : 0;
}

/* lsm/file_open(struct file *): those whose name is watched; user space is not asked for the rest
 * of the path */
int deny_open(u64 *ctx) {
    u32 agent = denied(AW_BLOCKED), mode = 0, use;
    struct file *file = (void *)ctx[0];

    if (!agent)
        return 0;
    READ(mode, file->f_mode);
    use = mode & MODE_WRITE ? AW_WATCHED_WRITE : AW_WATCHED_READ;
    if (!path_watched(&file->f_path, 0, use))
        return 0;
    return deny(agent, AW_DENIAL_OPEN, 0, 0);
}

/* lsm/ptrace_access_check(struct task_struct *child, unsigned int mode) */
int deny_ptrace(u64 *ctx) {
    u32 agent = denied(AW_GUARDED), target = 0;
    struct task_struct *child = (void *)ctx[0];

    if (!agent || !(ctx[1] & PTRACE_MODE_ATTACH))
        return 0;
    READ(target, child->tgid);
    return is_monitor(target) ? deny(agent, AW_DENIAL_PTRACE, target, 0) : 0;
}

/* lsm/task_kill(struct task_struct *, struct kernel_siginfo *, int sig, const struct cred *): on
 * the way of signals that processes send; 0 only asks whether there is somebody */
int deny_kill(u64 *ctx) {
    u32 agent = denied(AW_GUARDED), target = 0, sig = ctx[2];
    struct task_struct *task = (void *)ctx[0];

    if (!agent || !sig)
        return 0;
    READ(target, task->tgid);
    if (!is_monitor(target))
        return 0;
    tell_signal(agent, sig, target);
    return deny(agent, AW_DENIAL_SIGNAL, target, sig);
}

/* lsm/bpf(int cmd, union bpf_attr *, unsigned int size) */
int deny_bpf(u64 *ctx) {
    u32 agent = denied(AW_GUARDED), command = ctx[0];

    return agent ? deny(agent, AW_DENIAL_BPF, 0, command) : 0;
}

INLINE int code_loaded(u32 kind) {
    u32 agent = denied(AW_GUARDED);

    if (!agent || kind < READING_MODULE || kind > READING_KERNEL_LAST)
        return 0;
    return deny(agent, AW_DENIAL_MODULE, 0, kind);
}

/* lsm/kernel_read_file(struct file *, enum kernel_read_file_id, bool): from a descriptor */
int deny_code_file(u64 *ctx) {
    return code_loaded(ctx[1]);
}

/* lsm/kernel_load_data(enum kernel_load_data_id, bool): from memory */
int deny_code_data(u64 *ctx) {
    return code_loaded(ctx[0]);
}
