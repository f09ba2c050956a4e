"""Every event that agentwatch records, declared once.

The C structs of the probes (`schema.c_header`), the decoders (`schema.decode`), the trace
header and the documentation come from this table. A new event is one entry here, one probe
function and one test.

Kernel events travel in one of two rings: `SLOTS` holds fixed 128-byte slots for events that
can be frequent, `RECORDS` holds records of variable length. `NOTES` are records that user
space makes: what it found at attach time, what it was asked to read, what it did, what was lost.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import NamedTuple

SCHEMA_VERSION = 1

HOST = 0  # the number of an agent in records of what concerns all agents
SLOT_SIZE = 128  # bytes, the ring's own 8-byte header included
RING_HEADER_SIZE = 8  # struct bpf_ringbuf_hdr {u32 len; u32 pg_off;}


class Ring(Enum):
    """How a record travels."""

    SLOTS = "slots"
    RECORDS = "records"
    NOTES = "notes"


class Field(NamedTuple):
    """One field: a C scalar (`u8 u16 u32 u64 s32`) or `bytesN` for N raw bytes."""

    name: str
    type: str
    doc: str


class EventType(NamedTuple):
    """One event. `tail` lists the capacities in bytes a record's trailing data may be reserved with."""

    name: str
    number: int
    ring: Ring
    doc: str
    fields: tuple[Field, ...]
    tail: tuple[int, ...] = ()


class Type(IntEnum):
    """Numbers of the events. They are part of the trace format: never reuse one."""

    FORK = 1
    EXIT = 2
    SOCKET = 3
    BIND = 4
    LISTEN = 5
    ACCEPT = 6
    CONNECT = 7
    CONNECTED = 8
    SEND = 9
    CLOSE = 10
    SIGNAL = 11
    FLOW_PROGRESS = 23
    EXEC = 32
    EXEC_PIECE = 33
    PAYLOAD = 34
    UNIX_CONNECT = 35
    CGROUP_MOVE = 36
    FILE_ACCESS = 37
    PRIVILEGED = 38
    PROCESS = 64
    SOCKET_SEEN = 65
    FILE = 66
    ACTION = 67
    LOSS = 68
    COVERAGE = 69
    AGENT = 70
    RULES = 71
    REDACTED = 72
    GPU_DEVICE = 73
    GPU_SAMPLE = 74
    GPU_USE = 75
    GPU_GONE = 76
    POLICY = 80
    MARKER = 83
    TRAINING = 84


HEADER = (
    Field("time", "u64", "nanoseconds since boot (CLOCK_BOOTTIME)"),
    Field("type", "u16", "number of the event type"),
    Field("flags", "u16", "flags of the event type"),
    Field("agent", "u32", "number of the agent in this session"),
    Field("tgid", "u32", "process id (thread group) in the initial pid namespace"),
    Field("tid", "u32", "thread id in the initial pid namespace; 0 where no thread is concerned"),
    Field("start", "u64", "start time of the process, nanoseconds since boot: with tgid, its identity"),
)

SOCKET_BLOCK = (
    Field("cookie", "u64", "socket cookie: the identity of the flow"),
    Field("local", "bytes16", "local address in network order; IPv4 in the first four bytes"),
    Field("remote", "bytes16", "remote address in network order; IPv4 in the first four bytes"),
    Field("local_port", "u16", "local port, host order; 0 unknown"),
    Field("remote_port", "u16", "remote port, host order; 0 unknown"),
    Field("family", "u8", "address family: 2 IPv4, 10 IPv6"),
    Field("socktype", "u8", "socket type: 1 stream, 2 datagram, 3 raw"),
    Field("protocol", "u8", "IP protocol: 6 TCP, 17 UDP"),
    Field("state", "u8", "0"),
)


class ExecFlag(IntEnum):
    """`flags` of an exec."""

    MEMFD = 1  # the executable is a memfd
    DELETED = 2  # the executable has no name in any folder any more
    WRITTEN = 4  # an agent opened the file for writing before


class PieceFlag(IntEnum):
    """`flags` of an exec piece."""

    CUT = 1  # a path lacks its beginning, a variable its end; without data: not all were looked through


class Piece(IntEnum):
    """`kind` of an exec piece."""

    EXE = 1  # path of the executable: names from the leaf to the root, each ended by NUL
    CWD = 2  # working directory, in the same form
    ARGV = 3  # bytes of argv, arguments ended by NUL, at `offset`
    STREAMS = 4  # three of `struct stream`: what standard input, output and error are
    ENVIRONMENT = 5  # a variable that has code loaded, as NAME=value; one piece each


class StreamKind(IntEnum):
    """What a standard stream is. Identity and peer are numbers whose meaning depends on it."""

    CLOSED = 0
    OTHER = 1  # a device, a folder, a socket of another family
    NULL = 2  # /dev/null
    FILE = 3  # a regular file: its inode
    TERMINAL = 4  # a pseudo terminal: its number in /dev/pts
    PIPE = 5  # an unnamed pipe: its inode
    FIFO = 6  # a named pipe: its inode, and as peer its device
    INET = 7  # an IPv4 or IPv6 socket: its cookie
    UNIX = 8  # a Unix socket: its inode, and its peer's where it has one


class FileFlag(IntEnum):
    """`flags` of a file access."""

    CUT = 1  # the path is not whole


class Access(IntEnum):
    """`access` of a file access. Of two names the one it was comes first, from the same thread."""

    READ = 1  # opened for reading
    WRITE = 2  # opened for writing, or truncated
    CREATE = 3  # made by opening it
    DELETE = 4
    RENAME_FROM = 5
    RENAME = 6
    LINK_FROM = 7
    LINK = 8


class Operation(IntEnum):
    """`operation` of a privileged operation."""

    UNSHARE = 1  # detail: flags of clone(2)
    SETNS = 2  # detail: flags of clone(2), 0 any; argument: the namespace's number
    MOUNT = 3  # detail: flags of mount(2); data: source, target, type
    MOVE_MOUNT = 4  # the same data
    PIVOT_ROOT = 5  # data: the new root
    CHROOT = 6  # data: the new root
    BPF = 7  # detail: command of bpf(2)
    MODULE = 8
    PTRACE = 9  # target; argument: its start
    MEMORY = 10  # another process's memory was read (detail 0) or written (1): target
    SOCKET = 11  # detail, 16 bits each from below: family, type, protocol; argument: inode


class PrivilegedFlag(IntEnum):
    """`flags` of a privileged operation."""

    INITIAL = 1  # a namespace of the host was entered
    MONITOR = 2  # the target is the monitor
    CUT = 4  # a text is cut short


class Namespace(IntEnum):
    """Kinds of namespaces, by their flag of clone(2) (include/uapi/linux/sched.h)."""

    TIME = 0x00000080
    MNT = 0x00020000
    CGROUP = 0x02000000
    UTS = 0x04000000
    IPC = 0x08000000
    USER = 0x10000000
    PID = 0x20000000
    NET = 0x40000000


class BpfCommand(IntEnum):
    """Commands of bpf(2) that are told (enum bpf_cmd); the rest reads and writes what is there."""

    MAP_CREATE = 0
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_ATTACH = 8
    PROG_DETACH = 9
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    RAW_TRACEPOINT_OPEN = 17
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_GET_FD_BY_ID = 30
    LINK_DETACH = 34


class PayloadFlag(IntEnum):
    """`flags` of a payload."""

    IN = 1  # towards the watched process; otherwise from it
    SAMPLED = 2  # taken later in the flow's life, not from its first messages
    DNS = 4  # a datagram from or to port 53


DONE = frozenset(("done", "already"))  # `result` of an action after which things are as was asked for

ARGV_LIMIT = 128 * 1024  # bytes of argv recorded
PAYLOAD_BYTES = 512  # bytes recorded of a message
HANDSHAKE_BYTES = 2048  # bytes recorded of one that begins like a handshake of TLS, QUIC or SSH
PAYLOAD_MESSAGES = (
    6  # messages recorded in each direction: the proxies' handshakes come before the first three
)
SAMPLE_INTERVAL_NS = 5_000_000_000  # one later message is recorded each such interval
FOLLOW_INTERVAL_NS = 5_000_000  # of a followed flow's long messages, one segment each such interval
PROGRESS_INTERVAL_NS = 15_000_000_000  # a flow that carries data tells its progress each such interval
PROGRESS_BYTES = 1 << 20  # and as often as its bytes have doubled, from this many on
QUIET_NS = 1_000_000_000  # what is said after such a silence was not said at once

WATCHED_LEVELS = 4  # names of a path that decide whether a file may be watched: its own and those above
WATCHED_NAME = 32  # bytes of such a name
FILE_INTERVAL_NS = 1_000_000_000  # a process's repeated opens of a file are told once each such interval

EVENTS: tuple[EventType, ...] = (
    EventType(
        "fork",
        Type.FORK,
        Ring.SLOTS,
        "A process was created; the header names the child.",
        (
            Field("parent_start", "u64", "start time of the creator"),
            Field("clone_flags", "u64", "flags of clone(2)"),
            Field("parent", "u32", "process id of the creator"),
        ),
    ),
    EventType(
        "exit",
        Type.EXIT,
        Ring.SLOTS,
        "A process ended: its last thread is gone.",
        (Field("status", "u32", "wait status: signal in the low 7 bits, exit code in bits 8 to 15"),),
    ),
    EventType(
        "socket",
        Type.SOCKET,
        Ring.SLOTS,
        "An IPv4 or IPv6 socket was created.",
        SOCKET_BLOCK,
    ),
    EventType("bind", Type.BIND, Ring.SLOTS, "A socket was bound to a local address.", SOCKET_BLOCK),
    EventType("listen", Type.LISTEN, Ring.SLOTS, "A TCP socket began to listen.", SOCKET_BLOCK),
    EventType(
        "accept",
        Type.ACCEPT,
        Ring.SLOTS,
        "A TCP connection came in and was established; the header names the listener's process.",
        SOCKET_BLOCK,
    ),
    EventType(
        "connect",
        Type.CONNECT,
        Ring.SLOTS,
        "A socket was asked to connect; the result follows as `connected`.",
        SOCKET_BLOCK,
    ),
    EventType(
        "connected",
        Type.CONNECTED,
        Ring.SLOTS,
        "The result of a TCP connect.",
        (
            *SOCKET_BLOCK,
            Field("elapsed", "u64", "nanoseconds since connect"),
            Field("error", "u32", "errno; 0"),
        ),
    ),
    EventType(
        "send",
        Type.SEND,
        Ring.SLOTS,
        "An unconnected datagram socket sends to another address than before.",
        SOCKET_BLOCK,
    ),
    EventType(
        "close",
        Type.CLOSE,
        Ring.SLOTS,
        "A flow ended.",
        (
            *SOCKET_BLOCK,
            Field("bytes_out", "u64", "payload bytes sent, retransmissions not counted"),
            Field("bytes_in", "u64", "payload bytes received, retransmissions not counted"),
            Field("elapsed", "u64", "nanoseconds since the socket was made"),
        ),
    ),
    EventType(
        "flow_progress",
        Type.FLOW_PROGRESS,
        Ring.SLOTS,
        "What a flow has carried so far: each 15 s while it carries data, and when its bytes have doubled.",
        (
            *SOCKET_BLOCK,
            Field("bytes_out", "u64", "payload bytes sent, retransmissions not counted"),
            Field("bytes_in", "u64", "payload bytes received, retransmissions not counted"),
            Field("squares_out", "u64", "sum of the squares of the segments' sizes, sent"),
            Field("squares_in", "u64", "the same, received"),
            Field("segments_out", "u16", "segments or datagrams sent; 65535 and more"),
            Field("segments_in", "u16", "the same, received"),
            Field("starts", "u16", "segments sent after 1 s of silence"),
            Field("pushes", "u16", "segments received after 1 s of silence, the last before received, too"),
        ),
    ),
    EventType(
        "signal",
        Type.SIGNAL,
        Ring.SLOTS,
        "An agent's process sent a signal to the monitor; the header names the sender.",
        (
            Field("signal", "u32", "number of the signal"),
            Field("target", "u32", "process id of the receiver"),
        ),
    ),
    EventType(
        "exec",
        Type.EXEC,
        Ring.RECORDS,
        "A process runs a new program. Its pieces come before it, from the same thread.",
        (
            Field("parent_start", "u64", "start time of the parent"),
            Field("inode", "u64", "inode number of the executable"),
            Field("parent", "u32", "process id of the parent"),
            Field("device", "u32", "device of the executable (kernel encoding: major << 20 | minor)"),
            Field("argv_length", "u32", "length of argv in bytes"),
            Field("uid", "u32", "real user id"),
            Field("euid", "u32", "effective user id"),
            Field("gid", "u32", "real group id"),
            Field("mode", "u32", "mode of the executable"),
            Field("pid_ns", "u32", "pid namespace"),
            Field("net_ns", "u32", "network namespace"),
            Field("mnt_ns", "u32", "mount namespace"),
            Field("user_ns", "u32", "user namespace"),
        ),
    ),
    EventType(
        "exec_piece",
        Type.EXEC_PIECE,
        Ring.RECORDS,
        "A part of what an exec says, for the exec that follows from the same thread. Flag 1: cut short.",
        (
            Field("offset", "u32", "offset of the data in the whole"),
            Field("length", "u16", "bytes of data"),
            Field(
                "kind", "u16", "1 executable, 2 working directory, 3 argv, 4 standard streams, 5 environment"
            ),
        ),
        tail=(72, 256, 1280, 2048, 16384),
    ),
    EventType(
        "payload",
        Type.PAYLOAD,
        Ring.RECORDS,
        "Bytes of a message of a flow. Flag 1: received; 2: sampled later in the flow's life; 4: DNS.",
        (
            *SOCKET_BLOCK,
            Field("sequence", "u32", "TCP sequence number of the first byte; 0 for datagrams"),
            Field("packet_length", "u32", "payload bytes in the packet"),
            Field("message", "u16", "number of the message in this direction, from 1"),
            Field("length", "u16", "bytes of data recorded"),
        ),
        tail=(64, PAYLOAD_BYTES, HANDSHAKE_BYTES),
    ),
    EventType(
        "unix_connect",
        Type.UNIX_CONNECT,
        Ring.RECORDS,
        "A Unix socket was asked to connect.",
        (
            Field("cookie", "u64", "socket cookie"),
            Field("socktype", "u32", "socket type"),
            Field("length", "u32", "bytes of the path; a leading NUL means the abstract namespace"),
        ),
        tail=(108,),
    ),
    EventType(
        "cgroup_move",
        Type.CGROUP_MOVE,
        Ring.RECORDS,
        "A process of an agent was moved to another cgroup; the header names the process that moved.",
        (
            Field("cgroup", "u64", "id of the new cgroup"),
            Field("mover", "u32", "process that asked for it"),
            Field("length", "u32", "bytes of the path"),
        ),
        tail=(256,),
    ),
    EventType(
        "file_access",
        Type.FILE_ACCESS,
        Ring.RECORDS,
        "A file whose name is watched was opened, made, renamed or removed. Flag 1: the path is cut short. "
        "Data: names from leaf to root, of the file; or of the folder from which a path was asked for, and "
        "then that path, where only that is known.",
        (
            Field("access", "u32", "1 read, 2 write, 3 create, 4 delete, 5 and 6 rename, 7 and 8 link"),
            Field("mode", "u32", "mode of the file; 0 unknown"),
            Field("own_pid", "u32", "process id in the process's own pid namespace"),
            Field("text", "u16", "bytes of the path as it was asked for"),
            Field("length", "u16", "bytes of data"),
        ),
        tail=(1280, 1792),
    ),
    EventType(
        "privileged",
        Type.PRIVILEGED,
        Ring.RECORDS,
        "An operation that takes or gives privilege. Flag 1: entered a namespace of the host; "
        "2: aimed at the monitor; 4: a text is cut. Data: texts, each ended by NUL.",
        (
            Field("argument", "u64", "number of a namespace, start of a target, inode of a socket"),
            Field("detail", "u64", "flags or command of the call"),
            Field("operation", "u32", "which: enumeration Operation"),
            Field("target", "u32", "process that it was aimed at; 0 none"),
            Field("length", "u32", "bytes of data"),
        ),
        tail=(1280,),
    ),
    EventType(
        "process",
        Type.PROCESS,
        Ring.NOTES,
        "A process that ran already when watching began.",
        (
            Field("parent", "u32", "process id of the parent"),
            Field("parent_start", "u64", "start time of the parent"),
            Field("exe", "str", "path of the executable"),
            Field("argv", "strs", "arguments"),
            Field("cwd", "str", "working directory"),
            Field("uid", "u32", "real user id"),
            Field("euid", "u32", "effective user id"),
            Field("gid", "u32", "real group id"),
            Field("flags", "u32", "flags of an exec"),
            Field("argv_cut", "u32", "1: there were more arguments than are told"),
        ),
    ),
    EventType(
        "socket_seen",
        Type.SOCKET_SEEN,
        Ring.NOTES,
        "A socket found open: at attach time, or of a family whose creation no hook reports.",
        (
            Field("cookie", "u64", "socket cookie; for other families the socket's inode"),
            Field("family", "u32", "address family"),
            Field("socktype", "u32", "socket type"),
            Field("protocol", "u32", "protocol"),
            Field("local", "bytes", "local address, or path"),
            Field("local_port", "u32", "local port"),
            Field("remote", "bytes", "remote address, or path"),
            Field("remote_port", "u32", "remote port"),
            Field("state", "str", "listen, established or open"),
        ),
    ),
    EventType(
        "file",
        Type.FILE,
        Ring.NOTES,
        "A file that a detector asked for, such as an ssh configuration named on a command line.",
        (
            Field("path", "str", "the file"),
            Field("content", "bytes", "its first 64 KiB; empty where it could not be read"),
            Field("error", "str", "why it could not be read; empty"),
        ),
    ),
    EventType(
        "action",
        Type.ACTION,
        Ring.NOTES,
        "What the actuator did, and with which result.",
        (
            Field("decision", "u64", "sequence number of the decisive record"),
            Field("rule", "str", "id of the rule, or the operator's name"),
            Field("response", "str", "pause, kill, resume"),
            Field("result", "str", "done, already, failed, or held: not done on purpose"),
            Field("error", "str", "why it failed or was held; empty"),
            Field("acted", "u64", "when the kernel had been told, nanoseconds since boot"),
            Field("settled", "u64", "when it took effect (frozen, empty); 0 where it did not"),
        ),
    ),
    EventType(
        "loss",
        Type.LOSS,
        Ring.NOTES,
        "Events that were lost since the last such record.",
        (
            Field("event", "u32", "number of the event type"),
            Field("lost", "u64", "events lost"),
            Field("reason", "str", "ring full, disk full, ..."),
        ),
    ),
    EventType(
        "coverage",
        Type.COVERAGE,
        Ring.NOTES,
        "A probe that could not be attached, and what it costs in coverage.",
        (
            Field("probe", "str", "name of the probe"),
            Field("error", "str", "why it could not be attached; empty: from here on it is"),
            Field("cost", "str", "what is not seen without it"),
        ),
    ),
    EventType(
        "agent",
        Type.AGENT,
        Ring.NOTES,
        "An agent is watched from here on.",
        (
            Field("name", "str", "name of the agent"),
            Field("cgroup", "str", "path of its cgroup below the mount"),
            Field("cgroup_id", "u64", "id of its cgroup"),
            Field("mode", "str", "monitor or enforce"),
        ),
    ),
    EventType(
        "rules",
        Type.RULES,
        Ring.NOTES,
        "The rules in force from here on.",
        (
            Field("digest", "str", "hash over the rules"),
            Field(
                "content", "bytes", "the whole set after a reload; empty at the start: the trace has it apart"
            ),
        ),
    ),
    EventType(
        "redacted",
        Type.REDACTED,
        Ring.NOTES,
        "Bytes of this round were masked before anyone saw them; time and process are of their record.",
        (
            Field("batch", "u32", "which batch of the round, from 0"),
            Field("offset", "u64", "of the first masked byte in the batch; in notes, in the text"),
            Field("length", "u64", "bytes masked"),
            Field("reason", "str", "what they looked like"),
        ),
    ),
    EventType(
        "gpu_device",
        Type.GPU_DEVICE,
        Ring.NOTES,
        "A GPU, or a MIG instance of one, can be seen from here on.",
        (
            Field("uuid", "str", "its identity, as NVML tells it"),
            Field("label", "str", "its number; of an instance, that of the GPU and its own: 0/1"),
            Field("name", "str", "name of the model"),
            Field("parent", "str", "identity of the GPU that an instance is a part of; empty"),
            Field("instance", "s32", "GPU instance id; -1 for a whole GPU"),
            Field("memory", "u64", "bytes of memory; 0 unknown"),
            Field("driver", "str", "version of the driver"),
        ),
    ),
    EventType(
        "gpu_sample",
        Type.GPU_SAMPLE,
        Ring.NOTES,
        "How busy a GPU is, by NVML; -1 is unknown. The uses by processes of the same look follow.",
        (
            Field("uuid", "str", "identity of the GPU or instance"),
            Field("sm", "s32", "percent of time in which a kernel ran"),
            Field("memory_busy", "s32", "percent of time in which memory was read or written"),
            Field("encoder", "s32", "percent of the video encoder"),
            Field("memory", "u64", "bytes of memory in use; 0 unknown"),
            Field("power", "s32", "milliwatts"),
            Field("temperature", "s32", "degrees Celsius"),
            Field("sent", "s32", "KB/s that the GPU sent over PCIe, counted for 20 ms"),
            Field("received", "s32", "KB/s that the GPU received over PCIe, counted for 20 ms"),
            Field("processes", "u32", "how many processes use it"),
        ),
    ),
    EventType(
        "gpu_use",
        Type.GPU_USE,
        Ring.NOTES,
        "A process uses a GPU. Its start is as /proc tells it: cut to whole clock ticks (10 ms).",
        (
            Field("uuid", "str", "identity of the GPU or instance"),
            Field("sm", "s32", "percent of the GPU's multiprocessors; -1 unknown, as all of these"),
            Field("memory_busy", "s32", "percent of time in which its memory was read or written"),
            Field("encoder", "s32", "percent of the video encoder"),
            Field("decoder", "s32", "percent of the video decoder"),
            Field("memory", "u64", "bytes of memory; 0 unknown"),
        ),
    ),
    EventType(
        "gpu_gone",
        Type.GPU_GONE,
        Ring.NOTES,
        "A GPU cannot be seen any more.",
        (
            Field("uuid", "str", "identity of the GPU or instance; empty: none can be seen"),
            Field("reason", "str", "why, in NVML's words"),
        ),
    ),
    EventType(
        "policy",
        Type.POLICY,
        Ring.NOTES,
        "What is said of an agent and may be done to it, from here on.",
        (
            Field("table", "str", "id of the configuration's table of agents; empty: [policy]"),
            Field("mode", "str", "monitor or enforce"),
            Field("max_response", "str", "no more than this is done: alert, pause or kill"),
            Field("only", "strs", "ids, names, tags or tactics of the rules that speak of it; none: all"),
            Field("without", "strs", "the same of the rules that do not"),
            Field("limits", "strs", "what was asked for in its cgroup's files, as FILE=VALUE"),
            Field("origin", "str", "which selector found it, or who attached it"),
        ),
    ),
    EventType(
        "marker",
        Type.MARKER,
        Ring.NOTES,
        "A marker stands on an agent from here on; with a process, on it and what it starts from here on.",
        (
            Field("name", "str", "name, such as run, episode, tool"),
            Field("value", "str", "value; empty: the marker is taken away"),
            Field("source", "str", "who: agent (a process of its own), environment, file, or an operator"),
        ),
    ),
    EventType(
        "training",
        Type.TRAINING,
        Ring.NOTES,
        "What of an agent is the registered training job, by its policy, from here on.",
        (Field("paths", "strs", "paths of programs and scripts; *: all of the agent"),),
    ),
)

BY_NUMBER: dict[int, EventType] = {event.number: event for event in EVENTS}
BY_NAME: dict[str, EventType] = {event.name: event for event in EVENTS}
