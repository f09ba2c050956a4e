/* What exists already: tasks below a cgroup (tagged on the way) and open sockets of agents. */
#include <aw.h>

#define CGROUP_DEPTH 16
#define SOCKFS_MAGIC 0x534F434B

/* Value of SEED: the cgroup whose tasks the iterator tags, and with which agent. Without a cgroup,
 * the agent whose tags it takes away. */
struct seed {
    u64 cgroup;
    u32 agent;
    u32 unused;
};

/* A row of the task inventory: a process, or a thread that was not tagged yet. */
struct task_row {
    u32 tgid;
    u32 parent;
    u64 start;
    u64 parent_start;
    u32 pid;
    u32 fresh; /* 1: tagged by this pass */
};

/* A row of the socket inventory. */
struct socket_row {
    u32 agent;
    u32 tgid;
    u64 start;
    u64 inode;
    u16 protocol;
    u16 family;
    u16 socktype;
    u16 unused;
};

INLINE bool below(struct task_struct *task, u64 wanted) {
    struct css_set *set = 0;
    struct cgroup *cgroup = 0;
    struct cgroup_subsys_state *parent = 0;
    struct kernfs_node *node = 0;
    u64 id = 0;

    READ(set, task->cgroups);
    READ(cgroup, set->dfl_cgrp);
    for (int i = 0; i < CGROUP_DEPTH; i++) {
        READ(node, cgroup->kn);
        READ(id, node->id);
        if (id == wanted)
            return true;
        READ(parent, cgroup->self.parent);
        if (!parent)
            return false;
        READ(cgroup, parent->cgroup);
    }
    return false;
}

/* iter/task: ctx is {meta, task} */
int on_each_task(u64 *ctx) {
    struct bpf_iter_meta *meta = (void *)ctx[0];
    struct task_struct *task = (void *)ctx[1], *leader = 0, *parent = 0;
    struct task_row row = {};
    struct seed *seed;
    struct tag none = {}, *tag;
    u32 key = 0;

    if (!task)
        return 0;
    seed = bpf_map_lookup_elem(MAP(SEED), &key);
    if (!seed)
        return 0;
    if (!seed->cgroup) {
        tag = bpf_task_storage_get(MAP(TAGS), task, 0, 0);
        if (!tag || tag->agent != seed->agent || bpf_task_storage_delete(MAP(TAGS), task))
            return 0;
        row.fresh = 1;
    } else {
        if (!below(task, seed->cgroup))
            return 0;
        tag = bpf_task_storage_get(MAP(TAGS), task, &none, BPF_LOCAL_STORAGE_GET_F_CREATE);
        if (!tag)
            return 0;
        row.fresh = tag->agent != seed->agent;
        tag->agent = seed->agent;
    }
    READ(row.tgid, task->tgid);
    READ(row.pid, task->pid);
    if (row.tgid != row.pid && !row.fresh)
        return 0;
    READ(row.start, task->start_boottime);
    READ(parent, task->real_parent);
    READ(row.parent, parent->tgid);
    READ(leader, parent->group_leader);
    READ(row.parent_start, leader->start_boottime);
    bpf_seq_write(meta->seq, &row, sizeof(row));
    return 0;
}

/* iter/task_file: ctx is {meta, task, fd, file}. Sockets of families that no cgroup hook reports.
 */
int on_each_file(u64 *ctx) {
    struct bpf_iter_meta *meta = (void *)ctx[0];
    struct task_struct *task = (void *)ctx[1], *leader = 0;
    struct file *file = (void *)ctx[3];
    struct socket_row row = {};
    struct super_block *super = 0;
    struct inode *inode = 0;
    struct socket *socket = 0;
    struct sock *sk = 0;
    struct tag *tag;
    u64 magic = 0;

    if (!task || !file)
        return 0;
    tag = bpf_task_storage_get(MAP(TAGS), task, 0, 0);
    if (!tag)
        return 0;
    READ(inode, file->f_inode);
    READ(super, inode->i_sb);
    READ(magic, super->s_magic);
    if (magic != SOCKFS_MAGIC)
        return 0; /* an O_PATH descriptor of a socket file is no socket */
    READ(socket, file->private_data);
    READ(sk, socket->sk);
    if (!sk)
        return 0;
    READ(row.family, sk->__sk_common.skc_family);
    if (row.family == AF_UNIX || row.family == AF_INET || row.family == AF_INET6)
        return 0;
    READ(row.protocol, sk->sk_protocol);
    READ(row.socktype, sk->sk_type);
    READ(row.inode, inode->i_ino);
    READ(row.tgid, task->tgid);
    READ(leader, task->group_leader);
    READ(row.start, leader->start_boottime);
    row.agent = tag->agent;
    bpf_seq_write(meta->seq, &row, sizeof(row));
    return 0;
}
