"""The section `nodes`: real Ray nodes on loopback addresses of one machine, and sweeps of sleeping trials over them.

Each node is a raylet with agents and workers of its own, that the driver reaches over sockets, as on ten machines; what
they share is this machine's processors, so a trial sleeps and does not compute.
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .driver_model import Driver
from .driving import swept
from .measured import Spread
from .simulation import Cluster as Simulated
from .simulation import Outcome, Work, play

SIZES = (1, 2, 5, 10)
EPOCHS, EPOCH_S = 2, 0.5
TRIALS = {1: 10, 2: 16, 5: 40, 10: 80}
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
    """What a place needs beside a trial's own seconds and the driver's: by the cluster of one node."""
    rates = [rate(pair["seconds"], 1) for pair in found["sweeps"]["1"]]
    asked = driver.trial_s + EPOCHS * driver.report_s
    return max(0.0, 1 / Spread.of(rates).median - EPOCHS * EPOCH_S - asked)


def simulated(driver: Driver, size: int, begin_s: float) -> tuple[float, Outcome]:
    """Trials a second in the simulator, and all that it says."""
    ends: list[float] = []
    work = Work(TRIALS[size], EPOCHS, lambda random: EPOCH_S)
    outcome = play(Simulated(size, begin_s=begin_s), work, driver, ended=ends.append)
    return steady(ends, size), outcome


def show(found: Mapping[str, Any], driver: Driver) -> list[dict[str, Any]]:
    """Prints what was measured beside what the simulator says; its rows."""
    print(f"\nseconds to add a node: {Spread.of(found['node_s']).shown('{:.2f}')}, n = {len(found['node_s'])}")
    begin_s = beside_s(found, driver)
    print(f"beside its own second a trial takes {begin_s:.3f} s of a place (from one node)")
    print(
        "nodes  n  trials/s of 1 s        simulated  empty trials/s        driver ms a trial     GCS ms        spread"
    )
    rows = []
    for size in SIZES:
        pairs = found["sweeps"][str(size)]
        rates = Spread.of([rate(pair["seconds"], size) for pair in pairs])
        empty = Spread.of([rate(pair["empty"], size) for pair in pairs])
        cpu = Spread.of([pair["seconds"]["cpu"] / TRIALS[size] for pair in pairs])
        busy = Spread.of([pair["seconds"]["cpu"] / pair["seconds"]["wall"] for pair in pairs])
        gcs = Spread.of([pair["gcs"] for pair in pairs])
        start = Spread.of([pair["seconds"]["start"] for pair in pairs])
        said, outcome = simulated(driver, size, begin_s)
        counts = [Counter(pair["seconds"]["nodes"]) for pair in pairs]
        least, most = min(min(one.values()) for one in counts), max(max(one.values()) for one in counts)
        print(
            f"{size:>5}  {len(pairs)}  {rates.shown('{:.2f}'):<23}{said:<11.2f}{empty.shown('{:.1f}'):<22}"
            f"{cpu.shown('{:.0f}', 1e3):<22}{gcs.shown('{:.0f}', 1e3):<18}"
            f"{min(map(len, counts))} nodes, {least} to {most} trials each"
        )
        row = {"nodes": size, "rate": rates, "simulated": said, "empty": empty, "cpu": cpu, "gcs": gcs, "busy": busy}
        rows.append(row | {"start": start, "used": min(map(len, counts)), "driver_load": outcome.driver_load})
    print("driver, share of a core:", ", ".join(f"{row['nodes']}: {row['busy'].shown('{:.2f}')}" for row in rows))
    print(
        "seconds until the first trial ended:",
        ", ".join(f"{row['nodes']}: {row['start'].shown('{:.1f}')}" for row in rows),
    )
    return rows
