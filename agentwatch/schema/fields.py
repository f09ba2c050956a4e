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
                  "reverse_shell, bind_shell: the process is a shell that takes orders from the flow; "
                  "relay: it hands over between this flow and one inside; "
                  "tunnel_device: a network device through SSH was asked for"),
            Field("Stage", "str", "of remote_forward: asked (argv or configuration), opened (SSH is spoken), "
                  "established (keys are exchanged), used (a channel came in); of shells: likely, certain; "
                  "of a relay: shape, moving"),
            Field("Via", "str", "of shells: what joins the shell to the flow: socket, pipe, pty, unix, "
                  "pipeline"),
            Field("LocalTarget", "str", "of a relay, and of a used remote_forward to a Unix socket: address "
                  "and port, or path, of the side inside"),
            Field("Correlation", "int", "of a relay: share of the bytes that were handed over, in percent"),
            Field("HolderImage", "str", "of shells: path of the program that holds the flow's socket"),
            Field("Dialect", "str", "dialect of the protocol"),
            Field("Method", "str", "method or message that decided"),
            Field("Confidence", "str", "likely: by the shape of encrypted messages; absent: by content"),
            Field("Role", "str", "what the watched process is: client or server"),
            Field("Transport", "str", "layers below the protocol: tcp, http, websocket, socks5>tcp, ..."),
            Field("Client", "str", "the client's software as it names itself"),
            Field("Server", "str", "the server's software as it names itself"),
        ),
    ),
    "process_behaviour": (
        "What processes do over many events.",
        (
            *PROCESS,
            *CONNECTION,
            Field("Kind", "str", "remote_script_loop: a shell does what a client downloads, again and again"),
            Field("Rounds", "int", "how often it did when this was told"),
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
