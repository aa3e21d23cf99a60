"""The section `nodes`: real Ray nodes on loopback addresses of one machine, and sweeps of sleeping trials over them.

Each node is a raylet with agents and workers of its own, that the driver reaches over sockets, as on ten machines; what
they share is this machine's processors, so a trial sleeps and does not compute.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from .driver_model import Driver
from .driving import swept
from .measured import Spread, table
from .simulation import Cluster as Simulated
from .simulation import Outcome, Work, play

SIZES = (1, 2, 5, 10)
EPOCHS, EPOCH_S = 2, 0.5
TRIALS = {1: 10, 2: 20, 5: 50, 10: 120}
EMPTY = 40
RESOURCES = {"CPU": 1.0}


def measure(rounds: int) -> dict[str, Any]:
    """Grows a cluster, and runs sweeps at each size: of trials of a second, and of trials that take none."""
    from ray.cluster_utils import Cluster

    from cluster.session import session

    found: dict[str, Any] = {"node_s": [], "sweeps": {}}
    cluster = Cluster()
    try:
        for size in SIZES:
            while len(found["node_s"]) < size:
                begin = time.perf_counter()
                cluster.add_node(node_ip_address=f"127.0.0.{2 + len(found['node_s'])}", num_cpus=1)
                found["node_s"].append(time.perf_counter() - begin)
            with session(address=cluster.address):
                swept(RESOURCES, 2 * size, 1, size)  # processes start; not counted
                found["sweeps"][str(size)] = [_pair(cluster, size) for _ in range(rounds)]
            print(f"{size} nodes done", flush=True)
    finally:
        cluster.shutdown()
    return found


def _pair(cluster: Any, size: int) -> dict[str, Any]:
    import psutil

    gcs = psutil.Process(cluster.head_node.all_processes["gcs_server"][0].process.pid)
    before = sum(gcs.cpu_times()[:2])
    pair = {
        "seconds": swept(RESOURCES, TRIALS[size], EPOCHS, size, EPOCH_S),
        "empty": swept(RESOURCES, EMPTY, 1, size),
    }
    return {**pair, "gcs": (sum(gcs.cpu_times()[:2]) - before) / (TRIALS[size] + EMPTY)}


# --- what follows --------------------------------------------------------------------------------------------------


def rate(one: Mapping[str, Any], size: int) -> float:
    """Trials that end in a second, from when every place has run one until the first place finds no more."""
    return steady(one["ends"], size)


def steady(ends: list[float], places: int) -> float:
    """The same of any list of ends."""
    first, last = 2 * places - 1, len(ends) - places
    return (last - first) / (ends[last] - ends[first])


def beside_s(found: Mapping[str, Any], driver: Driver) -> float:
    """What a place needs beside a trial's own seconds and the driver's: by the cluster of one node, at its fastest."""
    rates = [rate(pair["seconds"], 1) for pair in found["sweeps"]["1"]]
    asked = driver.trial_s + EPOCHS * driver.report_s
    return max(0.0, 1 / max(rates) - EPOCHS * EPOCH_S - asked)


def simulated(driver: Driver, size: int, begin_s: float) -> tuple[float, Outcome]:
    """Trials a second in the simulator, and all that it says."""
    ends: list[float] = []
    work = Work(TRIALS[size], EPOCHS, lambda random: EPOCH_S)
    outcome = play(Simulated(size, begin_s=begin_s), work, driver, ended=ends.append)
    return steady(ends, size), outcome


def show(found: Mapping[str, Any], driver: Driver) -> None:
    """Prints what was measured beside what the simulator says."""
    begin_s = beside_s(found, driver)
    added = Spread.of(found["node_s"])
    print(f"\nA node takes {added.shown('{:.1f}')} s to add, n = {added.n}.")
    print(f"Beside its own second and the driver's time a trial takes {begin_s:.3f} s, by one node at its fastest.\n")
    columns = ["nodes", "n", "trials a second, of 1 s", "simulated", "of 0 s", "driver, ms a trial", "of a core"]
    table([*columns, "GCS, ms a trial", "first end, s", "nodes used", "trials a node"], _rows(found, driver, begin_s))


def _rows(found: Mapping[str, Any], driver: Driver, begin_s: float) -> Iterator[list[Any]]:
    for size in SIZES:
        pairs = found["sweeps"][str(size)]
        slept = [pair["seconds"] for pair in pairs]
        counts = [Counter(one["nodes"]) for one in slept]
        yield [
            size,
            len(pairs),
            Spread.of([rate(one, size) for one in slept]).shown("{:.2f}"),
            f"{simulated(driver, size, begin_s)[0]:.2f}",
            Spread.of([rate(pair["empty"], size) for pair in pairs]).shown("{:.1f}"),
            Spread.of([one["cpu"] / TRIALS[size] for one in slept]).shown("{:.0f}", 1e3),
            Spread.of([one["cpu"] / one["wall"] for one in slept]).shown("{:.2f}"),
            Spread.of([pair["gcs"] for pair in pairs]).shown("{:.0f}", 1e3),
            Spread.of([one["start"] for one in slept]).shown("{:.1f}"),
            min(map(len, counts)),
            f"{min(min(one.values()) for one in counts)} to {max(max(one.values()) for one in counts)}",
        ]
