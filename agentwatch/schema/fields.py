"""The fields that rules may name, by category: where their values come from and what they mean.

The field reference in the documentation is made from this table.
"""

from __future__ import annotations

from agentwatch.schema.events import Field

PROCESS = (
    Field("Image", "str", "path of the program's file"),
    Field("CommandLine", "str", "arguments, joined by spaces"),
    Field("Argv", "list", "arguments one by one, the program's name as `Argv#0`"),
    Field("CurrentDirectory", "str", "working directory"),
    Field("User", "str", "user's name, or the number where it has none"),
    Field("UserId", "int", "number of the user (real user id)"),
    Field("ProcessId", "int", "process id in the initial pid namespace"),
    Field("ParentProcessId", "int", "process id of the parent"),
    Field("ParentImage", "str", "path of the parent's program"),
    Field("ParentCommandLine", "str", "arguments of the parent"),
    Field("ImageFlags", "list", "what stands out about the file: memfd, deleted, loader (run through ld.so), "
          "written (by the agent itself)"),
    Field("AncestorImages", "list", "programs of the parent, its parent, ...: the nearest first, at most 16"),
)  # fmt: skip

FILE = (
    Field("TargetFilename", "str", "path of the file"),
    Field("Access", "str", "read; or write, create, rename, delete"),
)

CONNECTION = (
    Field("SourceIp", "str", "local address"),
    Field("SourcePort", "int", "local port"),
    Field("DestinationIp", "str", "remote address"),
    Field("DestinationPort", "int", "remote port"),
    Field("DestinationHostname", "str", "name of the remote side: from a DNS answer, or asked of a proxy"),
    Field("Initiated", "str", "true where the process connected, false where it accepted"),
)

FIELDS: dict[str, tuple[str, tuple[Field, ...]]] = {
    "process_creation": (
        "A process runs a new program.",
        (
            *PROCESS,
            Field("LoaderEnvironment", "list", "NAME=value of variables that make programs load code: "
                  "LD_PRELOAD, LD_AUDIT, LD_LIBRARY_PATH, BASH_ENV, ENV, PYTHONSTARTUP, GCONV_PATH"),
        ),
    ),
    "file_event": (
        "A watched file was created, written, renamed or removed.",
        (*PROCESS, *FILE, Field("SourceFilename", "str", "of a rename: the old path")),
    ),
    "file_access": ("A watched file was opened for reading.", (*PROCESS, *FILE)),
    "privileged_operation": (
        "The kernel was asked for something that changes who may do what.",
        (
            *PROCESS,
            Field("Kind", "str", "namespace, mount, module_load, bpf, ptrace or credentials"),
            Field("Operation", "str", "of namespace: unshare, setns, clone; of bpf: prog_load, ..."),
            Field("Namespaces", "list", "user, net, mnt, pid, ipc, uts, cgroup, time"),
            Field("OfInit", "str", "true where setns entered a namespace of the initial process"),
            Field("Source", "str", "of mount: what is mounted"),
            Field("Target", "str", "of mount: where"),
            Field("FsType", "str", "of mount: type of the file system"),
            Field("Name", "str", "of module_load: the module"),
            Field("TargetProcessId", "int", "of ptrace: the process traced"),
            Field("TargetImage", "str", "of ptrace: its program"),
            Field("OfMonitor", "str", "of ptrace: true where the monitor is traced"),
            Field("NewUserId", "int", "of credentials: number of the user it became"),
        ),
    ),
    "process_behaviour": (
        "What processes did over many events.",
        (
            *PROCESS,
            Field("Kind", "str", "fork_storm, self_copy or self_replication"),
            Field("Forks", "int", "of fork_storm: how many"),
            Field("Span", "float", "of fork_storm: within how many seconds"),
        ),
    ),
    "network_connection": (
        "A socket connects, sends to a new address, or a connection was accepted.",
        (*PROCESS, *CONNECTION, Field("Protocol", "str", "tcp, udp, or the IP protocol's number")),
    ),
    "dns_query": (
        "A name was asked for, or answered.",
        (
            *PROCESS,
            Field("QueryName", "str", "the name"),
            Field("QueryType", "str", "record type: A, AAAA, TXT, ..."),
            Field("QueryResults", "list", "addresses and names of the answer"),
            Field("QueryStatus", "str", "response code, such as NOERROR; absent for the question"),
        ),
    ),
    "flow": (
        "What was recognised in the bytes or the behaviour of a flow.",
        (
            *PROCESS,
            *CONNECTION,
            Field("Protocol", "str", "application protocol: stratum, ssh, http-connect, ..."),
            Field("Behaviour", "str", "remote_forward: the process lets a remote host connect inwards"),
            Field("Stage", "str", "of remote_forward: asked (argv or configuration), opened (SSH is spoken), "
                  "used (a channel came in)"),
            Field("Dialect", "str", "dialect of the protocol"),
            Field("Method", "str", "method or message that decided"),
            Field("Confidence", "str", "likely: by the shape of encrypted messages; absent: by content"),
            Field("Role", "str", "what the watched process is: client or server"),
            Field("Transport", "str", "layers below the protocol: tcp, http, websocket, socks5>tcp, ..."),
            Field("Client", "str", "the client's software as it names itself"),
            Field("Server", "str", "the server's software as it names itself"),
            Field("Path", "str", "of http: path of the request"),
        ),
    ),
    "network_listen": ("A TCP socket listens.", (*PROCESS, *CONNECTION, Field("Protocol", "str", "tcp"))),
    "socket_creation": (
        "A socket was created (IPv4, IPv6), or found open in a sweep (other families).",
        (
            *PROCESS,
            Field("Family", "int", "address family: 2 IPv4, 10 IPv6, 17 packet, 38 AF_ALG, 40 vsock"),
            Field("SocketType", "int", "1 stream, 2 datagram, 3 raw"),
            Field("Protocol", "int", "protocol number"),
        ),
    ),
    "unix_connection": (
        "A Unix socket connects.",
        (*PROCESS, Field("Path", "str", "path; @name is abstract")),
    ),
    "tampering": (
        "An agent acts against the watch itself.",
        (
            *PROCESS,
            Field("Kind", "str", "cgroup_move (left its cgroup), signal or ptrace (at the monitor), "
                  "freezer (wrote control files of a watched cgroup), bpffs (its pins)"),
            Field("Cgroup", "str", "path of the new cgroup"),
            Field("Signal", "int", "number of the signal"),
        ),
    ),
    "loss": (
        "Events were lost.",
        (
            Field("EventType", "int", "number of the event type"),
            Field("Lost", "int", "how many"),
            Field("Reason", "str", "ring full, disk full, ..."),
        ),
    ),
}  # fmt: skip
