"""Groups of processes that take turns: each group waits while another one is measured.

A group is W processes on gloo over loopback, one thread each; what they can be asked is `rank`'s.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

WAIT = "PASSIVE"  # of OpenMP's threads: spinning ones would take the processor from the next group


class Group:
    """Processes that do what they are told, all the same at once."""

    def __init__(self, workers: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {
            **os.environ,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(workers),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_WAIT_POLICY": WAIT,
        }
        self.processes = [
            subprocess.Popen(
                [sys.executable, sys.argv[0], "rank"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**common, "RANK": str(rank)},
            )
            for rank in range(workers)
        ]

    def tell(self, what: str, **arguments: Any) -> None:
        """Begins something; `answers` waits for it."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps([what, arguments]) + "\n")
            process.stdin.flush()

    def answers(self) -> list[Any]:
        """What each process gave."""
        lines = []
        for process in self.processes:
            assert process.stdout is not None
            lines.append(process.stdout.readline())
        if not all(lines):
            raise RuntimeError("a process of a group has died; its error stands above")
        return [json.loads(line) for line in lines]

    def ask(self, what: str, **arguments: Any) -> list[Any]:
        """Both."""
        self.tell(what, **arguments)
        return self.answers()

    def end(self) -> None:
        """Ends them."""
        for process in self.processes:
            process.kill()
            process.wait()


@contextmanager
def groups(sizes: Sequence[int]) -> Iterator[list[Group]]:
    """Groups of so many processes, ready to be asked."""
    made: list[Group] = []
    try:
        for workers in sizes:
            made.append(Group(workers))
            made[-1].ask("ready")
        yield made
    finally:
        for group in made:
            group.end()
