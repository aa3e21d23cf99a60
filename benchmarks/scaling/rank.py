"""A process of a group: steps of real trios, in manners that tell what communication costs.

`all` is a tick as it is; `adapter` one without DDP's messages (gradients, BatchNorm's statistics), so that only a
transfer's broadcasts are left; `none` one without any message. What `all` takes longer than `adapter` is what DDP costs
at this number of processes, waiting for the slowest included; `adapter` over `none` is the same of the broadcasts.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

MANNERS = ("all", "adapter", "none")
BATCHES = (96, 48, 24)
BATCH = BATCHES[0]
CYCLES = (1, 4)
REPEATS = 5
SMALL = {"encoding": {"svd": {"rank": 4}}}
LARGE = {"encoding": {"whole": {}}, "adapter": {"lpka": {"depth": 4, "width": 256}}}
TRIOS: dict[str, dict[str, Any]] = {"small": SMALL, "large": LARGE}


def main() -> None:
    """Answers a line of standard input each, until it is closed."""
    import torch
    from torch import distributed as dist

    from mergenet.training import ranks

    torch.set_num_threads(1)
    rank = Rank()
    with ranks.process_group(torch.device("cpu")):
        for line in sys.stdin:
            what, arguments = json.loads(line)
            if dist.is_initialized():
                dist.barrier()
            print(json.dumps(getattr(rank, what)(**arguments)), flush=True)


class Rank:
    """What a process can be asked; every answer is JSON, times are seconds."""

    def __init__(self) -> None:
        from mergenet.data import load_data

        self._data = load_data({"digits"}, {})
        self._graphs: dict[tuple[str, int, int], Any] = {}

    def _graph(self, trio: str, cycle: int, batch: int = BATCH) -> Any:
        key = trio, cycle, batch
        if key not in self._graphs:
            self._graphs[key] = make_graph(TRIOS[trio], cycle, batch, self._data)
            _tick(self._graphs[key])
            _tick(self._graphs[key])
        return self._graphs[key]

    def ready(self) -> bool:
        """When everything that takes ticks is built and warm."""
        return all(self._graph(trio, cycle) for trio in TRIOS for cycle in CYCLES)

    def ticks(self, trio: str, cycle: int, manner: str, count: int) -> float:
        """A tick, as a mean over `count`, a multiple of the cycle."""
        graph = self._graph(trio, cycle)
        while graph.done % cycle:
            _tick(graph)
        with _in_manner(graph, manner):
            took = seconds(lambda: [_tick(graph) for _ in range(count)]) / count
        assert graph.edges["main"].stopped_at() is None, "what has diverged does nothing, and takes no time"
        return took

    def parts(self, trio: str) -> dict[str, Any]:
        """Of a process that is alone: each learner's step by its batch, and a transfer."""
        graphs = {batch: self._graph(trio, CYCLES[-1], batch) for batch in BATCHES}
        steps = {
            name: {batch: usual(lambda one=graph.steps[index]: one.step(0)) for batch, graph in graphs.items()}
            for index, name in enumerate(("source", "target"))
        }
        return {"steps": steps, "transfer": usual(lambda: transfer_once(graphs[BATCH]))}

    def messages(self, trio: str) -> dict[str, Any]:
        """Bytes of every message."""
        return messages_of(self._graph(trio, CYCLES[-1]))

    def reduce(self, size: int, count: int) -> list[float]:
        """Each of some all-reduces of so many bytes."""
        import torch
        from torch import distributed as dist

        values = torch.zeros(size // 4)
        return [seconds(lambda: dist.all_reduce(values)) for _ in range(count)]

    def broadcast(self, size: int, count: int) -> list[float]:
        """Each of some broadcasts, which all begin together."""
        import torch
        from torch import distributed as dist

        values, word = torch.zeros(size // 4), torch.zeros(1)
        found = []
        for _ in range(count):
            dist.all_reduce(word)
            found.append(seconds(lambda: dist.broadcast(values, src=0)))
        return found


def make_graph(transfer: dict[str, Any], cycle: int, batch: int, data: Any) -> Any:
    """Source and target on digits with a transfer, as `digits-cross-structure` has them."""
    import torch

    from mergenet.config import parse
    from mergenet.experiment import Experiment
    from mergenet.training import ranks
    from mergenet.training.graph import Graph
    from mergenet.training.plan import make_plan

    task = {"classification": {"data": "digits"}}
    ends = {"from": "source.classifier", "to": "target.irb16"}
    experiment = parse(
        Experiment,
        {
            "name": "benchmark",
            "learners": {
                "source": {"model": "resnet18-narrow", "task": task},
                "target": {"model": "mobilenet_v2-narrow", "task": task},
            },
            # rates at which ranks that are not told each other's gradients stay finite
            "transfers": {"main": {**ends, **transfer, "cycle": cycle, "optimizer": {"adamw": {"lr": 1e-7}}}},
            "training": {"epochs": 1000, "batch_size": batch, "optimizer": {"sgd": {"lr": 1e-4}}},
        },
    )
    plan = make_plan(experiment, 0, data, ranks.world())
    return Graph(experiment, plan, data, 0, torch.device("cpu"))


def messages_of(graph: Any) -> dict[str, Any]:
    """Bytes of every message of a step and of a transfer, from the networks themselves.

    Where several processes are, DDP's own count of its buckets stands beside.
    """
    from torch.nn.parallel import DistributedDataParallel

    from .step_model import buckets_of

    learners = {}
    for step, (name, learner) in zip(graph.steps, graph.learners.items(), strict=True):
        sizes = [parameter.nbytes for parameter in learner.module.parameters() if parameter.requires_grad]
        buffers: dict[Any, int] = {}
        for buffer in learner.module.buffers():
            buffers[buffer.dtype] = buffers.get(buffer.dtype, 0) + buffer.nbytes
        learners[name] = {"buckets": buckets_of(sizes[::-1]), "buffers": list(buffers.values())}
        if isinstance(step.module, DistributedDataParallel):
            said = step.module._get_ddp_logging_data()
            learners[name]["ddp"] = said.get("rebuilt_bucket_sizes") or said["bucket_sizes"]
    transfer = graph.edges["main"].transfer
    adapter = sum(parameter.nbytes for parameter in transfer.adapter.parameters() if parameter.requires_grad)
    return {"learners": learners, "transfer": [transfer.port.read().nbytes, 8, adapter]}


def _tick(graph: Any) -> None:
    from mergenet.training.loop import advance

    advance(graph)


def transfer_once(graph: Any) -> None:
    """Read, write and learn; between, the weight moves a little: else nothing would be learned. It ends as it was."""
    transfer = graph.edges["main"].transfer
    before = transfer.port.read()
    transfer.read(graph.done)
    transfer.write()
    transfer.port.write(1.001 * before)
    transfer.learn()
    transfer.port.write(before)


@contextmanager
def _in_manner(graph: Any, manner: str) -> Iterator[None]:
    from torch.nn.parallel import DistributedDataParallel

    from mergenet.method import replicas

    with ExitStack() as stack:
        if manner != "all":
            for step in graph.steps:
                if isinstance(step.module, DistributedDataParallel):
                    stack.enter_context(step.module.no_sync())
        if manner == "none":
            several, replicas._several_ranks = replicas._several_ranks, lambda: False
            stack.callback(setattr, replicas, "_several_ranks", several)
        yield


def usual(call: Callable[[], Any]) -> float:
    """The median of a few calls in a row."""
    return statistics.median(seconds(call) for _ in range(REPEATS))


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
