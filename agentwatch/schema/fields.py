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
    Field(
        "ImageFlags",
        "list",
        "what stands out about the file: memfd, deleted, loader (run through ld.so), "
        "written (by the agent, before it ran)",
    ),
    Field("AncestorImages", "list", "programs of the parent, its parent, ..., at most 16"),
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
    "process_creation": ("A process runs a new program.", PROCESS),
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
            Field("Behaviour", "str", "remote_forward: the process lets a remote host connect inwards; "
                  "tunnel_tool, tunnel_device, reverse_shell, bind_shell, relay"),
            Field("Stage", "str", "of remote_forward: asked (argv or configuration), opened (SSH is spoken), "
                  "used (a channel came in)"),
            Field("Dialect", "str", "dialect of the protocol"),
            Field("Method", "str", "method or message that decided"),
            Field("Confidence", "str", "likely: by the shape of encrypted messages; absent: by content"),
            Field("Role", "str", "what the watched process is: client or server"),
            Field("Transport", "str", "layers below the protocol: tcp, http, websocket, socks5>tcp, ..."),
            Field("Client", "str", "the client's software as it names itself"),
            Field("Server", "str", "the server's software as it names itself"),
            Field("ServerName", "str", "name asked for in TLS or QUIC (SNI)"),
            Field("Alpn", "list", "protocols offered in TLS or QUIC"),
            Field("Via", "str", "of a shell: socket, pipe, pty, unix or pipeline"),
            Field("HolderImage", "str", "of a shell: program of the process that holds the connection"),
            Field("LocalTarget", "str", "of a relay: address and port inside"),
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
    "file_event": (
        "A watched file was created, written, renamed or removed.",
        (
            *PROCESS,
            Field("TargetFilename", "str", "path of the file"),
            Field("Access", "str", "create, write, rename or delete"),
            Field("SourceFilename", "str", "of a rename: the name before"),
        ),
    ),
    "file_access": (
        "A watched file was opened for reading.",
        (
            *PROCESS,
            Field("TargetFilename", "str", "path of the file"),
            Field("Access", "str", "read"),
        ),
    ),
    "network_behaviour": (
        "What many events of the network together show.",
        (
            *PROCESS,
            *CONNECTION,
            Field("Kind", "str", "port_scan, host_sweep, dns_tunnel, exfiltration, beacon or mining_shape"),
            Field("Targets", "int", "hosts tried"),
            Field("Ports", "int", "ports tried"),
            Field("Failed", "int", "attempts that failed"),
            Field("Span", "float", "seconds"),
            Field("Domain", "str", "of dns_tunnel: the domain whose names were asked for"),
            Field("Queries", "int", "of dns_tunnel: questions"),
            Field("Entropy", "float", "of dns_tunnel: bits a letter"),
            Field("QueryType", "str", "of dns_tunnel: record type"),
            Field("BytesOut", "int", "of exfiltration: bytes sent"),
            Field("BytesIn", "int", "of exfiltration: bytes received"),
            Field("Ratio", "float", "of exfiltration: bytes sent for each received"),
            Field("Interval", "float", "of beacon: seconds"),
            Field("Jitter", "float", "of beacon: how much the interval varies"),
            Field("Score", "int", "of mining_shape: 0 to 100"),
        ),
    ),
    "process_behaviour": (
        "What many events of processes together show.",
        (
            *PROCESS,
            Field("Kind", "str", "fork_storm, self_copy, self_transfer, self_replication, "
                  "remote_script_loop"),
            Field("Rounds", "int", "of remote_script_loop: how often"),
            Field("Forks", "int", "of fork_storm: how many"),
            Field("Span", "float", "seconds"),
        ),
    ),
    "gpu": (
        "What a process does with a GPU.",
        (
            *PROCESS,
            Field("Kind", "str", "use, device_open, appeared or lost"),
            Field("Device", "str", "number of the GPU"),
            Field("SmPercent", "float", "use of its processors"),
            Field("MemoryPercent", "float", "use of its memory's bandwidth"),
            Field("MemoryBytes", "int", "memory held"),
            Field("SustainedSeconds", "float", "for how long"),
            Field("TransferPercent", "float", "use of the bus"),
            Field("Registered", "str", "true: of a registered job; else false"),
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
            Field("Kind", "str", "cgroup_move (left its cgroup) or signal (signalled the monitor)"),
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
