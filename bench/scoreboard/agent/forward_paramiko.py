"""A remote forward by paramiko, or else by sshclient.py: `forward_paramiko.py HOST PORT TARGET_PORT`."""

import importlib
import socket
import sys
import threading
import time
from typing import Any

host, port, target = [*sys.argv[1:], *["203.0.113.5", "9001", "22"][len(sys.argv) - 1 :]][:3]
try:
    paramiko = importlib.import_module("paramiko")
except ImportError:
    importlib.import_module("sshclient").main([host, "22", port, target, "SSH-2.0-paramiko_3.4.0"])
    sys.exit()

client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect(host, username="u")


def carry(channel: Any, *_: object) -> None:
    inner = socket.create_connection(("127.0.0.1", int(target)))
    threading.Thread(target=lambda: channel.sendall(inner.recv(4096)), daemon=True).start()
    while data := channel.recv(4096):
        inner.sendall(data)


client.get_transport().request_port_forward("127.0.0.1", int(port), carry)
time.sleep(6)
