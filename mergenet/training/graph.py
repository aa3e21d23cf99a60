"""The experiment's graph at work: live learners, and live transfers bound to the two they join."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mergenet.data.images import Images, Stream, hold_out
from mergenet.experiment import Experiment, split_end
from mergenet.method.ports import Port, find_port
from mergenet.method.transfer import NotFinite, Transfer, TransferOptions
from mergenet.models import find_model
from mergenet.training import ranks
from mergenet.training.learner import Learner, Sums
from mergenet.training.plan import Plan


class Edge:
    """A transfer between two learners of the run.

    It stops for good, at the target's step `stopped_at`, when one of them diverges or brings it matrices
    that are not finite: a broken source does not break its target.
    """

    def __init__(self, name: str, transfer: Transfer, source: Learner, target: Learner) -> None:
        self.name = name
        self.transfer = transfer
        self.source = source
        self.target = target
        self.sums = Sums()
        self.stopped_at: int | None = None

    def due(self, tick: int) -> bool:
        """Whether it reads and writes before the target's step of this tick."""
        self._stop_if_diverged()
        return self.stopped_at is None and self.target.steps_on(tick) and self.transfer.due(self.target.done)

    def read(self) -> None:
        """Copies both matrices."""
        with self._stopping_unless_finite():
            self.transfer.read(self.target.done)

    def write(self) -> None:
        """Generates and writes the target's weight."""
        if self.stopped_at is None:
            with self._stopping_unless_finite():
                self.transfer.write()

    def learn(self, tick: int) -> None:
        """Updates the adapter when its span ended with the step of this tick."""
        self._stop_if_diverged()
        if self.stopped_at is None and self.target.steps_on(tick) and self.transfer.ends(self.target.done - 1):
            self.transfer.learn()
            figures = self.transfer.figures
            self.sums.add({**figures, "count": torch.ones_like(figures["moved"])})

    def _stop_if_diverged(self) -> None:
        diverged = self.source.diverged_at is not None or self.target.diverged_at is not None
        if diverged and self.stopped_at is None:
            self.stopped_at = self.target.done

    @contextmanager
    def _stopping_unless_finite(self) -> Iterator[None]:
        try:
            yield
        except NotFinite:
            self.stopped_at = self.target.done

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint between two ticks must hold; every rank must call it."""
        return {
            "transfer": self.transfer.state_dict(),
            "sums": self.sums.settle(),
            "stopped_at": self.stopped_at,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.transfer.load_state_dict(state["transfer"])
        self.sums.restore(state["sums"])
        self.stopped_at = state["stopped_at"]


class Graph:
    """Learners and edges of one run on this rank, and how many ticks are done."""

    def __init__(
        self, experiment: Experiment, plan: Plan, data: Mapping[str, Images], seed: int, device: torch.device
    ) -> None:
        self.done = 0
        streams = _Streams(experiment, plan, data, seed, device)
        self.learners: dict[str, Learner] = {}
        for name, options in experiment.learners.items():
            stream, validation = streams.of(name)
            self.learners[name] = Learner(name, options, stream, validation, plan.learners[name].steps, seed)
        self.edges = {name: self._edge(name, options, seed) for name, options in experiment.enabled_transfers().items()}

    def _edge(self, name: str, options: TransferOptions, seed: int) -> Edge:
        source, target = (self.learners[split_end(end)[0]] for end in (options.source, options.target))
        transfer = Transfer(options, self._port(options.source), self._port(options.target), target.steps, seed)
        return Edge(name, transfer, source, target)

    def _port(self, end: str) -> Port:
        learner, port = split_end(end)
        options = self.learners[learner].options
        return find_port(self.learners[learner].model, port, find_model(options.model).ports)

    def replicated(self) -> dict[str, Tensor]:
        """Everything that must be equal on all ranks, by name."""
        return dict(self._replicated())

    def _replicated(self) -> Iterator[tuple[str, Tensor]]:
        for learner in self.learners.values():
            for name, parameter in learner.model.named_parameters():
                yield f"{learner.name}.{name}", parameter
        for edge in self.edges.values():
            for name, parameter in edge.transfer.adapter.named_parameters():
                yield f"adapter {edge.name}: {name}", parameter

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint between two ticks must hold; every rank must call it."""
        return {
            "done": self.done,
            "learners": {name: learner.state_dict() for name, learner in self.learners.items()},
            "transfers": {name: edge.state_dict() for name, edge in self.edges.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self.done = state["done"]
        for name, learner in self.learners.items():
            learner.load_state_dict(state["learners"][name])
        for name, edge in self.edges.items():
            edge.load_state_dict(state["transfers"][name])


class _Streams:
    """Streams of batches; learners that see the same batches share one, so each batch is made once."""

    def __init__(
        self, experiment: Experiment, plan: Plan, data: Mapping[str, Images], seed: int, device: torch.device
    ) -> None:
        self._experiment, self._plan, self._data = experiment, plan, data
        self._seed, self._device = seed, device
        self._made: dict[Any, tuple[Stream, Any]] = {}

    def of(self, learner: str) -> Any:
        """The stream of `learner` and its validation split."""
        options = self._experiment.learners[learner]
        task, size = options.task, options.training.batch_size
        key = (task.data, size, task.augmentation)
        if key not in self._made:
            data, digest = self._data[task.data], self._plan.digests[task.data]
            train, held = hold_out(data.train, self._experiment.evaluation.validation, digest)
            stream = Stream(
                data,
                train.to(self._device),
                digest,
                size,
                task.augmentation,
                self._seed,
                ranks.rank(),
                ranks.world(),
            )
            self._made[key] = (stream, held.to(self._device))
        return self._made[key]
