/* What every probe shares: maps, who is an agent, how an event is emitted and counted.
 *
 * kernel_types.h holds the kernel's own structs with exactly the fields used, generated from
 * the running kernel's BTF. aw_events.h is generated from the schema, aw_maps.h from the
 * table of maps. All three are made when the probes are compiled.
 */
#pragma once

#include <kernel_types.h>
#include <aw_events.h>
#include <aw_maps.h>

#define INLINE static inline __attribute__((always_inline))

/* Maps are made by the loader; bytecode names them by number until then. */
#define MAP(number) ((void *)bpf_pseudo_fd(1, number))

/* The helpers under names that BCC does not know. Under their own it takes the old bpf_probe_read
 * for them wherever /proc/kallsyms hides the addresses (kptr_restrict, no CAP_SYSLOG), which
 * programs of cgroups may not call. */
static long (*read_kernel)(void *, u32, const void *) = (void *)BPF_FUNC_probe_read_kernel;
static long (*read_kernel_str)(void *, u32, const void *) = (void *)BPF_FUNC_probe_read_kernel_str;
static long (*read_user)(void *, u32, const void *) = (void *)BPF_FUNC_probe_read_user;
static long (*read_user_str)(void *, u32, const void *) = (void *)BPF_FUNC_probe_read_user_str;
static void *(*task_pt_regs)(struct task_struct *) = (void *)175; /* BCC 0.18 has no name for it */

/* Reads a kernel field without trusting the pointer. */
#define READ(destination, source) read_kernel(&(destination), sizeof(destination), &(source))

/* Sets to 0 what the verifier is to know nothing of: a read that fails does. */
INLINE void forgotten(void *value, u32 size) {
    read_kernel(value, size, 0);
}

#define S_IFMT 0170000 /* of i_mode: include/uapi/linux/stat.h */
#define S_IFSOCK 0140000
#define S_IFREG 0100000
#define S_IFBLK 0060000
#define S_IFCHR 0020000
#define S_IFIFO 0010000
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

/* Bounds a length where the verifier sees it: the compiler may not merge this with an earlier test.
 */
#define BOUND(length, limit)                                                                       \
    do {                                                                                           \
        asm volatile("" : "+r"(length));                                                           \
        if ((length) > (limit))                                                                    \
            (length) = (limit);                                                                    \
    } while (0)

/* 1 if any bit is set, without a branch: the verifier would follow both sides of each. */
INLINE u64 any(u64 bits) {
    u64 negative;

    asm volatile("" : "+r"(bits));
    negative = -bits;
    asm volatile("" : "+r"(negative));
    return (bits | negative) >> 63;
}

/* for (i = 0; i < times; i++). From kernel 6.4 on the verifier walks through the body until it
 * learns nothing new, two or three times; before, as often as it is told. To it `i` may be any
 * number then. `times` is a constant, and at the end of the body all paths should know equally
 * little. A body does not return: older compilers then leave what it returns unset where the loop
 * ends by itself, which the verifier refuses. */
#ifdef HAVE_func_bpf_iter_num_new
struct count_up { /* struct bpf_iter_num of the kernel */
    u64 opaque;
};

static int (*iter_num_new)(struct count_up *, int, int) = (void *)KFUNC_bpf_iter_num_new;
static int *(*iter_num_next)(struct count_up *) = (void *)KFUNC_bpf_iter_num_next;
static void (*iter_num_destroy)(struct count_up *) = (void *)KFUNC_bpf_iter_num_destroy;

INLINE void end_count(struct count_up *count) {
    iter_num_destroy(count);
}

INLINE struct count_up *begin_count(struct count_up *count, int times) {
    iter_num_new(count, 0, times);
    return count;
}

#define REPEAT(i, times)                                                                           \
    for (struct count_up _count __attribute__((cleanup(end_count))),                               \
         *_counting = begin_count(&_count, times);                                                 \
         ({                                                                                        \
             int *_next = iter_num_next(_counting);                                                \
             _next ? (i = *_next, true) : false;                                                   \
         });)
#else
#define REPEAT(i, times) for (i = 0; i < (times); i++)
#endif

/* A length from 1 to `limit`, where the verifier sees it: one of 6.1 learns nothing from a test for
 * 0.
 */
INLINE u64 positive(u64 length, u64 limit) {
    u64 last = length - 1;

    BOUND(last, limit - 1);
    return last + 1;
}

/* Value of the task storage: which agent a task belongs to. */
struct tag {
    u32 agent;
    u32 unused;
};

/* Value of the cgroup storage: the agent whose cgroup a program is attached to. */
struct agent {
    u32 number;
    u32 blocked; /* 1: its packets go nowhere */
};

/* Of a value of COUNTS, per CPU: events of one type of one agent, whose number is the key. */
struct count {
    u64 sent;
    u64 lost;
};

/* How an event may use its ring. */
enum urgency {
    ROUTINE,  /* dropped first: the last part of a ring is closed to it; read at the next poll */
    RESERVED, /* may fill the ring to its end; read at the next poll */
    URGENT,   /* the same, and wakes the reader */
};

INLINE void count_sent(u32 agent, u32 type) {
    u32 key = agent;
    struct count *of_types = bpf_map_lookup_elem(MAP(COUNTS), &key);

    if (of_types)
        of_types[type].sent++;
}

INLINE void count_lost(u32 agent, u32 type) {
    u32 key = agent;
    struct count *of_types = bpf_map_lookup_elem(MAP(COUNTS), &key);

    if (of_types)
        of_types[type].lost++;
    /* Row 0 adds up what all agents lost: a reader need look no further while it stands still. */
    key = 0;
    of_types = bpf_map_lookup_elem(MAP(COUNTS), &key);
    if (of_types)
        of_types[type].lost++;
}

/* Whether there was room for a record; counted. Nothing else may test the record: a verifier of 6.1
 * takes a second test for one that may end otherwise, and misses the record in that case. */
INLINE bool reserved(void *record, u32 agent, u32 type) {
    if (!record) {
        count_lost(agent, type);
        return false;
    }
    count_sent(agent, type);
    return true;
}

INLINE void fill_header(struct aw_header *header, u32 type, u32 agent) {
    header->time = bpf_ktime_get_boot_ns();
    header->type = type;
    header->flags = 0;
    header->agent = agent;
}

/* Process and thread that run now. Only where the hook runs in the context of its cause. */
INLINE void fill_current(struct aw_header *header) {
    u64 ids = bpf_get_current_pid_tgid();
    struct task_struct *task = (void *)bpf_get_current_task();
    struct task_struct *leader = 0;

    header->tgid = ids >> 32;
    header->tid = (u32)ids;
    READ(leader, task->group_leader);
    READ(header->start, leader->start_boottime);
}

INLINE void fill_task(struct aw_header *header, struct task_struct *task) {
    struct task_struct *leader = 0;

    READ(header->tgid, task->tgid);
    READ(header->tid, task->pid);
    READ(leader, task->group_leader);
    READ(header->start, leader->start_boottime);
}

/* A slot of the SLOTS ring with its header begun, or 0 when the ring is full (counted). */
INLINE void *slot(u32 type, u32 agent, enum urgency urgency) {
    struct aw_header *header = 0;

    if (urgency != ROUTINE || bpf_ringbuf_query(MAP(SLOTS), BPF_RB_AVAIL_DATA) < AW_SLOTS_ROUTINE)
        header = bpf_ringbuf_reserve(MAP(SLOTS), AW_SLOT_BYTES, 0);
    if (!reserved(header, agent, type))
        return 0;
    __builtin_memset(header, 0, AW_SLOT_BYTES);
    fill_header(header, type, agent);
    return header;
}

/* Forced: the kernel's own choice wakes a reader that has caught up, which it has not while pieces
 * that were submitted without waking it lie before this record. */
INLINE void submit(void *record, enum urgency urgency) {
    bpf_ringbuf_submit(record, urgency == URGENT ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP);
}

/* Whether a record of the RECORDS ring may be reserved. */
INLINE bool records_open(enum urgency urgency) {
    return urgency != ROUTINE ||
           bpf_ringbuf_query(MAP(RECORDS), BPF_RB_AVAIL_DATA) < AW_RECORDS_ROUTINE;
}

INLINE bool is_monitor(u32 tgid) {
    u32 key = 0, *monitor = bpf_map_lookup_elem(MAP(MONITOR), &key);

    return monitor && *monitor == tgid;
}

/* The agent of the task that runs now, 0 if it is none. Most tasks of a host have no storage at
 * all, and a look at the pointer costs them less than the helper. */
INLINE struct tag *current_tag(void) {
    struct task_struct *task = bpf_get_current_task_btf();

    return task->bpf_storage ? bpf_task_storage_get(MAP(TAGS), task, 0, 0) : 0;
}
