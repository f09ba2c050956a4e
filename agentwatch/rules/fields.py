"""The words of the rules: categories of events and the fields that rules may name.

`process_creation`, `network_connection`, `file_event` and `dns_query` keep Sigma's field names
for Linux; the other categories are agentwatch's own.
"""

from __future__ import annotations

from collections.abc import Mapping

_WHO: Mapping[str, str] = {
    "CommandLine": "arguments of the process, joined by single spaces",
    "Image": "absolute path of the program file",
    "ParentImage": "absolute path of the parent's program file",
    "ProcessId": "process id, in the host's namespace",
    "User": "name of the user, its number where it has none",
}

_PEERS: Mapping[str, str] = {
    "DestinationHostname": "name that an observed DNS answer, SNI or proxy request gave the address",
    "DestinationIp": "address of the peer",
    "DestinationPort": "port of the peer",
    "Initiated": "true if the process connected, false if it accepted",
    "SourceIp": "address on this side",
    "SourcePort": "port on this side",
}

# Category -> field -> what it holds.
FIELDS: Mapping[str, Mapping[str, str]] = {
    "process_creation": {
        **_WHO,
        "Argv": "list of arguments; Argv#0 is the first",
        "CurrentDirectory": "working directory",
        "Deleted": "true if the program file was deleted before it ran",
        "MemFd": "true if the program is an anonymous file in memory",
        "ParentCommandLine": "arguments of the parent",
        "ParentProcessId": "process id of the parent",
        "UserId": "number of the user",
    },
    "network_connection": {**_WHO, **_PEERS, "Protocol": "tcp or udp"},
    "file_event": {**_WHO, "TargetFilename": "absolute path of the file created or written"},
    "dns_query": {
        **_WHO,
        "QueryName": "name asked for",
        "QueryResults": "answers, a list",
        "QueryStatus": "DNS response code",
    },
    "flow": {
        **_WHO,
        **_PEERS,
        "Behaviour": "what the flow does, such as remote_forward",
        "Client": "software that the client says it is",
        "Dialect": "variety of the protocol, such as btc-v1 or monero for stratum",
        "Method": "decisive method or message of the protocol",
        "Protocol": "protocol recognised from the bytes, such as stratum or ssh",
        "Role": "client or server: which side of the protocol the agent is",
        "Server": "software that the server says it is",
        "Stage": "of a remote forward: asked, opened or used",
        "Transport": "what carries the protocol, such as tcp, http or websocket",
    },
}
