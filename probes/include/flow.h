/* A socket of an agent: who owns it and how far its bytes have been followed. */
#pragma once

#include <aw.h>

enum { OUT, IN };

#define FLOW_CONNECTING 1
#define FLOW_SEQUENCE_OUT 2 /* next[OUT] is known */
#define FLOW_SEQUENCE_IN 4
#define FLOW_SAMPLING 8    /* the current message is recorded as a sample */
#define FLOW_ANNOUNCED 16  /* something was said of it, so its end will be too */
#define FLOW_TURNED 32     /* a message has just begun */
#define FLOW_FOUND 64      /* open before the watch: TCP does not report its changes of state */
#define FLOW_HANDSHAKE 128 /* the current message began like a handshake */

/* Value of the socket storage. Cloned to the sockets a listener accepts. User space makes it for
 * sockets that are open when watching begins (FLOW in agentwatch/kernel/probes.py).
 */
struct flow {
    struct aw_socket_block socket;
    u64 start; /* of the owner */
    u64 opened;
    u64 connect_time;
    u64 sampled; /* when a later message was last taken as a sample */
    u64 shown;   /* when a segment of a followed flow was last recorded */
    u64 spoken;  /* when data last passed */
    u64 told;    /* when its progress was last told */
    u64 told_bytes;
    u64 bytes[2];
    u64 squares[2]; /* of the sizes of segments */
    u32 next[2];    /* sequence number expected next */
    u32 tgid;       /* the owner */
    u32 tid;
    u16 message[2]; /* messages begun in each direction */
    u16 captured;   /* bytes recorded of the current message */
    u8 last;        /* 1 + direction of the current message */
    u8 flags;
    u16 segments[2];
    u16 starts; /* segments sent after a silence */
    u16 pushes; /* segments received after a silence that nothing sent had broken */
};

_Static_assert(sizeof(struct flow) == AW_FLOW_BYTES, "value size of the map FLOWS");

/* The agent whose cgroup the running program is attached to. */
INLINE u32 attached_agent(void) {
    struct agent *agent = bpf_get_local_storage(MAP(AGENTS), 0);

    return agent->number;
}

INLINE void own(struct flow *flow) {
    u64 ids = bpf_get_current_pid_tgid();
    struct task_struct *task = (void *)bpf_get_current_task();
    struct task_struct *leader = 0;

    flow->tgid = ids >> 32;
    flow->tid = (u32)ids;
    READ(leader, task->group_leader);
    READ(flow->start, leader->start_boottime);
}

/* Hooks in softirq know no process: the owner stands in the socket storage. */
INLINE void fill_owner(struct aw_header *header, const struct flow *flow) {
    header->tgid = flow->tgid;
    header->tid = flow->tid;
    header->start = flow->start;
}
