/* What the standard streams of a process are: file descriptors 0, 1 and 2. */
#pragma once

#include <aw.h>

#define STREAMS 3
#define PIPEFS_MAGIC 0x50495045
#define MINOR_BITS 20
#define MEMORY_MAJOR 1 /* Documentation/admin-guide/devices.txt */
#define NULL_MINOR 3
#define PTS_MAJOR 136

/* One stream: see Stream in agentwatch/enrich/processes.py. */
struct stream {
    u64 identity;
    u64 peer;
    u32 kind;
    u32 unused;
};

INLINE u64 inode_number(struct file *file) {
    struct inode *inode = 0;
    u64 number = 0;

    READ(inode, file->f_inode);
    READ(number, inode->i_ino);
    return number;
}

INLINE void socket_stream(struct stream *stream, struct file *file) {
    struct socket *socket = 0;
    struct sock *sk = 0, *peer = 0;
    struct unix_sock *local;
    struct file *of_peer = 0;
    u16 family = 0;

    READ(socket, file->private_data);
    READ(sk, socket->sk);
    READ(family, sk->__sk_common.skc_family);
    if (family == AF_INET || family == AF_INET6) {
        stream->kind = AW_STREAM_INET;
        READ(stream->identity, sk->__sk_common.skc_cookie);
        return;
    }
    if (family != AF_UNIX)
        return;
    stream->kind = AW_STREAM_UNIX;
    stream->identity = inode_number(file);
    local = (void *)sk;
    READ(peer, local->peer);
    READ(socket, peer->sk_socket);
    READ(of_peer, socket->file);
    stream->peer = inode_number(of_peer);
}

INLINE void device_stream(struct stream *stream, u32 device) {
    u32 major = device >> MINOR_BITS, minor = device & ((1 << MINOR_BITS) - 1);

    if (major == MEMORY_MAJOR && minor == NULL_MINOR)
        stream->kind = AW_STREAM_NULL;
    if (major != PTS_MAJOR)
        return;
    stream->kind = AW_STREAM_TERMINAL;
    stream->identity = minor;
}

INLINE void describe_stream(struct stream *stream, struct file *file) {
    struct inode *inode = 0;
    struct super_block *super = 0;
    u64 magic = 0;
    u32 device = 0;
    u16 mode = 0;

    if (!file)
        return; /* closed */
    stream->kind = AW_STREAM_OTHER;
    READ(inode, file->f_inode);
    READ(mode, inode->i_mode);
    mode &= S_IFMT;
    if (mode == S_IFSOCK) {
        socket_stream(stream, file);
    } else if (mode == S_IFIFO) {
        READ(super, inode->i_sb);
        READ(magic, super->s_magic);
        stream->kind = magic == PIPEFS_MAGIC ? AW_STREAM_PIPE : AW_STREAM_FIFO;
        READ(stream->identity, inode->i_ino);
        READ(device, super->s_dev);
        stream->peer = device;
    } else if (mode == S_IFCHR) {
        READ(device, inode->i_rdev);
        device_stream(stream, device);
    } else if (mode == S_IFREG) {
        stream->kind = AW_STREAM_FILE;
        READ(stream->identity, inode->i_ino);
    }
}

/* Writes the three streams of the running task; data has room for them. */
INLINE void write_streams(struct task_struct *task, u8 *data) {
    struct stream *streams = (void *)data;
    struct files_struct *files = 0;
    struct fdtable *table = 0;
    struct file **open = 0, *file;

    READ(files, task->files);
    READ(table, files->fdt);
    READ(open, table->fd);
    __builtin_memset(data, 0, STREAMS * sizeof(struct stream));
#pragma unroll
    for (int fd = 0; fd < STREAMS; fd++) {
        file = 0;
        READ(file, open[fd]);
        describe_stream(&streams[fd], file);
    }
}
