/* What takes privilege, or makes it: namespaces, mounts, modules, eBPF, tracing other processes,
 * and sockets of the families that cgroup hooks do not report (packet, vsock, AF_ALG, ...).
 *
 * Seen at the end of the system call, by its result and its arguments. One program serves all of
 * them, in two ways: behind the kernel's function of the call (fexit), or at the tracepoint.
 */
#include <calls.h>
#include <path.h>

#ifdef HAVE_pt_regs__di

#define TEXT_ROOM 1024 /* a power of two */
#define TEXT_PART 256
#define NR_socket 41 /* x86-64: arch/x86/entry/syscalls/syscall_64.tbl */
#define NR_ptrace 101
#define NR_pivot_root 155
#define NR_chroot 161
#define NR_mount 165
#define NR_init_module 175
#define NR_unshare 272
#define NR_setns 308
#define NR_process_vm_readv 310
#define NR_process_vm_writev 311
#define NR_finit_module 313
#define NR_bpf 321
#define NR_move_mount 429
#define AF_NETLINK 16
#define SOCK_TYPE_MASK 0xf
#define PTRACE_ATTACH 16
#define PTRACE_SEIZE 0x4206
#define NAMESPACES 0x7e020080 /* CLONE_NEW*, all of them */
#define NSFS_MAGIC 0x6e736673

/* Value of INITIAL: numbers of the host's namespaces. */
struct initial {
    u32 numbers[AW_NAMESPACES];
};

/* The registers of a system call that has ended. */
struct call {
    u64 first;
    u64 second;
    u64 third;
    u64 fourth;
    s64 result;
    u32 number;
};

INLINE bool is_initial(u32 number) {
    u32 key = 0;
    struct initial *initial = bpf_map_lookup_elem(MAP(INITIAL), &key);

    if (!initial || !number)
        return false;
    for (int i = 0; i < AW_NAMESPACES; i++)
        if (initial->numbers[i] == number)
            return true;
    return false;
}

/* Adds a text of the process's, or of the kernel's, ended by NUL. */
INLINE void add_text(struct aw_privileged *event, u64 text) {
    u32 used = event->length;
    long read = 0;
    u8 *at;

    asm volatile("" : "+r"(used));
    at = event->data + (used & (TEXT_ROOM - 1));
    if (text)
        read = read_text(at, TEXT_PART, text);
    if (read == TEXT_PART)
        event->header.flags |= AW_PRIVILEGED_CUT;
    if (read <= 0) {
        *at = 0;
        read = 1;
    }
    event->length = used + read;
}

/* setns: which namespace the descriptor stands for, unless it is a process's. */
INLINE void entered(struct aw_privileged *event, s32 fd) {
    struct task_struct *task = (void *)bpf_get_current_task();
    struct file *file = open_file(fd);
    struct inode *inode = 0;
    struct super_block *super = 0;
    struct nsproxy *nsproxy = 0;
    struct mnt_namespace *mnt = 0;
    struct net *net = 0;
    struct pid_namespace *pid = 0;
    u64 magic = 0, inode_number = 0;
    u32 number = 0;

    if (file) {
        READ(inode, file->f_inode);
        READ(super, inode->i_sb);
        READ(magic, super->s_magic);
        READ(inode_number, inode->i_ino);
    }
    if (magic == NSFS_MAGIC) {
        event->argument = inode_number; /* it is the namespace's number */
        if (is_initial(inode_number))
            event->header.flags |= AW_PRIVILEGED_INITIAL;
        return;
    }
    READ(nsproxy, task->nsproxy);
    READ(mnt, nsproxy->mnt_ns);
    READ(net, nsproxy->net_ns);
    READ(pid, nsproxy->pid_ns_for_children);
    READ(number, mnt->ns.inum);
    if (event->detail & AW_NAMESPACE_MNT && is_initial(number))
        event->header.flags |= AW_PRIVILEGED_INITIAL;
    READ(number, net->ns.inum);
    if (event->detail & AW_NAMESPACE_NET && is_initial(number))
        event->header.flags |= AW_PRIVILEGED_INITIAL;
    READ(number, pid->ns.inum);
    if (event->detail & AW_NAMESPACE_PID && is_initial(number))
        event->header.flags |= AW_PRIVILEGED_INITIAL;
}

/* ptrace: whom the caller traces since just now: the first of its list. */
INLINE struct task_struct *traced(void) {
    struct task_struct *task = (void *)bpf_get_current_task();
    u64 entry = 0;

    READ(entry, task->ptraced.next);
    if (!entry || entry == (u64)&task->ptraced)
        return 0;
    return (void *)(entry - __builtin_offsetof(struct task_struct, ptrace_entry));
}

/* socket: which, and its inode: by that, user space finds it again. */
INLINE void made(struct aw_privileged *event, const struct call *call) {
    struct file *file = open_file(call->result);
    struct inode *inode = 0;

    if (file) {
        READ(inode, file->f_inode);
        READ(event->argument, inode->i_ino);
    }
    event->detail =
        (u16)call->first | (call->second & SOCK_TYPE_MASK) << 16 | (u64)(u16)call->third << 32;
}

/* move_mount: what was moved, as the kernel knows it. */
INLINE void moved(struct aw_privileged *event, s32 fd, u64 target) {
    struct file *file = open_file(fd);
    struct vfsmount *vfsmount = 0;
    struct super_block *super = 0;
    struct file_system_type *type = 0;
    struct mount *mount;
    u64 source = 0, name = 0;

    if (file) {
        READ(vfsmount, file->f_path.mnt);
        mount = mount_of(vfsmount);
        READ(source, mount->mnt_devname);
        READ(super, vfsmount->mnt_sb);
        READ(type, super->s_type);
        READ(name, type->name);
    }
    add_text(event, source);
    add_text(event, target);
    add_text(event, name);
}

/* Whether sockets of this family are told by other hooks, or are of no concern. */
INLINE bool is_reported(u32 family) {
    return family == AF_UNIX || family == AF_INET || family == AF_INET6 || family == AF_NETLINK;
}

/* What the call means, or 0: it is of no concern. */
INLINE u32 meaning(const struct call *call) {
    switch (call->number) {
    case NR_socket:
        return is_reported(call->first) ? 0 : AW_OPERATION_SOCKET;
    case NR_unshare:
        return call->first & NAMESPACES ? AW_OPERATION_UNSHARE : 0;
    case NR_setns:
        return AW_OPERATION_SETNS;
    case NR_mount:
        return AW_OPERATION_MOUNT;
    case NR_move_mount:
        return AW_OPERATION_MOVE_MOUNT;
    case NR_pivot_root:
        return AW_OPERATION_PIVOT_ROOT;
    case NR_chroot:
        return AW_OPERATION_CHROOT;
    case NR_bpf:
        return AW_OPERATION_BPF;
    case NR_init_module:
    case NR_finit_module:
        return AW_OPERATION_MODULE;
    case NR_ptrace:
        return call->first == PTRACE_ATTACH || call->first == PTRACE_SEIZE ? AW_OPERATION_PTRACE
                                                                           : 0;
    case NR_process_vm_readv:
    case NR_process_vm_writev:
        return AW_OPERATION_MEMORY;
    }
    return 0;
}

/* Whether it is worth telling: it succeeded, or was tried on the monitor. */
INLINE bool told(const struct call *call, u32 operation) {
    if (operation == AW_OPERATION_BPF)
        return call->result >= 0 && AW_BPF_TOLD >> (call->first & 63) & 1;
    if (operation == AW_OPERATION_MEMORY)
        return call->first != (u32)(bpf_get_current_pid_tgid() >> 32) &&
               (call->result >= 0 || is_monitor(call->first));
    return call->result >= 0 || (operation == AW_OPERATION_PTRACE && is_monitor(call->second));
}

INLINE void aim(struct aw_privileged *event, u32 pid) {
    event->target = pid;
    if (is_monitor(pid))
        event->header.flags |= AW_PRIVILEGED_MONITOR;
}

INLINE void describe(struct aw_privileged *event, const struct call *call) {
    struct task_struct *target, *leader = 0;
    u32 tgid = 0;

    switch (event->operation) {
    case AW_OPERATION_SOCKET:
        made(event, call);
        break;
    case AW_OPERATION_UNSHARE:
        event->detail = call->first & NAMESPACES;
        break;
    case AW_OPERATION_SETNS:
        event->detail = call->second;
        entered(event, call->first);
        break;
    case AW_OPERATION_MOUNT:
        event->detail = call->fourth;
        add_text(event, call->first);
        add_text(event, call->second);
        add_text(event, call->third);
        break;
    case AW_OPERATION_MOVE_MOUNT:
        moved(event, call->first, call->fourth);
        break;
    case AW_OPERATION_PIVOT_ROOT:
    case AW_OPERATION_CHROOT:
        add_text(event, call->first);
        break;
    case AW_OPERATION_BPF:
        event->detail = call->first;
        break;
    case AW_OPERATION_MEMORY:
        event->detail = call->number == NR_process_vm_writev;
        aim(event, call->first);
        break;
    case AW_OPERATION_PTRACE:
        aim(event, call->second);
        target = call->result < 0 ? 0 : traced();
        if (!target)
            break;
        READ(tgid, target->tgid); /* the number asked for is one of the caller's own namespace */
        READ(leader, target->group_leader);
        READ(event->argument, leader->start_boottime);
        aim(event, tgid);
        break;
    }
}

INLINE void ended(const struct call *call, u32 agent) {
    u32 operation = meaning(call);
    struct aw_privileged *event;

    if (!operation || !told(call, operation))
        return;
    event = 0;
    if (records_open(ROUTINE))
        event = bpf_ringbuf_reserve(MAP(RECORDS), sizeof(*event) + TEXT_ROOM + TEXT_PART, 0);
    if (!reserved(event, agent, AW_PRIVILEGED))
        return;
    __builtin_memset(event, 0, sizeof(*event));
    fill_header(&event->header, AW_PRIVILEGED, agent);
    fill_current(&event->header);
    event->operation = operation;
    describe(event, call);
    submit(event, URGENT);
}

INLINE void fill_call(struct call *call, struct pt_regs *regs) {
    READ(call->first, regs->di);
    READ(call->second, regs->si);
    READ(call->third, regs->dx);
    READ(call->fourth, regs->r10);
}

/* tracepoint/syscalls/sys_exit_* */
int on_call_end(struct syscall_end *ctx) {
    struct tag *tag = current_tag();
    struct call call = {};

    if (!tag)
        return 0;
    call.number = ctx->number;
    call.result = ctx->result;
    fill_call(&call, task_pt_regs(bpf_get_current_task_btf()));
    ended(&call, tag->agent);
    return 0;
}

/* fexit/__x64_sys_*(const struct pt_regs *) */
int on_call_return(u64 *ctx) {
    struct tag *tag = current_tag();
    struct pt_regs *regs = (void *)ctx[0];
    struct call call = {};
    u64 number = 0;

    if (!tag)
        return 0;
    READ(number, regs->orig_ax);
    call.number = number;
    call.result = ctx[1];
    fill_call(&call, regs);
    ended(&call, tag->agent);
    return 0;
}

#endif
