/* Processes of agents: created, running a new program, ended. */
#include <files.h>
#include <path.h>
#include <streams.h>

#define SMALL_PIECE 256
#define MIDDLE_PIECE 2048
#define LARGE_PIECE 16384
#define ARGV_CHUNKS (AW_ARGV_LIMIT / LARGE_PIECE)
#define TMPFS_MAGIC 0x01021994

/* A piece with room for `capacity` bytes, or 0. */
#define reserve_piece(capacity)                                                                    \
    ((struct aw_exec_piece *)bpf_ringbuf_reserve(MAP(RECORDS),                                     \
                                                 sizeof(struct aw_exec_piece) + (capacity), 0))

INLINE void begin_piece(struct aw_exec_piece *piece, const struct aw_header *like, u16 kind,
                        u32 offset) {
    piece->header = *like;
    piece->header.type = AW_EXEC_PIECE;
    piece->kind = kind;
    piece->offset = offset;
}

/* Emits a path in one piece, which says itself whether it is whole. */
INLINE void emit_path(struct path *path, u16 kind, const struct aw_header *like) {
    struct aw_exec_piece *piece = reserve_piece(PATH_BYTES + NAME_BYTES);

    if (!reserved(piece, like->agent, AW_EXEC_PIECE))
        return;
    begin_piece(piece, like, kind, 0);
    if (!write_path(path, piece->data, &piece->length))
        piece->header.flags = AW_PIECE_CUT;
    submit(piece, RESERVED);
}

/* A part of argv from the new image's memory, `capacity` bytes at most (a constant). What cannot
 * be read stays empty: a hole. */
INLINE void argv_piece(u64 start, u32 offset, u64 length, u32 capacity,
                       const struct aw_header *like) {
    struct aw_exec_piece *piece = reserve_piece(capacity);

    if (!reserved(piece, like->agent, AW_EXEC_PIECE))
        return;
    begin_piece(piece, like, AW_PIECE_ARGV, offset);
    BOUND(length, capacity);
    piece->length = length;
    if (read_user(piece->data, length, (void *)(start + offset)))
        piece->length = 0;
    submit(piece, RESERVED);
}

/* Emits argv in pieces, to the limit; how long it is, the exec says. */
INLINE void emit_argv(u64 start, u32 length, const struct aw_header *like) {
    u32 offset = 0;
    int i;

    if (length <= SMALL_PIECE) {
        argv_piece(start, 0, length, SMALL_PIECE, like);
        return;
    }
    if (length <= MIDDLE_PIECE) {
        argv_piece(start, 0, length, MIDDLE_PIECE, like);
        return;
    }
    REPEAT(i, ARGV_CHUNKS) {
        offset = i * LARGE_PIECE;
        if (offset >= length)
            break;
        argv_piece(start, offset, length - offset, LARGE_PIECE, like);
    }
}

#define ENVIRONMENT_STEP 192  /* bytes read at a time */
#define ENVIRONMENT_STEPS 256 /* beyond that it is not looked through */
#define VARIABLES 4           /* emitted, the last ones */
#define VALUE_BYTES 1024      /* of a variable, its name included */

#define WORD(a, b, c, d, e, f, g, h)                                                               \
    ((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 |                 \
     (u64)(f) << 40 | (u64)(g) << 48 | (u64)(h) << 56)
#define FIRST(bytes) (~0ULL >> (64 - 8 * (bytes)))

/* 0 if a variable that begins so has other code loaded into the program, or run before it; else 1.
 */
INLINE u64 harmless(const u64 *text) {
    u64 a = text[0], b = text[1];
    u64 other = any(a ^ WORD('L', 'D', '_', 'P', 'R', 'E', 'L', 'O') |
                    (b ^ WORD('A', 'D', '=', 0, 0, 0, 0, 0)) & FIRST(3));

    other &= any(a ^ WORD('L', 'D', '_', 'A', 'U', 'D', 'I', 'T') | (b ^ '=') & FIRST(1));
    other &= any(a ^ WORD('L', 'D', '_', 'L', 'I', 'B', 'R', 'A') |
                 b ^ WORD('R', 'Y', '_', 'P', 'A', 'T', 'H', '='));
    other &= any(a ^ WORD('B', 'A', 'S', 'H', '_', 'E', 'N', 'V') | (b ^ '=') & FIRST(1));
    other &= any((a ^ WORD('E', 'N', 'V', '=', 0, 0, 0, 0)) & FIRST(4));
    other &= any(a ^ WORD('P', 'Y', 'T', 'H', 'O', 'N', 'S', 'T') |
                 (b ^ WORD('A', 'R', 'T', 'U', 'P', '=', 0, 0)) & FIRST(6));
    other &= any(a ^ WORD('G', 'C', 'O', 'N', 'V', '_', 'P', 'A') |
                 (b ^ WORD('T', 'H', '=', 0, 0, 0, 0, 0)) & FIRST(3));
    return other;
}

/* Emits one variable; at address 0 none, but that not all were looked through. */
INLINE void variable_piece(u64 address, const struct aw_header *like) {
    struct aw_exec_piece *piece = reserve_piece(PATH_BYTES + NAME_BYTES);
    long read = 0;

    if (!reserved(piece, like->agent, AW_EXEC_PIECE))
        return;
    begin_piece(piece, like, AW_PIECE_ENVIRONMENT, 0);
    if (address)
        read = read_user_str(piece->data, VALUE_BYTES, (void *)address);
    piece->length = read > 0 ? read : 0;
    if (read <= 0 || read == VALUE_BYTES)
        piece->header.flags = AW_PIECE_CUT;
    submit(piece, RESERVED);
}

/* Emits the variables of the new image that load code. The loop has but one branch: each costs the
 * verifier a walk through all that follows. */
INLINE void emit_environment(struct mm_struct *mm, const struct aw_header *like) {
    u64 text[ENVIRONMENT_STEP / sizeof(u64)], found[VARIABLES];
    u64 at = 0, end = 0, fresh = 1, taken, at_variable, left = VARIABLES;
    long read = 0;
    int i;

    forgotten(found, sizeof(found));
    READ(at, mm->env_start);
    READ(end, mm->env_end);
    REPEAT(i, ENVIRONMENT_STEPS) {
        read = read_user_str(text, sizeof(text), (void *)at);
        if (read < 0)
            break;
        read += 1 ^ any(read); /* kernels up to 6.12 or so call an empty text 0 bytes long, not 1 */
        /* 0 or 1. Behind the environment lie a few bytes more, then nothing to read. */
        taken = fresh & ~harmless(text) & (at - end) >> 63;
        /* Or LLVM 19, which sees that too, makes branches of what follows. The verifier does where
         * all bits or none are set: hence the products. */
        asm volatile("" : "+r"(taken));
        for (int k = VARIABLES - 1; k > 0; k--)
            found[k] += taken * (found[k - 1] - found[k]);
        found[0] += taken * (at - found[0]);
        left -= taken;
        fresh = any(read ^ ENVIRONMENT_STEP);
        at += read - 1 + fresh; /* of a longer one the rest follows */
    }
    REPEAT(i, VARIABLES) {
        at_variable = found[(VARIABLES - 1 - i) & (VARIABLES - 1)];
        if (at_variable)
            variable_piece(at_variable, like);
    }
    if (at < end || (s64)left < 0)
        variable_piece(0, like);
}

INLINE void emit_streams(struct task_struct *task, const struct aw_header *like) {
    struct aw_exec_piece *piece = reserve_piece(STREAMS * sizeof(struct stream));

    if (!reserved(piece, like->agent, AW_EXEC_PIECE))
        return;
    begin_piece(piece, like, AW_PIECE_STREAMS, 0);
    piece->length = STREAMS * sizeof(struct stream);
    write_streams(task, piece->data);
    submit(piece, RESERVED);
}

INLINE void executable(struct aw_exec *event, struct file *file) {
    struct inode *inode = 0;
    struct super_block *super = 0;
    struct dentry *dentry = 0, *parent = 0;
    u64 magic = 0;
    struct file_id id;
    u32 links = 1;
    u16 mode = 0, *flags = &event->header.flags;

    READ(inode, file->f_inode);
    READ(event->inode, inode->i_ino);
    READ(mode, inode->i_mode);
    event->mode = mode;
    READ(super, inode->i_sb);
    READ(event->device, super->s_dev);
    READ(magic, super->s_magic);
    READ(links, inode->i_nlink);
    READ(dentry, file->f_path.dentry);
    READ(parent, dentry->d_parent);
    if (!links)
        *flags |= AW_EXEC_DELETED;
    /* A memfd is an unlinked tmpfs file whose dentry hangs nowhere. */
    if (!links && magic == TMPFS_MAGIC && parent == dentry)
        *flags |= AW_EXEC_MEMFD;
    id = identify(inode);
    if (bpf_map_lookup_elem(MAP(WRITTEN), &id))
        *flags |= AW_EXEC_WRITTEN;
}

INLINE void credentials(struct aw_exec *event, struct task_struct *task) {
    const struct cred *cred = 0;
    struct user_namespace *user = 0;

    READ(cred, task->cred);
    READ(event->uid, cred->uid);
    READ(event->euid, cred->euid);
    READ(event->gid, cred->gid);
    READ(user, cred->user_ns);
    READ(event->user_ns, user->ns.inum);
}

INLINE void namespaces(struct aw_exec *event, struct task_struct *task) {
    struct nsproxy *nsproxy = 0;
    struct pid_namespace *pid = 0;
    struct mnt_namespace *mnt = 0;
    struct net *net = 0;

    READ(nsproxy, task->nsproxy);
    READ(pid, nsproxy->pid_ns_for_children);
    READ(mnt, nsproxy->mnt_ns);
    READ(net, nsproxy->net_ns);
    READ(event->pid_ns, pid->ns.inum);
    READ(event->mnt_ns, mnt->ns.inum);
    READ(event->net_ns, net->ns.inum);
}

INLINE void parent_of(struct aw_exec *event, struct task_struct *task) {
    struct task_struct *parent = 0, *leader = 0;

    READ(parent, task->real_parent);
    READ(event->parent, parent->tgid);
    READ(leader, parent->group_leader);
    READ(event->parent_start, leader->start_boottime);
}

/* tp_btf/task_newtask(struct task_struct *task, unsigned long clone_flags), in the creator's
 * context */
int on_newtask(u64 *ctx) {
    struct task_struct *child = (void *)ctx[0], *leader = 0;
    struct task_struct *creator = bpf_get_current_task_btf();
    struct tag *tag = bpf_task_storage_get(MAP(TAGS), creator, 0, 0);
    struct aw_fork *event;
    u32 agent, tgid = 0, pid = 0;

    if (!tag)
        return 0;
    agent = tag->agent;
    bpf_task_storage_get(MAP(TAGS), child, tag, BPF_LOCAL_STORAGE_GET_F_CREATE);
    READ(tgid, child->tgid);
    READ(pid, child->pid);
    if (tgid != pid)
        return 0; /* a thread, or a worker of io_uring: tagged, but no process */
    event = slot(AW_FORK, agent, RESERVED);
    if (!event)
        return 0;
    fill_task(&event->header, child);
    READ(event->parent, creator->tgid);
    READ(leader, creator->group_leader);
    READ(event->parent_start, leader->start_boottime);
    event->clone_flags = ctx[1];
    submit(event, RESERVED);
    return 0;
}

/* tp_btf/sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm) */
int on_exec(u64 *ctx) {
    struct task_struct *task = bpf_get_current_task_btf();
    struct tag *tag = bpf_task_storage_get(MAP(TAGS), task, 0, 0);
    struct aw_header like = {};
    struct aw_exec *event;
    struct mm_struct *mm = 0;
    struct file *file = 0;
    struct fs_struct *fs = 0;
    u64 arg_start = 0, arg_end = 0;
    u32 argv_length;

    if (!tag)
        return 0;
    fill_header(&like, AW_EXEC, tag->agent);
    fill_task(&like, task);
    READ(mm, task->mm);
    READ(file, mm->exe_file);
    READ(fs, task->fs);
    READ(arg_start, mm->arg_start);
    READ(arg_end, mm->arg_end);
    argv_length = arg_end - arg_start;
    emit_path(&file->f_path, AW_PIECE_EXE, &like);
    emit_path(&fs->pwd, AW_PIECE_CWD, &like);
    emit_argv(arg_start, argv_length, &like);
    emit_environment(mm, &like);
    emit_streams(task, &like);

    event = bpf_ringbuf_reserve(MAP(RECORDS), sizeof(*event), 0);
    if (!reserved(event, like.agent, AW_EXEC))
        return 0;
    __builtin_memset(event, 0, sizeof(*event));
    event->header = like;
    event->argv_length = argv_length;
    parent_of(event, task);
    credentials(event, task);
    namespaces(event, task);
    executable(event, file);
    submit(event, URGENT);
    return 0;
}

/* tp_btf/sched_process_exit(struct task_struct *p, ...): once a thread; the last one ends the
 * process */
int on_exit(u64 *ctx) {
    struct task_struct *task = bpf_get_current_task_btf();
    struct tag *tag = bpf_task_storage_get(MAP(TAGS), task, 0, 0);
    struct signal_struct *signal = 0;
    struct aw_exit *event;
    int live = 0, group_code = 0, code = 0;

    if (!tag)
        return 0;
    READ(signal, task->signal);
    READ(live, signal->live);
    if (live)
        return 0;
    event = slot(AW_EXIT, tag->agent, RESERVED);
    if (!event)
        return 0;
    fill_task(&event->header, task);
    READ(group_code, signal->group_exit_code);
    READ(code, task->exit_code);
    event->status = group_code ? group_code : code;
    submit(event, RESERVED);
    return 0;
}
