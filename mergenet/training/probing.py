"""Measuring a run from within its own process: the real graph, real ticks, no record."""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file

from mergenet.experiment import Experiment
from mergenet.models import find_model
from mergenet.training import ranks
from mergenet.training.amounts import Calendar, Happening, calendars_of, happenings
from mergenet.training.checkpoint import save_checkpoint
from mergenet.training.evaluation import BATCH, evaluate
from mergenet.training.graph import Graph
from mergenet.training.learner import Learner
from mergenet.training.loop import advance
from mergenet.training.plan import Plan, make_plan
from mergenet.training.probe import Probe, Timing
from mergenet.training.spec import RunSpec, data_of

ENOUGH, ENOUGH_S = 10, 3.0  # of each kind so many ticks, and of all so many seconds
FOR_TICKS = 0.75  # of what time is left when it has started; the rest is for validation and a checkpoint
FEW = 32  # samples whose forward pass tells how many there is time for


def measure(spec: RunSpec, begun: float, seconds: float, aside: str) -> Probe | None:
    """What a run costs, as rank 0 finds it; None on other ranks. Every rank calls it.

    Args:
        begun: when the process was started, seconds since the epoch.
        seconds: that it may take since then.
        aside: an empty folder that is removed later.
    """
    imported = time.time()
    torch.set_num_threads(spec.threads)
    device = ranks.own_device(spec.device)
    with ranks.process_group(device):
        experiment, stand_ins = _stand_in(spec, Path(aside))
        data = data_of(experiment, spec.data)
        plan = make_plan(experiment, spec.seed, data, ranks.world(), spec.origins)
        graph = Graph(experiment, plan, data, spec.seed, device)
        built = time.time()
        ticks = _Ticks(graph, experiment, plan)
        ticks.run(until=built + FOR_TICKS * (begun + seconds - built))
        left = begun + seconds - time.time()
        validation = {name: _validation_s(one, left / len(graph.learners)) for name, one in graph.learners.items()}
        if experiment.evaluation.weights == "best":  # a checkpoint holds them too
            for learner in graph.learners.values():
                learner.keep_if_best({learner.task.selects: 0.0}, graph.done)
        checkpoint_s, checkpoint_bytes = _checkpoint(graph, Path(aside) / "checkpoints")
        if ranks.rank() > 0:
            return None
        on_gpu = device.type == "cuda"
        return Probe(
            ticks=ticks.timings(),
            validation_s=validation,
            import_s=imported - begun,
            build_s=built - imported,
            checkpoint_s=checkpoint_s,
            checkpoint_bytes=checkpoint_bytes,
            memory_bytes=peak_memory(),
            gpu_bytes=torch.cuda.max_memory_allocated(device) if on_gpu else None,
            gpu_total_bytes=torch.cuda.mem_get_info(device)[1] if on_gpu else None,
            stand_ins=stand_ins,
            diverged=ticks.stopped(),
            workers=ranks.world(),
            seconds=time.time() - begun,
        )


def _stand_in(spec: RunSpec, aside: Path) -> tuple[Experiment, tuple[str, ...]]:
    """The experiment with files of random weights for those that another run has yet to train, and whose they are.

    A tick takes as long whatever its weights are.
    """
    learners = spec.experiment.learners
    missing = [name for name in spec.origins if not Path(learners[name].weights or "").is_file()]
    files = {name: aside / f"{name}-{ranks.rank()}.safetensors" for name in missing}
    for name, file in files.items():
        save_file(find_model(learners[name].model).build(spec.origins[name].classes).state_dict(), file)
    return spec.experiment.with_weights({name: str(file) for name, file in files.items()}), tuple(missing)


# --- ticks ---------------------------------------------------------------------------------------------------------


@dataclass
class _Kind:
    """Ticks on which the same happens, and how long some of them took, the first of all in front."""

    happening: Happening
    ticks: list[int]
    seconds: list[float] = field(default_factory=list)

    def timing(self) -> Timing:
        first, *later = self.seconds
        return Timing(self.happening, median(later or [first]), len(later) or 1, first)


class _Ticks:
    """Takes ticks of each kind in turn, wherever in the run they lie, so that a rare one is seen too.

    Batches, rates and draws hang on the number of the tick alone, so a run can go to any.
    """

    def __init__(self, graph: Graph, experiment: Experiment, plan: Plan) -> None:
        self._graph = graph
        self._kinds = [_Kind(happening, ticks) for happening, ticks in happenings(experiment, plan).items()]
        self._calendars: Mapping[str, Calendar] = calendars_of(experiment, plan)

    def run(self, until: float) -> None:
        """Takes ticks until there are enough of each kind, the clock says `until`, or a learner diverged."""
        while not self.stopped():
            kind = ranks.from_first(self._next(late=time.time() >= until))
            if kind is None:
                return
            self._take(self._kinds[kind])

    def _next(self, late: bool) -> int | None:
        """The kind that was measured least often; of equals the most frequent. None when it is enough."""
        seconds = [one.seconds for one in self._kinds]
        enough = min(map(len, seconds)) > ENOUGH and sum(map(sum, seconds)) >= ENOUGH_S
        open_to = [one for one in self._musts() if len(one.seconds) < 2] if late else self._kinds
        if enough or not open_to:
            return None
        return self._kinds.index(min(open_to, key=lambda one: len(one.seconds)))

    def _musts(self) -> list[_Kind]:
        """The most frequent without a transfer and with one: they are measured however long they take."""
        by_transfer = {bool(one.happening.transfers): one for one in reversed(self._kinds)}
        return list(by_transfer.values())

    def _take(self, kind: _Kind) -> None:
        tick = next((tick for tick in kind.ticks if tick >= self._graph.done), kind.ticks[0])
        self._go_to(tick, kind.happening)
        seconds = _timed(lambda: advance(self._graph), self._graph.device)
        if not self.stopped():
            kind.seconds.append(seconds)

    def _go_to(self, tick: int, happening: Happening) -> None:
        """Makes everything as it is before a tick, but for the weights; what would be ready then is made ready."""
        self._graph.done = tick
        for learner in self._graph.learners.values():
            learner.done = -(-tick // learner.options.training.every)
            learner.stream.prepare(learner.done)
        for name in set(happening.learns) - set(happening.writes):  # of a span that began before
            edge = self._graph.edges[name]
            began = self._calendars[name].learns[tick]
            edge.transfer.read(began // edge.target.options.training.every)
            edge.transfer.write()

    def stopped(self) -> tuple[str, ...]:
        """Learners that diverged and transfers that broke."""
        diverged = [name for name, one in self._graph.learners.items() if one.diverged_at is not None]
        return (*diverged, *(name for name, one in self._graph.edges.items() if one.broken_at is not None))

    def timings(self) -> tuple[Timing, ...]:
        """What was measured."""
        return tuple(one.timing() for one in self._kinds if one.seconds)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that something takes, until a GPU is done with it."""
    _wait_for(device)
    begin = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - begin


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- what is between ticks -----------------------------------------------------------------------------------------


def _validation_s(learner: Learner, seconds: float) -> float:
    """Seconds to measure a learner on one sample: by a few, and by a whole batch of them where there is time for it."""
    split = learner.validation if len(learner.validation) else learner.test
    device = learner.stream.device

    def a_sample(count: int) -> float:
        some = split.at(torch.arange(min(count, len(split)), device=split.labels.device))
        return _timed(lambda: evaluate(learner, some), device) / max(len(some), 1)

    few = a_sample(FEW)
    return a_sample(BATCH) if ranks.from_first(few * BATCH < seconds) else few


def _checkpoint(graph: Graph, folder: Path) -> tuple[float, int]:
    """Seconds to write a checkpoint, on rank 0, and its bytes."""
    begin, state = time.perf_counter(), graph.state_dict()
    if ranks.rank() > 0:
        return 0.0, 0
    save_checkpoint(folder, graph.done, {**state, "seconds": 0.0})
    seconds = time.perf_counter() - begin
    return seconds, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def peak_memory() -> int:
    """The most bytes that this process has held in memory.

    Linux counts what a process held before it became this program as its own in `ru_maxrss`: the size of whoever
    started it. The high-water mark of its own memory is asked for first.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
