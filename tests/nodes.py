"""A cluster of Ray's own kind for tests: nodes on this machine, each with a loopback address of its own."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def nodes_on_loopback(count: int, processors: int, dashboard: bool = False) -> Iterator[Any]:
    """Ray's `Cluster` of so many nodes, the first of which is the head."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        head = {
            "include_dashboard": dashboard,
            "dashboard_port": _free_port(),
            "dashboard_agent_listen_port": _free_port(),
        }
        cluster.add_node(node_ip_address=address_of(0), num_cpus=processors, **head)
        for number in range(1, count):
            cluster.add_node(node_ip_address=address_of(number), num_cpus=processors)
        yield cluster
    finally:
        cluster.shutdown()


def _free_port() -> int:
    """One of its own, for the usual one may still be held by a Ray that has just gone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def address_of(number: int) -> str:
    """Where a node is; Ray puts another address in the place of 127.0.0.1."""
    return f"127.0.0.{number + 2}"
