/* Files of the watched set that agents open, make, rename and remove; and which files they wrote.
 *
 * What is watched, user space says by names in WATCHED: a file is a candidate when its own name or
 * that of a folder a little above it is there, and user space judges the whole path. Everything
 * else ends here. Two sets of hooks lead here: functions of the kernel (fentry), or the ends of
 * system calls and of io_uring's requests where this kernel has no trampolines.
 */
#include <calls.h>
#include <files.h>
#include <path.h>

#define MODE_WRITE 2 /* fmode_t: include/linux/fs.h */
#define MODE_PATH (1 << 14)
#define MODE_CREATED (1 << 20)
#define MODE_INNER (1 << 29) /* FMODE_NOACCOUNT: opened by the kernel on behalf of another file */
#define MOUNTS_CROSSED 2     /* on the way up the names that decide */
#define TEXT_BYTES 512       /* a power of two */
#define SPLIT_BYTES 128      /* of a path in which its last names are looked for */
#define AT_FDCWD -100

/* Key of WATCHED: a name, padded with NUL. Longer ones are compared as far as this. */
struct name {
    char text[AW_WATCHED_NAME];
};

/* Key of LOOKED_AT: what needs no second record for a while. */
struct look {
    struct file_id file;
    u32 tgid;
    u32 access;
};

/* Whether names of this spelling matter `level` folders above a file that is used in this way. */
INLINE bool name_watched(const struct name *name, u32 level, u32 use) {
    u32 *levels = bpf_map_lookup_elem(MAP(WATCHED), name);

    return levels && *levels & (use << level);
}

/* Whether the name at `level` is that of the path's end, or one above is in the set. */
INLINE bool path_watched(struct path *path, u32 level, u32 use) {
    struct dentry *dentry = 0, *root = 0, *parent = 0;
    struct vfsmount *vfsmount = 0;
    struct mount *mount, *above = 0;
    const u8 *text = 0;
    bool watched = false;
    int i;

    READ(dentry, path->dentry);
    READ(vfsmount, path->mnt);
    mount = mount_of(vfsmount);
    REPEAT(i, AW_WATCHED_LEVELS + MOUNTS_CROSSED) {
        struct name name = {};

        if (level >= AW_WATCHED_LEVELS)
            break;
        READ(root, mount->mnt.mnt_root);
        if (dentry == root) {
            READ(above, mount->mnt_parent);
            if (!above || above == mount)
                break;
            READ(dentry, mount->mnt_mountpoint);
            mount = above;
            continue;
        }
        READ(text, dentry->d_name.name);
        if (read_kernel_str(name.text, sizeof(name.text), text) <= 0)
            break;
        watched = name_watched(&name, level, use);
        if (watched)
            break;
        READ(parent, dentry->d_parent);
        if (parent == dentry)
            break;
        dentry = parent;
        level++;
    }
    return watched;
}

/* The process id as the process itself knows it: /proc shows that. */
INLINE u32 own_pid(void) {
    struct task_struct *task = (void *)bpf_get_current_task(), *leader = 0;
    struct pid *pid = 0;
    struct upid *innermost;
    u32 level = 0, number = 0;

    READ(leader, task->group_leader);
    READ(pid, leader->thread_pid);
    READ(level, pid->level);
    innermost = (void *)((u64)pid + __builtin_offsetof(struct pid, numbers));
    READ(number, innermost[level].nr);
    return number;
}

/* A record with room for `text` bytes and a path, or 0. A flood of them crowds out nothing else. */
#define reserve_access(agent, text)                                                                \
    ({                                                                                             \
        struct aw_file_access *_event = 0;                                                         \
        if (records_open(ROUTINE))                                                                 \
            _event = bpf_ringbuf_reserve(MAP(RECORDS),                                             \
                                         sizeof(*_event) + (text) + PATH_BYTES + NAME_BYTES, 0);   \
        reserved(_event, agent, AW_FILE_ACCESS) ? _event : 0;                                      \
    })

INLINE void begin_access(struct aw_file_access *event, u32 agent, u16 access) {
    __builtin_memset(event, 0, sizeof(*event));
    fill_header(&event->header, AW_FILE_ACCESS, agent);
    fill_current(&event->header);
    event->access = access;
    event->own_pid = own_pid();
}

/* Emits what happened to the file that has this path. */
INLINE void emit_access(struct path *path, struct inode *inode, u16 access, u32 agent) {
    struct aw_file_access *event = reserve_access(agent, 0);
    u16 mode = 0;

    if (!event)
        return;
    begin_access(event, agent, access);
    if (inode) {
        READ(mode, inode->i_mode);
        event->mode = mode;
    }
    if (!write_path(path, event->data, &event->length))
        event->header.flags = AW_FILE_CUT;
    submit(event, URGENT);
}

/* Whether this process has just used this file in this way. */
INLINE bool just_seen(const struct file_id *file, u32 access) {
    struct look look = {.file = *file, .access = access};
    u64 now = bpf_ktime_get_boot_ns(), *last;

    look.tgid = bpf_get_current_pid_tgid() >> 32;
    last = bpf_map_lookup_elem(MAP(LOOKED_AT), &look);
    if (last && now - *last < AW_FILE_INTERVAL_NS)
        return true;
    bpf_map_update_elem(MAP(LOOKED_AT), &look, &now, BPF_ANY);
    return false;
}

INLINE void opened(struct file *file, u32 agent) {
    struct inode *inode = 0;
    struct file_id id;
    u32 mode = 0, access, use;
    u16 type = 0;

    READ(mode, file->f_mode);
    READ(inode, file->f_inode);
    READ(type, inode->i_mode);
    type &= S_IFMT;
    /* An overlay opens the file below for itself, which is no second use of it. */
    if (mode & (MODE_PATH | MODE_INNER) || (type != S_IFREG && type != S_IFCHR && type != S_IFBLK))
        return;
    access = mode & MODE_CREATED ? AW_ACCESS_CREATE
             : mode & MODE_WRITE ? AW_ACCESS_WRITE
                                 : AW_ACCESS_READ;
    use = access == AW_ACCESS_READ ? AW_WATCHED_READ : AW_WATCHED_WRITE;
    id = identify(inode);
    if (mode & MODE_WRITE && type == S_IFREG)
        bpf_map_update_elem(MAP(WRITTEN), &id, &agent, BPF_ANY);
    if (type != S_IFBLK && !path_watched(&file->f_path, 0, use))
        return;
    if (!just_seen(&id, access))
        emit_access(&file->f_path, inode, access, agent);
}

/* fentry/security_file_open(struct file *) */
int on_file_open(u64 *ctx) {
    struct tag *tag = current_tag();

    if (tag)
        opened((void *)ctx[0], tag->agent);
    return 0;
}

/* A name in a folder is about to change. */
INLINE void changed(struct path *folder, struct dentry *dentry, u16 access, u32 agent) {
    struct path path = {};
    struct inode *inode = 0;

    READ(path.mnt, folder->mnt);
    path.dentry = dentry;
    READ(inode, dentry->d_inode);
    emit_access(&path, inode, access, agent);
}

INLINE bool entry_watched(struct path *folder, struct dentry *dentry) {
    struct path path = {};

    READ(path.mnt, folder->mnt);
    path.dentry = dentry;
    return path_watched(&path, 0, AW_WATCHED_WRITE);
}

/* fentry/security_path_unlink(const struct path *dir, struct dentry *) */
int on_path_unlink(u64 *ctx) {
    struct tag *tag = current_tag();

    if (tag && entry_watched((void *)ctx[0], (void *)ctx[1]))
        changed((void *)ctx[0], (void *)ctx[1], AW_ACCESS_DELETE, tag->agent);
    return 0;
}

/* fentry/security_path_rename(const struct path *old_dir, struct dentry *old, const struct path
 * *new_dir, struct dentry *new, unsigned int flags) */
int on_path_rename(u64 *ctx) {
    struct tag *tag = current_tag();

    if (!tag)
        return 0;
    if (!entry_watched((void *)ctx[0], (void *)ctx[1]) &&
        !entry_watched((void *)ctx[2], (void *)ctx[3]))
        return 0;
    changed((void *)ctx[0], (void *)ctx[1], AW_ACCESS_RENAME_FROM, tag->agent);
    changed((void *)ctx[2], (void *)ctx[3], AW_ACCESS_RENAME, tag->agent);
    return 0;
}

/* fentry/security_path_link(struct dentry *old, const struct path *new_dir, struct dentry *new) */
int on_path_link(u64 *ctx) {
    struct tag *tag = current_tag();

    if (!tag)
        return 0;
    if (!entry_watched((void *)ctx[1], (void *)ctx[0]) &&
        !entry_watched((void *)ctx[1], (void *)ctx[2]))
        return 0;
    changed((void *)ctx[1], (void *)ctx[0], AW_ACCESS_LINK_FROM, tag->agent);
    changed((void *)ctx[1], (void *)ctx[2], AW_ACCESS_LINK, tag->agent);
    return 0;
}

/* tracepoint/syscalls/sys_exit_{open,openat,openat2,creat} */
int on_open_end(struct syscall_end *ctx) {
    struct tag *tag = current_tag();
    struct file *file;

    if (!tag || ctx->result < 0)
        return 0;
    file = open_file(ctx->result);
    if (file)
        opened(file, tag->agent);
    return 0;
}

#ifdef HAVE_pt_regs__di

#define NAMES 2 /* that a system call takes */
#define NR_truncate 76
#define NR_rename 82
#define NR_link 86
#define NR_unlink 87
#define NR_unlinkat 263
#define NR_renameat 264
#define NR_linkat 265
#define NR_renameat2 316

/* A path as it was asked for, from a folder's descriptor. */
struct asked {
    u64 text;
    s32 folder;
    u32 access; /* 0: none */
};

/* Value of SCRATCH, one a CPU: these programs are not preempted. Kept in memory, so that the
 * verifier does not follow every combination. */
struct scratch {
    struct asked asked[NAMES];
    char text[1 + TEXT_BYTES + AW_WATCHED_NAME]; /* after a slash */
    u8 unused[7];
    u32 begin[AW_WATCHED_LEVELS]; /* of names, the last one first */
    u32 names;
    u32 within; /* 1: a name's end was found, but not its beginning */
    u32 found;  /* 1: a name is watched */
    u32 last;
};

_Static_assert(sizeof(struct scratch) == AW_SCRATCH_BYTES, "value size of the map SCRATCH");

/* Finds the last names of a path of so many bytes; false if they lie further back than is looked.
 * Without branches but the ends of the loop, as what the verifier takes long for. */
INLINE bool split(struct scratch *scratch, u64 length) {
    bool ended = false;
    int i;

    scratch->names = 0;
    scratch->within = 0;
    REPEAT(i, SPLIT_BYTES) {
        u64 at = length - i, slash, found;
        u32 *begin;

        asm volatile("" : "+r"(at)); /* or the compiler counts in ways the verifier refuses */
        ended = at > length || scratch->names >= AW_WATCHED_LEVELS;
        if (ended)
            break;
        at &= TEXT_BYTES - 1;
        slash = 1 ^ any(scratch->text[at] ^ '/');
        found = slash & scratch->within;
        scratch->text[at] &= slash - 1;
        begin = &scratch->begin[scratch->names & (AW_WATCHED_LEVELS - 1)];
        *begin = ((at + 1) & -found) | (*begin & (found - 1));
        scratch->names += found;
        scratch->within = 1 ^ slash;
    }
    return ended;
}

/* The folder from which a system call goes: of a descriptor, or the working directory. */
INLINE struct path *folder_of(s32 fd) {
    struct task_struct *task = (void *)bpf_get_current_task();
    struct fs_struct *fs = 0;
    struct file *file;

    if (fd == AT_FDCWD) {
        READ(fs, task->fs);
        return &fs->pwd;
    }
    file = open_file(fd);
    return file ? &file->f_path : 0;
}

INLINE bool text_watched(struct scratch *scratch, const struct asked *asked) {
    u32 use = asked->access == AW_ACCESS_READ ? AW_WATCHED_READ : AW_WATCHED_WRITE;
    struct path *folder;
    u32 begin, level;
    bool absolute, readable = true, watched = false;
    long length;

    scratch->text[0] = '/';
    length = read_text(scratch->text + 1, TEXT_BYTES, asked->text);
    if (length <= 1 || length > TEXT_BYTES)
        return false;
    if (length == TEXT_BYTES)
        return true;
    absolute = scratch->text[1] == '/';
    if (!split(scratch, length - 1))
        return true;
    REPEAT(level, AW_WATCHED_LEVELS) {
        struct name name = {};

        if (level >= scratch->names)
            break;
        begin = scratch->begin[level & (AW_WATCHED_LEVELS - 1)];
        asm volatile("" : "+r"(begin));
        readable = read_kernel_str(name.text, sizeof(name.text),
                                   scratch->text + (begin & (TEXT_BYTES - 1))) > 0;
        if (!readable)
            break;
        watched = name_watched(&name, level, use);
        if (watched)
            break;
    }
    if (watched || !readable)
        return watched;
    folder = absolute ? 0 : folder_of(asked->folder);
    return folder && path_watched(folder, scratch->names, use);
}

/* Emits what was done under this name; user space joins it to its folder. */
INLINE void emit_text(const struct asked *asked, u32 agent) {
    struct aw_file_access *event = reserve_access(agent, TEXT_BYTES);
    struct path *folder;
    u64 folders;
    long read;

    if (!event)
        return;
    begin_access(event, agent, asked->access);
    if (read_text(event->data, TEXT_BYTES, asked->text) > 1 && event->data[0] != '/') {
        folder = folder_of(asked->folder);
        if (folder && !write_path(folder, event->data, &event->length))
            event->header.flags = AW_FILE_CUT;
    }
    folders = event->length;
    BOUND(folders, PATH_BYTES + NAME_BYTES);
    read = read_text(event->data + folders, TEXT_BYTES, asked->text);
    event->text = read > 0 ? read : 0;
    if (read <= 0 || read >= TEXT_BYTES)
        event->header.flags = AW_FILE_CUT;
    event->length += event->text;
    submit(event, URGENT);
}

INLINE struct scratch *scratch_space(void) {
    u32 key = 0;
    struct scratch *scratch = bpf_map_lookup_elem(MAP(SCRATCH), &key);

    if (scratch)
        scratch->asked[1].access = 0;
    return scratch;
}

INLINE void ask(struct asked *asked, s32 folder, u64 text, u32 access) {
    asked->folder = folder;
    asked->text = text;
    asked->access = access;
}

/* Emits all the names that were asked for if one of them is watched. */
INLINE void judge(struct scratch *scratch, u32 agent) {
    scratch->found = 0;
#pragma unroll
    for (int i = 0; i < NAMES; i++)
        if (scratch->asked[i].access && text_watched(scratch, &scratch->asked[i]))
            scratch->found = 1;
    if (!scratch->found)
        return;
#pragma unroll
    for (int i = 0; i < NAMES; i++)
        if (scratch->asked[i].access)
            emit_text(&scratch->asked[i], agent);
}

/* tracepoint/syscalls/sys_exit_{truncate,rename*,link*,unlink*}, in which it succeeded */
int on_name_end(struct syscall_end *ctx) {
    struct tag *tag = current_tag();
    struct scratch *scratch;
    struct pt_regs *regs;
    u64 first = 0, second = 0, third = 0, fourth = 0;
    u32 from = AW_ACCESS_RENAME_FROM, to = AW_ACCESS_RENAME;

    if (!tag || ctx->result < 0)
        return 0;
    scratch = scratch_space();
    if (!scratch)
        return 0;
    regs = task_pt_regs(bpf_get_current_task_btf());
    READ(first, regs->di);
    READ(second, regs->si);
    READ(third, regs->dx);
    READ(fourth, regs->r10);
    switch ((u32)ctx->number) {
    case NR_truncate:
        ask(&scratch->asked[0], AT_FDCWD, first, AW_ACCESS_WRITE);
        break;
    case NR_unlink:
        ask(&scratch->asked[0], AT_FDCWD, first, AW_ACCESS_DELETE);
        break;
    case NR_unlinkat:
        ask(&scratch->asked[0], first, second, AW_ACCESS_DELETE);
        break;
    case NR_link:
        from = AW_ACCESS_LINK_FROM;
        to = AW_ACCESS_LINK;
    case NR_rename:
        ask(&scratch->asked[0], AT_FDCWD, first, from);
        ask(&scratch->asked[1], AT_FDCWD, second, to);
        break;
    case NR_linkat:
        from = AW_ACCESS_LINK_FROM;
        to = AW_ACCESS_LINK;
    case NR_renameat:
    case NR_renameat2:
        ask(&scratch->asked[0], first, second, from);
        ask(&scratch->asked[1], third, fourth, to);
        break;
    default:
        return 0;
    }
    judge(scratch, tag->agent);
    return 0;
}

#endif

#if defined(HAVE_io_kiocb__cqe) && defined(HAVE_io_open__file_slot)

#define IORING_OP_OPENAT 18 /* include/uapi/linux/io_uring.h */
#define IORING_OP_OPENAT2 28
#define IORING_OP_RENAMEAT 35
#define IORING_OP_UNLINKAT 36
#define IORING_OP_LINKAT 39
#define SKIPS_SUCCESS (1 << 6) /* of io_kiocb.flags: nothing will tell of its end */
#define ANY_SLOT 0xffffffff
#define ACCESS_MODE 3 /* O_ACCMODE */

/* The file in a slot of the ring's own table of files. */
INLINE struct file *file_in_slot(struct io_kiocb *request, u32 slot) {
    struct file *file = 0;
#ifdef HAVE_io_rsrc_node__file_ptr
    struct io_ring_ctx *ring = 0;
    struct io_rsrc_node **nodes = 0, *node = 0;
    u64 pointer = 0;
    u32 size = 0;

    READ(ring, request->ctx);
    READ(size, ring->file_table.data.nr);
    if (slot >= size)
        return 0;
    READ(nodes, ring->file_table.data.nodes);
    READ(node, nodes[slot]);
    READ(pointer, node->file_ptr);
    file = (void *)(pointer & ~7ULL); /* flags below */
#endif
    return file;
}

/* tp_btf/io_uring_complete(struct io_ring_ctx *, void *request, ...), in a thread of the process */
int on_uring_end(u64 *ctx) {
    struct tag *tag = current_tag();
    struct io_kiocb *request = (void *)ctx[1];
    struct io_open *open = (void *)ctx[1];
    struct file *file;
    u8 operation = 0;
    s32 result = 0;
    u32 slot = 0;

    if (!tag)
        return 0;
    READ(operation, request->opcode);
    if (operation != IORING_OP_OPENAT && operation != IORING_OP_OPENAT2)
        return 0;
    READ(result, request->cqe.res);
    READ(slot, open->file_slot);
    if (result < 0)
        return 0;
    if (slot)
        file = file_in_slot(request, slot == ANY_SLOT ? (u32)result : slot - 1);
    else
        file = open_file(result);
    if (file)
        opened(file, tag->agent);
    return 0;
}

#ifdef HAVE_pt_regs__di

/* tp_btf/io_uring_submit_req(struct io_kiocb *): the names are the kernel's copies, read once */
int on_uring_begin(u64 *ctx) {
    struct tag *tag = current_tag();
    struct io_kiocb *request = (void *)ctx[0];
    struct filename *first = 0, *second = 0;
    struct scratch *scratch;
    u64 from = 0, to = 0, flags = 0, how = 0;
    s32 from_fd = 0, to_fd = 0;
    u8 operation = 0;

    if (!tag)
        return 0;
    READ(operation, request->opcode);
    scratch = scratch_space();
    if (!scratch)
        return 0;
    if (operation == IORING_OP_RENAMEAT || operation == IORING_OP_LINKAT) {
        struct io_rename *rename = (void *)request; /* struct io_link begins alike */
        bool link = operation == IORING_OP_LINKAT;

        READ(from_fd, rename->old_dfd);
        READ(to_fd, rename->new_dfd);
        READ(first, rename->oldpath);
        READ(second, rename->newpath);
        READ(from, first->name);
        READ(to, second->name);
        ask(&scratch->asked[0], from_fd, from, link ? AW_ACCESS_LINK_FROM : AW_ACCESS_RENAME_FROM);
        ask(&scratch->asked[1], to_fd, to, link ? AW_ACCESS_LINK : AW_ACCESS_RENAME);
    } else if (operation == IORING_OP_UNLINKAT) {
        struct io_unlink *unlink = (void *)request;

        READ(from_fd, unlink->dfd);
        READ(first, unlink->filename);
        READ(from, first->name);
        ask(&scratch->asked[0], from_fd, from, AW_ACCESS_DELETE);
    } else if (operation == IORING_OP_OPENAT || operation == IORING_OP_OPENAT2) {
        struct io_open *open = (void *)request;

        READ(flags, request->flags);
        if (!(flags & SKIPS_SUCCESS))
            return 0;
        READ(from_fd, open->dfd);
        READ(first, open->filename);
        READ(from, first->name);
        READ(how, open->how.flags);
        ask(&scratch->asked[0], from_fd, from,
            how & ACCESS_MODE ? AW_ACCESS_WRITE : AW_ACCESS_READ);
    } else {
        return 0;
    }
    judge(scratch, tag->agent);
    return 0;
}

#endif
#endif
