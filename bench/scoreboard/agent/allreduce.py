"""Workers of a training job: N processes, each connected to each over TCP, passing gradients around."""

import multiprocessing
import os
import socket
import sys

words = [word for word in sys.argv[1:] if word.isdigit()]
world = int(words[0]) if words else 4
BASE, SIZE, ROUNDS = 29500, 1 << 18, 20


def work(rank: int) -> None:
    with socket.create_server(("127.0.0.1", BASE + rank)) as listener:
        ready.wait()
        right = socket.create_connection(("127.0.0.1", BASE + (rank + 1) % world))
        left, _ = listener.accept()
    gradient = os.urandom(SIZE)
    for _ in range(ROUNDS):
        right.sendall(gradient)
        taken = 0
        while taken < SIZE:
            taken += len(left.recv(SIZE - taken))


ready = multiprocessing.Barrier(world)
workers = [multiprocessing.Process(target=work, args=(rank,)) for rank in range(world)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
