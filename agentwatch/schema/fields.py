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
    Field("AncestorImages", "list", "programs of parent, grandparent, ...: the nearest first, at most 16"),
    Field("ImageFlags", "list", "what stands out about the file: memfd, deleted, written (by an agent), "
          "loader (run through ld.so)"),
    Field("Markers", "list", "markers on the agent and the process, as NAME=VALUE"),
)  # fmt: skip

CONNECTION = (
    Field("SourceIp", "str", "local address"),
    Field("SourcePort", "int", "local port"),
    Field("DestinationIp", "str", "remote address"),
    Field("DestinationPort", "int", "remote port"),
    Field(
        "DestinationHostname",
        "str",
        "name of the remote side: from DNS, asked of a proxy, or in TLS",
    ),
    Field("Initiated", "str", "true where the process connected, false where it accepted"),
)

FILE = (
    Field("TargetFilename", "str", "path of the file, as its mount namespace shows it"),
    Field("Access", "str", "read, write, create, rename, link or delete"),
    Field(
        "FileKind",
        "str",
        "why it is watched: ssh, cloud, accounts, cron, service, ...",
    ),
)
TRACED = (
    Field("TargetProcessId", "int", "process that was traced, or whose memory was used"),
    Field("TargetImage", "str", "its program, where it is one of the agent's"),
    Field("OfMonitor", "str", "true where it is agentwatch itself"),
)
_SOURCE = Field("SourceFilename", "str", "the file's other name, of a rename or link")

FIELDS: dict[str, tuple[str, tuple[Field, ...]]] = {
    "process_creation": (
        "A process runs a new program.",
        (
            *PROCESS,
            Field("LoaderEnvironment", "list", "NAME=value of LD_PRELOAD, LD_AUDIT, LD_LIBRARY_PATH, "
                  "BASH_ENV, ENV, PYTHONSTARTUP and GCONV_PATH"),
        ),
    ),
    "file_event": (
        "A watched file was opened for writing, made, renamed, linked or removed.", (*PROCESS, *FILE, _SOURCE)
    ),
    "file_access": ("A watched file was opened for reading.", (*PROCESS, *FILE)),
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
                  "tunnel_tool: a tunnel tool's own protocol, named in Protocol, its mark in Method; "
                  "reverse_shell, bind_shell: the process is a shell that takes orders from the flow; "
                  "relay: it hands over between this flow and one inside; "
                  "tunnel_device: a network device through SSH was asked for"),
            Field("Stage", "str", "of remote_forward: asked (argv or configuration), opened (SSH is spoken), "
                  "established (keys are exchanged), used (a channel came in); of stratum, tls, quic, "
                  "wireguard: asked (one side has spoken), answered (the other has, too), each on one event "
                  "of a flow; of shells: likely, certain; of a relay: shape, moving"),
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
            Field("Software", "str", "our side's software, where it is not known who is the client"),
            Field("PeerSoftware", "str", "the other side's, likewise"),
            Field("Path", "str", "of http, http2, websocket: what is asked for, cut after 256 characters"),
            Field("Subprotocol", "str", "of websocket: what the client offers in Sec-WebSocket-Protocol"),
            Field("ServerName", "str", "of tls, quic: name that the client asks for (SNI), in lower case"),
            Field("Alpn", "list", "of tls, quic: protocols that the client offers; when answered the chosen "
                  "one, where it is visible (TLS 1.2)"),
            Field("Ja4", "str", "of tls, quic: fingerprint of the ClientHello (FoxIO's JA4)"),
            Field("TlsVersion", "str", "of tls, quic: 1.3, 1.2, ...: highest offered, answered: chosen"),
            Field("Cipher", "str", "of tls, answered: number of the cipher suite in hexadecimal"),
            Field("Hassh", "str", "of ssh: digest of what the client's key exchange offers"),
            Field("HasshServer", "str", "of ssh: the same of the server's"),
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
            *(one for one in CONNECTION if one.name != "DestinationHostname"),
            Field("Kind", "str", "fork_storm, self_transfer (its own file goes to another host), "
                  "self_replication (and is run there), self_copy (a copy of its own file runs here), "
                  "remote_script_loop (a shell does what a client downloads, again and again)"),
            Field("Rounds", "int", "of remote_script_loop: how often, when this was told"),
            Field("Forks", "int", "of fork_storm: processes made since it began"),
            Field("Span", "float", "of fork_storm: seconds since it began"),
            Field("Depth", "int", "of fork_storm: generations without a program run between"),
            Field("Living", "int", "of fork_storm: children that have not ended"),
            Field("SourceFilename", "str", "of self_...: the file that is the program itself"),
            Field("TargetFilename", "str", "of self_...: the copy, as it was named"),
            Field("DestinationHostname", "str", "the other host, but of self_copy"),
        ),
    ),
    "network_listen": ("A TCP socket listens.", (*PROCESS, *CONNECTION, Field("Protocol", "str", "tcp"))),
    "socket_creation": (
        "A socket was created, or one of another family than IPv4 and IPv6 was found open in a sweep.",
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
    "privileged_operation": (
        "An operation that takes privilege, or gives it.",
        (
            *PROCESS,
            Field("Kind", "str", "namespace, mount, chroot, pivot_root, module_load, bpf, ptrace, or "
                  "credentials (became root by no setuid program; told when it runs its next program)"),
            Field("Operation", "str", "of namespace: unshare, setns, clone; of bpf: prog_load, map_create, "
                  "...; of ptrace: attach, memory_read, memory_write"),
            Field("Namespaces", "list", "user, net, mnt, pid, ipc, uts, cgroup, time; empty: whatever "
                  "setns was given"),
            Field("OfInit", "str", "true where setns entered a namespace of the host (the monitor's)"),
            Field("Source", "str", "what was mounted, as it was named"),
            Field("Target", "str", "where it was mounted, or the new root, as it was named"),
            Field("FsType", "str", "type of the file system, as it was named"),
            *TRACED,
            Field("NewUserId", "int", "of credentials the user that it became; UserId is who it was"),
        ),
    ),
    "tampering": (
        "An agent acts against the watch itself.",
        (
            *PROCESS,
            Field("Kind", "str", "cgroup_move (left its cgroup), signal (signalled the monitor), freezer "
                  "(wrote control files of its own cgroup), bpffs (changed files of agentwatch) or ptrace "
                  "(traced the monitor)"),
            *TRACED,
            *FILE[:2],
            _SOURCE,
            Field("Cgroup", "str", "path of the new cgroup"),
            Field("ByAgent", "str", "of a cgroup_move: true where a process of an agent asked for it, false "
                  "where another program of the host did, such as a container engine"),
            Field("Signal", "int", "number of the signal"),
        ),
    ),
    "gpu": (
        "A process of the agent uses a GPU (told once a second), or a GPU appeared or was lost.",
        (
            *PROCESS,
            Field("Kind", "str", "use, device_open (a device node was opened), appeared or lost"),
            Field("Device", "str", "number of the GPU, of a MIG instance 0/1; path of a device node"),
            Field("DeviceName", "str", "name of the model"),
            Field("Uuid", "str", "the GPU's or instance's identity"),
            Field("Mig", "str", "true for a MIG instance, else false"),
            Field("SmPercent", "int", "its share of the multiprocessors' time; absent where unknown"),
            Field("MemoryPercent", "int", "time in which it read or wrote the GPU's memory"),
            Field("MemoryBytes", "int", "GPU memory it holds"),
            Field("EncoderPercent", "int", "its share of the video encoder"),
            Field("PowerWatts", "int", "power of the whole GPU"),
            Field("Measured", "str", "process, or device (no shares are told, and it is the only process)"),
            Field("SustainedSeconds", "int", "how long it has been at 50 % or more, pauses to 15 s included"),
            Field("EncoderSeconds", "int", "the same of the video encoder"),
            Field("TransferPercent", "int", "share of the samples of this load (the last 2 minutes) in which "
                  "the GPU moved 8 MB/s or more over PCIe"),
            Field("Rhythm", "str", "of 30 s of load or more: dips (it varies), transfers, flat (neither)"),
            Field("GpuSeconds", "int", "GPU time of the process so far: a second at 50 % is half a second"),
            Field("Registered", "str", "true: of the agent's root command, with no shell between, or of what "
                  "--training names; else false"),
            Field("MiningFlow", "str", "stratum or mining_shape: a flow of the process or of an ancestor"),
            Field("Reason", "str", "why a GPU was lost, in the driver's words"),
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
