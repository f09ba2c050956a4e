"""MQTT 3.1.1 at a broker: connects and subscribes to a topic. `mqtt_sub.py topic TOPIC`"""

import socket
import struct
import sys
import time

topic = sys.argv[-1].encode() if len(sys.argv) > 1 else b"sensors/1"
with socket.create_connection(("10.77.0.3", 8080), timeout=5) as broker:
    broker.sendall(b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03abc")
    time.sleep(0.3)
    content = b"\x00\x01" + struct.pack(">H", len(topic)) + topic + b"\x00"
    broker.sendall(b"\x82" + bytes([len(content)]) + content)
    time.sleep(1)
