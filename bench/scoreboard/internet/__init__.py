"""The network that a scenario reaches: one host that answers at every address, and nothing behind it.

`python -m bench.scoreboard.internet FOLDER PORT...` runs in a network namespace of its own; every
route ends there. Which service answers is told by what the client says first, so that any command
finds what it expects wherever it goes: a pool, a web server, the metadata service, an SSH server,
a proxy, or an operator who types into the shell that called home.

`python -m bench.scoreboard.internet FOLDER --local PORT... PATH...` is the same at the agent's own
loopback, for what a tunnel leads to: ports, and paths of Unix sockets.
"""
