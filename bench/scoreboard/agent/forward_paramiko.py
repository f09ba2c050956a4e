"""A remote forward by paramiko: `forward_paramiko.py HOST PORT TARGET_PORT`. Without paramiko, by sshclient.py."""

import socket
import sys
import threading
import time

host, port, target = [*sys.argv[1:], *["203.0.113.5", "9001", "22"][len(sys.argv) - 1 :]][:3]
try:
    import paramiko
except ImportError:
    import sshclient

    sshclient.main([host, "22", port, target, "SSH-2.0-paramiko_3.4.0"])
    sys.exit()

client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect(host, username="u")


def carry(channel, *_):
    inner = socket.create_connection(("127.0.0.1", int(target)))
    threading.Thread(target=lambda: channel.sendall(inner.recv(4096)), daemon=True).start()
    while data := channel.recv(4096):
        inner.sendall(data)


client.get_transport().request_port_forward("127.0.0.1", int(port), carry)
time.sleep(6)
