/* The first bytes of every flow of an agent's cgroup, in both directions, and its byte counts.
 *
 * A message is a run of bytes in one direction until the other side speaks (for datagrams,
 * one datagram). The first AW_PAYLOAD_MESSAGES of each direction are recorded up to
 * AW_PAYLOAD_BYTES each, however small the segments; after that one message each
 * AW_SAMPLE_INTERVAL_NS, so that a flow which begins harmlessly is seen for what it becomes.
 * Those that begin like a handshake of TLS, QUIC or SSH are recorded up to AW_HANDSHAKE_BYTES: the
 * name that a client asks for may stand anywhere in them.
 *
 * A flow that user space put into FOLLOWED goes on to show its traffic: the beginning of every
 * message, and of long ones a segment each AW_FOLLOW_INTERVAL_NS.
 */
#include <flow.h>

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define DNS_PORT 53
#define SMALL_PAYLOAD 64
#define EXTENSION_HEADERS 4
#define QUIC_INITIAL 1200 /* least bytes of a datagram that opens a connection: RFC 9000, 14.1 */

struct packet {
    u8 local[16];
    u8 remote[16];
    u32 offset; /* of the payload */
    u32 length; /* of the payload */
    u32 sequence;
    u16 local_port;
    u16 remote_port;
    u8 family;
    u8 protocol;
    u8 direction;
};

INLINE bool network_header_v4(struct __sk_buff *skb, struct packet *packet) {
    u8 header[20];

    if (bpf_skb_load_bytes(skb, 0, header, sizeof(header)))
        return false;
    packet->family = AF_INET;
    packet->protocol = header[9];
    packet->offset = (header[0] & 15) * 4;
    __builtin_memcpy(packet->direction == OUT ? packet->local : packet->remote, header + 12, 4);
    __builtin_memcpy(packet->direction == OUT ? packet->remote : packet->local, header + 16, 4);
    return true;
}

/* Extension headers that may stand before TCP and UDP: RFC 8200, section 4. */
INLINE bool extension(u8 next) {
    return next == 0 || next == 43 || next == 60;
}

INLINE bool network_header_v6(struct __sk_buff *skb, struct packet *packet) {
    u8 header[40], more[2];

    if (bpf_skb_load_bytes(skb, 0, header, sizeof(header)))
        return false;
    packet->family = AF_INET6;
    packet->protocol = header[6];
    packet->offset = sizeof(header);
    __builtin_memcpy(packet->direction == OUT ? packet->local : packet->remote, header + 8, 16);
    __builtin_memcpy(packet->direction == OUT ? packet->remote : packet->local, header + 24, 16);
    for (int i = 0; i < EXTENSION_HEADERS; i++) {
        if (!extension(packet->protocol))
            break;
        if (bpf_skb_load_bytes(skb, packet->offset, more, sizeof(more)))
            return false;
        packet->protocol = more[0];
        packet->offset += (more[1] + 1) * 8;
    }
    return true;
}

INLINE u16 port_at(const u8 *header) {
    return header[0] << 8 | header[1];
}

INLINE bool transport_header(struct __sk_buff *skb, struct packet *packet) {
    u8 header[14];
    u16 source, destination;

    if (packet->protocol == IPPROTO_TCP) {
        if (bpf_skb_load_bytes(skb, packet->offset, header, 14))
            return false;
        packet->sequence = header[4] << 24 | header[5] << 16 | header[6] << 8 | header[7];
        packet->offset += (header[12] >> 4) * 4;
    } else if (packet->protocol == IPPROTO_UDP) {
        if (bpf_skb_load_bytes(skb, packet->offset, header, 8))
            return false;
        packet->offset += 8;
    } else {
        return false;
    }
    source = port_at(header);
    destination = port_at(header + 2);
    packet->local_port = packet->direction == OUT ? source : destination;
    packet->remote_port = packet->direction == OUT ? destination : source;
    if (skb->len <= packet->offset)
        return false; /* no payload */
    packet->length = skb->len - packet->offset;
    return true;
}

INLINE bool parse(struct __sk_buff *skb, struct packet *packet) {
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        if (!network_header_v4(skb, packet))
            return false;
    } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        if (!network_header_v6(skb, packet))
            return false;
    } else {
        return false;
    }
    return transport_header(skb, packet);
}

INLINE void fill_block(struct aw_socket_block *block, const struct flow *flow,
                       const struct packet *packet) {
    block->cookie = flow->socket.cookie;
    __builtin_memcpy(block->local, packet->local, 16);
    __builtin_memcpy(block->remote, packet->remote, 16);
    block->local_port = packet->local_port;
    block->remote_port = packet->remote_port;
    block->family = packet->family;
    block->socktype = packet->protocol == IPPROTO_TCP ? SOCK_STREAM : SOCK_DGRAM;
    block->protocol = packet->protocol;
    block->state = 0;
}

/* Counts what is new of a TCP segment. False for a retransmission. */
INLINE bool account_tcp(struct flow *flow, const struct packet *packet) {
    u8 known = packet->direction == OUT ? FLOW_SEQUENCE_OUT : FLOW_SEQUENCE_IN;
    u32 end = packet->sequence + packet->length;
    u32 *next = packet->direction == OUT ? &flow->next[OUT] : &flow->next[IN];
    s32 fresh;

    if (!(flow->flags & known)) {
        flow->flags |= known;
        *next = packet->sequence;
    }
    fresh = end - *next;
    if (fresh <= 0)
        return false;
    *next = end;
    if (packet->direction == OUT)
        flow->bytes[OUT] += fresh;
    else
        flow->bytes[IN] += fresh;
    return true;
}

INLINE void account_udp(struct flow *flow, const struct packet *packet) {
    if (packet->direction == OUT)
        flow->bytes[OUT] += packet->length;
    else
        flow->bytes[IN] += packet->length;
}

INLINE void increment(u16 *counter) {
    *counter += any(*counter ^ 0xffff);
}

INLINE void emit_progress(const struct flow *flow, const struct packet *packet, u32 agent) {
    struct aw_flow_progress *event = slot(AW_FLOW_PROGRESS, agent, ROUTINE);

    if (!event)
        return;
    fill_owner(&event->header, flow);
    fill_block(&event->socket, flow, packet);
    event->bytes_out = flow->bytes[OUT];
    event->bytes_in = flow->bytes[IN];
    event->squares_out = flow->squares[OUT];
    event->squares_in = flow->squares[IN];
    event->segments_out = flow->segments[OUT];
    event->segments_in = flow->segments[IN];
    event->starts = flow->starts;
    event->pushes = flow->pushes;
    submit(event, ROUTINE);
}

/* Keeps what tells the shape of a flow, whatever it carries, and tells it now and then. To be asked
 * before the message is numbered: `last` is still the direction of the segment before. */
INLINE void progress(struct flow *flow, const struct packet *packet, u32 agent) {
    u64 now = bpf_ktime_get_boot_ns(), square = (u64)packet->length * packet->length;
    u64 bytes = flow->bytes[OUT] + flow->bytes[IN];
    bool quiet = now - flow->spoken > AW_QUIET_NS;

    if (packet->direction == OUT) {
        increment(&flow->segments[OUT]);
        flow->squares[OUT] += square;
        if (quiet)
            increment(&flow->starts);
    } else {
        increment(&flow->segments[IN]);
        flow->squares[IN] += square;
        if (quiet && flow->last == IN + 1)
            increment(&flow->pushes);
    }
    flow->spoken = now;
    if (!flow->told)
        flow->told = now;
    if (now - flow->told < AW_PROGRESS_INTERVAL_NS &&
        bytes - flow->told_bytes < (flow->told_bytes ? flow->told_bytes : AW_PROGRESS_BYTES))
        return;
    flow->told = now;
    if (bytes >= AW_PROGRESS_BYTES)
        flow->told_bytes = bytes;
    emit_progress(flow, packet, agent);
}

/* Begins a new message where the direction turns. Returns its number, from 1. */
INLINE u16 message_number(struct flow *flow, const struct packet *packet) {
    u16 *message = packet->direction == OUT ? &flow->message[OUT] : &flow->message[IN];

    if (flow->last != packet->direction + 1 || packet->protocol == IPPROTO_UDP) {
        if (*message < 0xffff)
            (*message)++;
        flow->captured = 0;
        flow->last = packet->direction + 1;
        flow->flags &= ~(FLOW_SAMPLING | FLOW_HANDSHAKE);
        flow->flags |= FLOW_TURNED;
        if (*message > AW_PAYLOAD_MESSAGES) {
            u64 now = bpf_ktime_get_boot_ns();

            if (now - flow->sampled > AW_SAMPLE_INTERVAL_NS) {
                flow->sampled = now;
                flow->flags |= FLOW_SAMPLING;
            }
        }
    }
    return *message;
}

INLINE void fill_payload(struct aw_payload *event, const struct flow *flow,
                         const struct packet *packet, u16 message, u32 agent) {
    fill_header(&event->header, AW_PAYLOAD, agent);
    fill_owner(&event->header, flow);
    fill_block(&event->socket, flow, packet);
    event->sequence = packet->sequence;
    event->packet_length = packet->length;
    event->message = message;
    if (packet->direction == IN)
        event->header.flags |= AW_PAYLOAD_IN;
    if (flow->flags & FLOW_SAMPLING)
        event->header.flags |= AW_PAYLOAD_SAMPLED;
    if (packet->protocol == IPPROTO_UDP &&
        (packet->local_port == DNS_PORT || packet->remote_port == DNS_PORT))
        event->header.flags |= AW_PAYLOAD_DNS;
}

/* Records `length` bytes of the packet in a piece of `capacity` bytes (a constant), and wakes the
 * reader: any of them may be what decides. */
INLINE void record_within(u32 capacity, struct __sk_buff *skb, const struct flow *flow,
                          const struct packet *packet, u16 message, u64 length, u32 agent) {
    struct aw_payload *event = 0;

    /* A flow's first messages have a part of the ring for themselves. */
    if (records_open(message == 1 ? URGENT : ROUTINE))
        event = bpf_ringbuf_reserve(MAP(RECORDS), sizeof(*event) + capacity, 0);
    if (!reserved(event, agent, AW_PAYLOAD))
        return;
    fill_payload(event, flow, packet, message, agent);
    event->length = length;
    if (!length || bpf_skb_load_bytes(skb, packet->offset, event->data, positive(length, capacity)))
        event->length = 0;
    submit(event, URGENT);
}

/* Small segments take little of the ring. */
INLINE void record(struct __sk_buff *skb, const struct flow *flow, const struct packet *packet,
                   u16 message, u64 length, u32 agent) {
    if (length <= SMALL_PAYLOAD)
        record_within(SMALL_PAYLOAD, skb, flow, packet, message, length, agent);
    else if (length <= AW_PAYLOAD_BYTES)
        record_within(AW_PAYLOAD_BYTES, skb, flow, packet, message, length, agent);
    else
        record_within(AW_HANDSHAKE_BYTES, skb, flow, packet, message, length, agent);
}

/* Whether user space wants to see this packet of a flow that is past its first messages. */
INLINE bool followed(struct flow *flow, bool turned) {
    u64 now;

    if (!bpf_map_lookup_elem(MAP(FOLLOWED), &flow->socket.cookie))
        return false;
    if (turned)
        return true;
    now = bpf_ktime_get_boot_ns();
    if (now - flow->shown < AW_FOLLOW_INTERVAL_NS)
        return false;
    flow->shown = now;
    return true;
}

/* TLS: a handshake record of any version. SSH: its banner, or KEXINIT (RFC 4253, 6 and 7.1). */
INLINE bool stream_handshake(const u8 *head, u32 length) {
    if (length < 6)
        return head[0] == 0x16; /* as far as can be told */
    if (head[0] == 0x16)
        return head[1] == 3;
    if (head[0] == 'S')
        return head[1] == 'S' && head[2] == 'H' && head[3] == '-';
    return !head[0] && !head[1] && head[5] == 20;
}

/* QUIC: a long header of type Initial, version 1 or 2 (RFC 9000, 17.2.2; RFC 9369, 3). */
INLINE bool datagram_handshake(const u8 *head, u32 length) {
    u32 version = (u32)head[1] << 24 | head[2] << 16 | head[3] << 8 | head[4];

    if (length < QUIC_INITIAL)
        return false;
    return ((head[0] & 0xf0) == 0xc0 && version == 1) ||
           ((head[0] & 0xf0) == 0xd0 && version == 0x6b3343cf);
}

/* Whether a message that begins with this packet begins like a handshake. */
INLINE bool handshake(struct __sk_buff *skb, const struct packet *packet) {
    u8 head[6] = {};

    if (packet->length >= sizeof(head)) {
        if (bpf_skb_load_bytes(skb, packet->offset, head, sizeof(head)))
            return false;
    } else if (bpf_skb_load_bytes(skb, packet->offset, head, 1)) {
        return false;
    }
    if (packet->protocol == IPPROTO_UDP)
        return datagram_handshake(head, packet->length);
    return stream_handshake(head, packet->length);
}

INLINE void follow(struct __sk_buff *skb, struct flow *flow, const struct packet *packet,
                   u32 agent) {
    bool dns = packet->protocol == IPPROTO_UDP &&
               (packet->local_port == DNS_PORT || packet->remote_port == DNS_PORT);
    u64 length, limit;
    u16 message;
    bool turned;

    if (packet->protocol == IPPROTO_TCP) {
        if (!account_tcp(flow, packet))
            return;
    } else {
        account_udp(flow, packet);
    }
    flow->flags |= FLOW_ANNOUNCED;
    progress(flow, packet, agent);
    message = message_number(flow, packet);
    turned = flow->flags & FLOW_TURNED;
    flow->flags &= ~FLOW_TURNED;
    if (turned && message <= AW_PAYLOAD_MESSAGES && handshake(skb, packet))
        flow->flags |= FLOW_HANDSHAKE;
    limit = flow->flags & FLOW_HANDSHAKE ? AW_HANDSHAKE_BYTES : AW_PAYLOAD_BYTES;
    if ((message <= AW_PAYLOAD_MESSAGES || flow->flags & FLOW_SAMPLING || dns) &&
        flow->captured < limit)
        length = limit - flow->captured;
    else if (followed(flow, turned))
        length = SMALL_PAYLOAD;
    else
        return;
    if (length > packet->length)
        length = packet->length;
    flow->captured += length;
    record(skb, flow, packet, message, length, agent);
}

INLINE int packet(struct __sk_buff *skb, u8 direction) {
    u32 agent = attached_agent();
    struct packet packet = {.direction = direction};
    struct bpf_sock *sk = skb->sk;
    struct flow *flow;

    if (!agent || !sk)
        return 1;
    sk = bpf_sk_fullsock(sk);
    if (!sk)
        return 1;
    if (!parse(skb, &packet))
        return 1;
    flow = bpf_sk_storage_get(MAP(FLOWS), sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
    if (!flow)
        return 1;
    flow->socket.cookie = bpf_get_socket_cookie(skb);
    follow(skb, flow, &packet, agent);
    return 1;
}

/* cgroup_skb/egress: 0 drops the packet */
int on_egress(struct __sk_buff *skb) {
    struct agent *agent = bpf_get_local_storage(MAP(AGENTS), 0);

    return agent->blocked ? 0 : packet(skb, OUT);
}

/* cgroup_skb/ingress */
int on_ingress(struct __sk_buff *skb) {
    return packet(skb, IN);
}
