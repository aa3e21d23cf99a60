"""An all-reduce among workers placed as those of a run: that they reach each other, and how fast."""

import socket
import time
from datetime import timedelta
from typing import Any

from cluster.checks import counted
from cluster.finding import Finding, bad, good, skipped
from cluster.nodes import in_one_line

MEBIBYTES = 16
ROUNDS = 3
START_S = 60.0
REDUCE_S = 60.0


def all_reduce(nodes: int, workers: int | None, device: str) -> Finding:
    """Sums 16 MiB over the workers, by gloo on processors and by NCCL on GPUs.

    Args:
        nodes: of the cluster.
        workers: how many; None for one a node, and two at least where there is room for them.
        device: cpu or cuda.
    """
    import ray

    resource, what = ("GPU", "GPUs") if device == "cuda" else ("CPU", "processors")
    there = int(ray.cluster_resources().get(resource, 0))
    wanted = min(max(nodes, 2), max(there, 1)) if workers is None else workers
    if wanted > there:
        return bad(
            f"{counted(wanted, 'worker')} asked, and the cluster has {there} {what}: Ray would wait for ever",
            f"--workers {there}, or more nodes" if there else "nodes with a GPU, or --device cpu",
        )
    if wanted == 1:
        return skipped("one worker has nobody to sum with")
    return _among(wanted, resource, what, "nccl" if device == "cuda" else "gloo")


def _among(workers: int, resource: str, what: str, backend: str) -> Finding:
    import ray

    holding = {"num_gpus": 1, "num_cpus": 0} if resource == "GPU" else {"num_cpus": 1}
    # spread, so that they meet over the network and not within one machine
    kind = ray.remote(scheduling_strategy="SPREAD", max_restarts=0, **holding)(Rank)
    ranks = [kind.remote() for _ in range(workers)]
    try:
        places = [rank.place.remote() for rank in ranks]
        started, waiting = ray.wait(places, num_returns=workers, timeout=START_S)
        if waiting:
            free = int(ray.available_resources().get(resource, 0))
            return bad(
                f"{len(started)} of {workers} workers started within {START_S:g} s; {free} more {what} are free",
                "wait until other runs have ended (`ray status` lists what is taken), or ask for fewer --workers",
            )
        meeting = ray.get(places[0], timeout=START_S)
        sums = [rank.reduce.remote(number, workers, meeting, backend) for number, rank in enumerate(ranks)]
        return judge_reduced(ray.get(sums, timeout=2 * REDUCE_S), backend)
    except ray.exceptions.GetTimeoutError:
        return bad(f"{workers} workers have not met on {backend} within {2 * REDUCE_S:g} s")
    except ray.exceptions.RayError as error:
        return bad(f"{workers} workers on {backend}: {in_one_line(error)}")
    finally:
        for rank in ranks:
            ray.kill(rank)


def judge_reduced(reduced: list[tuple[bool, float]], backend: str) -> Finding:
    """Bad where a sum is wrong.

    Args:
        reduced: of each rank whether its sum is right, and seconds a round.
    """
    wrong = [str(rank) for rank, (right, _) in enumerate(reduced) if not right]
    if wrong:
        return bad(
            f"the sum over {len(reduced)} workers on {backend} is wrong on rank {', '.join(wrong)}",
            "the same versions of torch and drivers on all nodes; test the memory of their machines",
        )
    slowest = max(seconds for _, seconds in reduced)
    rate = MEBIBYTES * 2**20 / 1e6 / slowest
    return good(f"{len(reduced)} workers on {backend}, {rate:,.0f} MB/s for {MEBIBYTES} MiB")


class Rank:
    """One of the workers, a process of its own."""

    def place(self) -> str:
        """Where the others would find it as rank 0: `tcp://ADDRESS:PORT`, the port a free one."""
        import ray

        address = ray.util.get_node_ip_address()
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
        return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"

    def reduce(self, rank: int, world: int, meeting: str, backend: str) -> tuple[bool, float]:
        """Whether the sum over all ranks is right here, and the seconds a round took."""
        import torch
        from torch import distributed as dist

        torch.set_num_threads(1)
        device = torch.device("cuda:0" if backend == "nccl" else "cpu")
        limit = timedelta(seconds=REDUCE_S)
        dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=world, timeout=limit)
        try:
            # small whole numbers, of which fp32 makes no rounding error
            pattern = (torch.arange(MEBIBYTES * 2**18, device=device) % 251).float()
            right, seconds = True, float("inf")
            for _ in range(1 + ROUNDS):  # the first makes connections
                values = pattern + rank
                dist.barrier()
                seconds = min(seconds, _timed(values))
                right &= bool(torch.equal(values, world * pattern + world * (world - 1) // 2))
        finally:
            dist.destroy_process_group()
        return right, seconds


def _timed(values: Any) -> float:
    import torch
    from torch import distributed as dist

    begin = time.perf_counter()
    dist.all_reduce(values)
    if values.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - begin
