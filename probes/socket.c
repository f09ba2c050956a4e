/* The life of IPv4 and IPv6 sockets of an agent's cgroup. */
#include <flow.h>

#define OP_TCP_CONNECT 3
#define OP_ACTIVE_ESTABLISHED 4
#define OP_PASSIVE_ESTABLISHED 5
#define OP_STATE 10
#define OP_TCP_LISTEN 11
#define TCP_STATE_SYN_SENT 2
#define TCP_STATE_CLOSE 7
#define ECONNABORTED 103

INLINE void emit_socket(u32 type, u32 agent, const struct flow *flow, enum urgency urgency) {
    struct aw_connect *event = slot(type, agent, urgency);

    if (!event)
        return;
    fill_owner(&event->header, flow);
    event->socket = flow->socket;
    submit(event, urgency);
}

INLINE void emit_close(u32 agent, const struct flow *flow) {
    struct aw_close *event = slot(AW_CLOSE, agent, ROUTINE);

    if (!event)
        return;
    fill_owner(&event->header, flow);
    event->socket = flow->socket;
    event->bytes_out = flow->bytes[OUT];
    event->bytes_in = flow->bytes[IN];
    event->elapsed = event->header.time - flow->opened;
    submit(event, ROUTINE);
}

/* cgroup/sock_create, in the context of socket(2) */
int on_sock_create(struct bpf_sock *sk) {
    u32 agent = attached_agent();
    struct flow *flow;

    if (!agent)
        return 1;
    flow = bpf_sk_storage_get(MAP(FLOWS), sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!flow)
        return 1;
    own(flow);
    flow->opened = bpf_ktime_get_boot_ns();
    flow->socket.cookie = bpf_get_socket_cookie(sk);
    flow->socket.family = sk->family;
    flow->socket.socktype = sk->type;
    flow->socket.protocol = sk->protocol;
    emit_socket(AW_SOCKET, agent, flow, ROUTINE);
    return 1;
}

/* cgroup/sock_release. TCP says its end itself, when its last state change is done, unless it never
 * left its first state (bound, no more), or was connected before the watch: only a connection that
 * begins can be asked to report its state.
 */
int on_sock_release(struct bpf_sock *sk) {
    u32 agent = attached_agent();
    struct flow *flow;

    if (!agent)
        return 1;
    flow = bpf_sk_storage_get(MAP(FLOWS), sk, 0, 0);
    if (!flow || !(flow->flags & FLOW_ANNOUNCED))
        return 1;
    if (sk->protocol != IPPROTO_TCP || flow->flags & FLOW_FOUND || sk->state == TCP_STATE_CLOSE)
        emit_close(agent, flow);
    return 1;
}

INLINE int bound(struct bpf_sock *sk, bool ipv6) {
    u32 agent = attached_agent();
    struct flow *flow;
    u32 *local;

    if (!agent)
        return 1;
    flow = bpf_sk_storage_get(MAP(FLOWS), sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!flow)
        return 1;
    local = (u32 *)flow->socket.local;
    if (ipv6) {
        local[0] = sk->src_ip6[0];
        local[1] = sk->src_ip6[1];
        local[2] = sk->src_ip6[2];
        local[3] = sk->src_ip6[3];
    } else {
        local[0] = sk->src_ip4;
    }
    flow->socket.local_port = sk->src_port;
    flow->flags |= FLOW_ANNOUNCED;
    emit_socket(AW_BIND, agent, flow, ROUTINE);
    return 1;
}

/* cgroup/post_bind4 */
int on_post_bind4(struct bpf_sock *sk) {
    return bound(sk, false);
}

/* cgroup/post_bind6 */
int on_post_bind6(struct bpf_sock *sk) {
    return bound(sk, true);
}

INLINE bool same_remote(const struct flow *flow, const u32 *remote, u16 port) {
    const u32 *known = (const u32 *)flow->socket.remote;

    return known[0] == remote[0] && known[1] == remote[1] && known[2] == remote[2] &&
           known[3] == remote[3] && flow->socket.remote_port == port;
}

INLINE void set_remote(struct flow *flow, const u32 *remote, u16 port) {
    u32 *known = (u32 *)flow->socket.remote;

    known[0] = remote[0];
    known[1] = remote[1];
    known[2] = remote[2];
    known[3] = remote[3];
    flow->socket.remote_port = port;
}

INLINE struct flow *addressed(struct bpf_sock_addr *ctx) {
    struct flow *flow;

    flow = bpf_sk_storage_get(MAP(FLOWS), ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!flow)
        return 0;
    own(flow);
    if (!flow->opened)
        flow->opened = bpf_ktime_get_boot_ns();
    flow->socket.cookie = bpf_get_socket_cookie(ctx);
    flow->socket.family = ctx->family;
    flow->socket.socktype = ctx->type;
    flow->socket.protocol = ctx->protocol;
    flow->flags |= FLOW_ANNOUNCED;
    return flow;
}

INLINE int connecting(struct bpf_sock_addr *ctx, const u32 *remote) {
    u32 agent = attached_agent();
    u16 port = bpf_ntohs(ctx->user_port);
    bool stream = ctx->type == SOCK_STREAM;
    struct flow *flow;

    if (!agent)
        return 1;
    flow = addressed(ctx);
    if (!flow)
        return 1;
    /* io_uring and non-blocking callers come here again for the same connect. */
    if (stream && flow->flags & FLOW_CONNECTING && same_remote(flow, remote, port))
        return 1;
    set_remote(flow, remote, port);
    if (stream) {
        flow->flags |= FLOW_CONNECTING;
        flow->connect_time = bpf_ktime_get_boot_ns();
        emit_socket(AW_CONNECT, agent, flow, URGENT);
    } else {
        emit_socket(AW_CONNECT, agent, flow, ROUTINE);
    }
    return 1;
}

/* cgroup/connect4, in the context of connect(2) or of io_uring */
int on_connect4(struct bpf_sock_addr *ctx) {
    u32 remote[4] = {ctx->user_ip4, 0, 0, 0};

    return connecting(ctx, remote);
}

/* cgroup/connect6 */
int on_connect6(struct bpf_sock_addr *ctx) {
    u32 remote[4] = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]};

    return connecting(ctx, remote);
}

INLINE int sending(struct bpf_sock_addr *ctx, const u32 *remote) {
    u32 agent = attached_agent();
    u16 port = bpf_ntohs(ctx->user_port);
    struct flow *flow;

    if (!agent)
        return 1;
    flow = addressed(ctx);
    if (!flow || same_remote(flow, remote, port))
        return 1;
    set_remote(flow, remote, port);
    emit_socket(AW_SEND, agent, flow, ROUTINE);
    return 1;
}

/* cgroup/sendmsg4: datagrams of unconnected sockets */
int on_sendmsg4(struct bpf_sock_addr *ctx) {
    u32 remote[4] = {ctx->user_ip4, 0, 0, 0};

    return sending(ctx, remote);
}

/* cgroup/sendmsg6 */
int on_sendmsg6(struct bpf_sock_addr *ctx) {
    u32 remote[4] = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]};

    return sending(ctx, remote);
}

INLINE void fill_addresses(struct flow *flow, struct bpf_sock_ops *ops) {
    u32 *local = (u32 *)flow->socket.local;
    u32 *remote = (u32 *)flow->socket.remote;

    if (ops->family == AF_INET) {
        local[0] = ops->local_ip4;
        remote[0] = ops->remote_ip4;
    } else {
        local[0] = ops->local_ip6[0];
        local[1] = ops->local_ip6[1];
        local[2] = ops->local_ip6[2];
        local[3] = ops->local_ip6[3];
        remote[0] = ops->remote_ip6[0];
        remote[1] = ops->remote_ip6[1];
        remote[2] = ops->remote_ip6[2];
        remote[3] = ops->remote_ip6[3];
    }
    flow->socket.local_port = ops->local_port;
    flow->socket.remote_port = bpf_ntohs(ops->remote_port >> 16);
    flow->socket.family = ops->family;
    flow->socket.socktype = SOCK_STREAM;
    flow->socket.protocol = IPPROTO_TCP;
    flow->socket.cookie = bpf_get_socket_cookie(ops);
    flow->flags |= FLOW_ANNOUNCED;
}

INLINE void emit_connected(u32 agent, struct flow *flow, u32 error) {
    struct aw_connected *event = slot(AW_CONNECTED, agent, RESERVED);

    flow->flags &= ~FLOW_CONNECTING;
    if (!event)
        return;
    fill_owner(&event->header, flow);
    event->socket = flow->socket;
    event->elapsed = event->header.time - flow->connect_time;
    event->error = error;
    submit(event, RESERVED);
}

INLINE u32 socket_error(struct bpf_sock *sk) {
    struct tcp_sock *tcp = (void *)bpf_skc_to_tcp_sock(sk);
    int error = 0;

    if (tcp)
        read_kernel(&error, sizeof(error),
                    (void *)((u64)tcp + __builtin_offsetof(struct sock, sk_err)));
    return error;
}

/* A listener's storage was cloned: keep its owner, forget the rest. */
INLINE void accepted(struct flow *flow) {
    flow->opened = bpf_ktime_get_boot_ns();
    flow->sampled = 0;
    flow->spoken = flow->told = flow->told_bytes = 0;
    flow->bytes[OUT] = flow->bytes[IN] = 0;
    flow->squares[OUT] = flow->squares[IN] = 0;
    flow->segments[OUT] = flow->segments[IN] = 0;
    flow->starts = flow->pushes = 0;
    flow->message[OUT] = flow->message[IN] = 0;
    flow->captured = 0;
    flow->last = 0;
    flow->flags = 0;
}

INLINE void state_changed(struct bpf_sock_ops *ops, struct bpf_sock *sk, struct flow *flow,
                          u32 agent) {
    if (ops->args[1] != TCP_STATE_CLOSE)
        return;
    if (ops->args[0] == TCP_STATE_SYN_SENT) {
        u32 error = socket_error(sk);

        /* Without an error it was closed before an answer came. */
        emit_connected(agent, flow, error ? error : ECONNABORTED);
    }
    if (flow->flags & FLOW_ANNOUNCED)
        emit_close(agent, flow);
    flow->flags &= ~FLOW_ANNOUNCED;
}

/* cgroup/sock_ops: TCP's own account of its connections */
int on_sock_ops(struct bpf_sock_ops *ops) {
    u32 agent = attached_agent();
    u32 op = ops->op;
    struct bpf_sock *sk = ops->sk;
    struct flow *flow;

    if (!agent || !sk)
        return 1;
    if (op != OP_TCP_CONNECT && op != OP_ACTIVE_ESTABLISHED && op != OP_PASSIVE_ESTABLISHED &&
        op != OP_STATE && op != OP_TCP_LISTEN)
        return 1;
    flow = bpf_sk_storage_get(MAP(FLOWS), sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!flow)
        return 1;
    if (op == OP_STATE) {
        state_changed(ops, sk, flow, agent);
        return 1;
    }
    if (op == OP_PASSIVE_ESTABLISHED)
        accepted(flow);
    bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
    fill_addresses(flow, ops);
    if (op == OP_ACTIVE_ESTABLISHED)
        emit_connected(agent, flow, 0);
    else if (op == OP_PASSIVE_ESTABLISHED)
        emit_socket(AW_ACCEPT, agent, flow, RESERVED);
    else if (op == OP_TCP_LISTEN)
        emit_socket(AW_LISTEN, agent, flow, RESERVED);
    return 1;
}
