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
    Field("ImageFlags", "list", "what stands out about the file: memfd, deleted, loader (run through ld.so)"),
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
        ),
    ),
    "network_behaviour": (
        "What many connections, datagrams or names, or the life of one flow, amount to.",
        (
            *PROCESS,
            *CONNECTION,
            Field("Kind", "str", "port_scan, host_sweep, dns_tunnel, exfiltration, mining_shape (encrypted "
                  "mining, by the shape of a flow), beacon"),
            Field("Protocol", "str", "tcp, udp, or the application protocol where it is known"),
            Field("Span", "int", "seconds from the first to the last of what was seen"),
            Field("Targets", "int", "of scans: hosts"),
            Field("Ports", "int", "of scans: ports"),
            Field("Failed", "int", "of scans: targets that refused, or did not answer"),
            Field("Processes", "int", "of scans: processes that took part"),
            Field("Domain", "str", "of dns_tunnel: the registered domain"),
            Field("Queries", "int", "of dns_tunnel: questions"),
            Field("Names", "int", "of dns_tunnel: names with labels not asked for before"),
            Field("Entropy", "float", "of dns_tunnel: bits a letter of the new labels"),
            Field("QueryType", "str", "of dns_tunnel: the record type most asked for"),
            Field("BytesOut", "int", "bytes sent; of dns_tunnel: what the names can have carried"),
            Field("BytesIn", "int", "bytes received; of dns_tunnel: of answers that can carry data"),
            Field("Ratio", "float", "of exfiltration: bytes sent for each byte received"),
            Field("Magnitude", "str", "of exfiltration, by bytes sent to the destination: small (10 MB), "
                  "medium (100 MB), large (1 GB), huge (10 GB)"),
            Field("Score", "int", "of mining_shape: 0 to 100, told from 50 on"),
            Field("Pushes", "int", "of mining_shape: what the other side said unasked, after silence"),
            Field("Interval", "float", "of beacon: median seconds between connects"),
            Field("Jitter", "float", "of beacon: how far the intervals scatter, as a share"),
        ),
    ),
    "process_behaviour": (
        "What a process does, or many do, over more than one event.",
        (
            *PROCESS,
            Field("Kind", "str", "fork_storm, self_transfer (its own file goes to another host), "
                  "self_replication (and is run there), self_copy (a copy of its own file runs here)"),
            Field("Forks", "int", "of fork_storm: processes made since it began"),
            Field("Span", "float", "of fork_storm: seconds since it began"),
            Field("Depth", "int", "of fork_storm: generations without a program run between"),
            Field("Living", "int", "of fork_storm: children that have not ended"),
            Field("SourceFilename", "str", "of the others: the file that is the program itself"),
            Field("TargetFilename", "str", "of the others: the copy, as it was named"),
            Field("DestinationHostname", "str", "of self_transfer, self_replication: the host"),
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
    "gpu": (
        "What a process does with a GPU.",
        (
            *PROCESS,
            Field("Kind", "str", "use, appeared or lost"),
            Field("SmPercent", "float", "use of its processors"),
            Field("SustainedSeconds", "float", "for how long"),
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
