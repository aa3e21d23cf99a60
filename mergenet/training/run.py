"""A run from its first tick to its last, wherever it takes place: the same code alone, under torchrun and under Ray."""

import math
import time
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from mergenet.config import InputError
from mergenet.data.images import Images, Split
from mergenet.experiment import Experiment
from mergenet.identity import NUMERICS
from mergenet.training import ranks
from mergenet.training.checkpoint import load_checkpoint, recover_newest, save_checkpoint
from mergenet.training.evaluation import evaluate
from mergenet.training.files import has_begun, in_turn, world_sizes
from mergenet.training.graph import Graph
from mergenet.training.learner import Learner
from mergenet.training.loop import advance
from mergenet.training.place import Place, at_hand
from mergenet.training.plan import Plan, make_plan
from mergenet.training.record import Record, hash_of, read_manifest, surroundings
from mergenet.training.remote import Away
from mergenet.training.reporter import Reporter, Silent
from mergenet.training.spec import RunSpec, data_of, origins_as_plain

GUARDED_FIRST, GUARD_EVERY = 10, 100  # replicas are compared after each of these ranks' first ticks, then now and then


class Stopped(BaseException):
    """Raised by a reporter: no more of this run. Its record keeps the text as the reason."""


def execute(spec: RunSpec, reporter: Reporter) -> None:
    """Trains from the newest checkpoint in the run's folder, or from the start, to the end; every rank calls it.

    A run that ends in any other way than finished says how in its record.
    """
    torch.set_num_threads(spec.threads)
    device = ranks.own_device(spec.device)
    with ranks.process_group(device), _at_hand(spec, reporter) as place:
        record = _open_record(place)
        run = _Run(spec, device, place, record, reporter if record else Silent())
        try:
            run.train()
        except BaseException as error:
            if record is not None:
                record.finish(unfinished(error))
            raise
        finally:
            run.reporter.stop()
            if record is not None:
                record.close()


def _at_hand(spec: RunSpec, reporter: Reporter) -> AbstractContextManager[Place]:
    return at_hand(spec.folder, spec.remote, spec.owner, reporter.say)


def _open_record(place: Place) -> Record | None:
    """The record, for rank 0."""
    with ranks.agreeing():
        if ranks.rank() > 0:
            return None
        place.take_over()
        return Record(place.folder)


def record_end(spec: RunSpec, result: Mapping[str, Any], whoever_writes: bool = False) -> None:
    """Writes how a run ended whose workers were killed and could not say so; what they have said stands.

    Args:
        whoever_writes: also where it is not known that they wrote last what is kept in an object store.

    Raises:
        InputError: another process writes the record.
        Away: the object store that it is kept in cannot be reached.
    """
    with _at_hand(spec, Silent()) as place:
        if not whoever_writes and place.is_of_others():
            return
        place.take_over(states=False)
        record = Record(place.folder)
        if not record.has_result():
            record.finish(result)
        record.close()


def unfinished(error: BaseException) -> dict[str, Any]:
    """The result of a run that `error` ended."""
    if isinstance(error, Stopped):
        return {"status": "stopped", "reason": str(error)}
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "reason": "stopped by Ctrl-C or a request to terminate"}
    reason = f"{type(error).__name__}: {error}"
    return {"status": "failed", "reason": reason, "traceback": traceback.format_exc()}


class _Run:
    """The state of one run on this rank."""

    def __init__(
        self, spec: RunSpec, device: torch.device, place: Place, record: Record | None, reporter: Reporter
    ) -> None:
        self.spec = spec
        self.device = device
        self.place = place
        self.record = record
        self.reporter = reporter
        self.said_away = False
        self.seconds_before = 0.0
        self.done_before = 0
        self.begin = time.monotonic()

    def train(self) -> None:
        spec = self.spec
        with ranks.agreeing():
            data = data_of(spec.experiment, spec.data)
            experiment = self._with_weights_at_hand()
            plan = make_plan(experiment, spec.seed, data, ranks.world(), spec.origins)
            self._check_same(plan)
        graph = Graph(experiment, plan, data, spec.seed, self.device)
        begun = has_begun(self.place.folder)
        self._describe(plan, graph, data)
        self._resume(graph, plan, begun)
        self._push()
        if any(options.training.compile for options in spec.experiment.trained().values()):
            self.reporter.say("compiling: the first tick takes a minute or more")
        self.begin = time.monotonic()
        self.reporter.start(plan.ticks, graph.done)
        while graph.done < plan.ticks:
            advance(graph)
            self._after_tick(graph, plan)
        self.reporter.stop()
        self._finish(graph, plan)

    def _with_weights_at_hand(self) -> Experiment:
        """The experiment, with files of weights that other runs have handed on as this process finds them."""
        learners = self.spec.experiment.learners
        files = {name: str(learners[name].weights) for name in self.spec.origins}
        return self.spec.experiment.with_weights({name: self.place.weights(file) for name, file in files.items()})

    def _check_same(self, plan: Plan) -> None:
        """Whoever starts it again, a run goes on with what it began with."""
        if self.record is None or not has_begun(self.record.folder):
            return
        if read_manifest(self.record.folder)["hash"] != plan.hash:
            raise InputError(
                f"{self.spec.remote or self.spec.folder}: experiment, data, weights, code or numerics are not those it "
                "began with"
            )

    # --- around the ticks ---

    def _after_tick(self, graph: Graph, plan: Plan) -> None:
        experiment, done = self.spec.experiment, graph.done
        if done - self.done_before <= GUARDED_FIRST or done % GUARD_EVERY == 0:
            ranks.check_replicas(graph.replicated())
        per_epoch = plan.learners[experiment.clock].steps_per_epoch
        if done % (per_epoch * experiment.evaluation.every) == 0 or done == plan.ticks:
            self._validate(graph, epoch=done // per_epoch)
            if experiment.evaluation.test == "always" and done < plan.ticks:
                self._watch_test(graph, epoch=done // per_epoch)
        if done % experiment.checkpoint.every == 0 or done == plan.ticks:
            self._save(graph)
        self.reporter.tick(done)

    def _validate(self, graph: Graph, epoch: int) -> None:
        """Figures of training since the last time, and of the held-out samples."""
        measured: dict[str, Mapping[str, float]] = {}
        for name, learner in graph.learners.items():
            sums = learner.sums.take()
            if sums:
                self._log(graph, name, epoch, "train", {"loss": sums["loss"] / sums["count"]})
            metrics = _measured(learner, learner.validation, graph.done)
            if metrics is not None:
                if self.spec.experiment.evaluation.weights == "best":
                    learner.keep_if_best(metrics, graph.done)
                self._log(graph, name, epoch, "validation", metrics)
                measured[name] = metrics
        for edge in graph.edges.values():
            sums = edge.sums.take()
            means = {f"{edge.name}.{key}": sums[key] / sums["count"] for key in ("written", "moved") if sums}
            self._log(graph, edge.target.name, epoch, "train", means)
        self._push()
        self._say(epoch, "validation", {name: one[graph.learners[name].task.selects] for name, one in measured.items()})
        self.reporter.validated(epoch, measured)

    def _watch_test(self, graph: Graph, epoch: int) -> None:
        """Figures of the test split that nothing hangs on: a learner that is broken there alone goes on."""
        figures = {}
        for name, learner in graph.learners.items():
            if learner.diverged_at is None:
                metrics = evaluate(learner, learner.test)
                self._log(graph, name, epoch, "test", metrics)
                figures[name] = metrics[learner.task.selects]
        self._say(epoch, "test", figures)

    def _say(self, epoch: int, split: str, figures: Mapping[str, float]) -> None:
        if figures:
            told = ", ".join(f"{name} {figure:.2f}" for name, figure in figures.items())
            self.reporter.say(f"epoch {epoch}, {split}: {told}")

    def _log(self, graph: Graph, learner: str, epoch: int, split: str, metrics: Mapping[str, float]) -> None:
        if self.record is not None:
            self.record.log(learner, graph.done, epoch, split, metrics)

    def _save(self, graph: Graph) -> None:
        ranks.check_replicas(graph.replicated())
        state = {**graph.state_dict(), "seconds": self._seconds()}
        if self.record is not None:
            save_checkpoint(self.record.checkpoints, graph.done, state)
        self._push()

    def _push(self) -> None:
        """Brings the record to where it is kept, if that is elsewhere; a store that is away for a while ends no run."""
        if self.spec.remote is None:
            return
        with ranks.agreeing():  # one whose record was taken over would leave the others waiting
            try:
                if self.record is not None:
                    self.place.push()
            except Away as error:
                if not self.said_away:
                    self.reporter.say(f"{self.spec.remote} is away ({error}); the record is brought there later")
                self.said_away = True

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.begin

    # --- first and last ---

    def _describe(self, plan: Plan, graph: Graph, data: Mapping[str, Images]) -> None:
        if self.record is None or has_begun(self.record.folder):
            return
        spec = self.spec
        manifest = {
            "hash": plan.hash,
            "numerics": NUMERICS,
            "seed": spec.seed,
            "cells": plan.cells,
            "data": {
                name: {"digest": digest, "path": spec.data.get(name), **_form_of(data[name])}
                for name, digest in plan.contents.data.items()
            },
            "weights": dict(plan.contents.weights),
            "code": dict(plan.contents.code),
            "origins": origins_as_plain(spec.origins),
            "pairing": {
                name: {
                    "initial_weights": graph.drawn.get(name) or hash_of(learner.model.state_dict()),
                    "first_batch": hash_of(learner.stream.first_global_batch()),
                }
                for name, learner in graph.learners.items()
            },
            "resumed": [],
            **surroundings(spec.device, spec.threads, ranks.world()),
        }
        self.record.describe(spec.experiment, manifest)

    def _resume(self, graph: Graph, plan: Plan, begun: bool) -> None:
        """Takes up the newest whole checkpoint, the same on every rank, of a run that had `begun` before."""
        found = None
        if self.record is not None:
            found, broken = recover_newest(self.record.checkpoints)
            for line in broken:
                self.reporter.say(line)
            if found is None and not broken and begun:
                self.reporter.say("there is no checkpoint yet: starting from the first tick")
        newest = ranks.from_first(None if found is None else found.name)
        if newest is not None:
            with ranks.agreeing():
                state = load_checkpoint(self.place.checkpoint(newest))
            graph.load_state_dict(state)
            self.seconds_before, self.done_before = state["seconds"], graph.done
            self.reporter.say(f"going on from tick {graph.done}")
        if self.record is not None:
            self.record.go_on_from(graph.done, plan.ticks)
            if begun:
                self._note_resume(self.record, graph.done)

    def _note_resume(self, record: Record, tick: int) -> None:
        """A run that goes on may do so elsewhere, and with other workers, which is said."""
        before = world_sizes(read_manifest(record.folder))
        record.note_resume(tick, surroundings(self.spec.device, self.spec.threads, ranks.world()))
        sizes = world_sizes(read_manifest(record.folder))
        if sizes != before and len(sizes) > 1:
            self.reporter.say(f"trained by {in_turn(sizes)} workers now: its record says so, and tables mark it")

    def _finish(self, graph: Graph, plan: Plan) -> None:
        """The test of the weights that are kept, and the result."""
        learners: dict[str, dict[str, Any]] = {}
        for name, learner in graph.learners.items():
            figures: dict[str, Any] = {}
            if learner.best is not None:
                learner.take_best()
                figures["best_tick"] = learner.best["tick"]
            splits = {"validation": learner.validation, "test": learner.test}
            if self.spec.experiment.evaluation.test == "never":
                del splits["test"]
            for split, samples in splits.items():
                metrics = _measured(learner, samples, graph.done)
                if metrics is not None:
                    figures[split] = metrics
            learners[name] = {"steps": learner.done, "diverged_at": learner.diverged_at, **figures}
        transfers = {
            name: {"updates": edge.transfer.updates, "stopped_at": edge.stopped_at()}
            for name, edge in graph.edges.items()
        }
        epochs = self.spec.experiment.learners[self.spec.experiment.clock].training.epochs
        for name, ended in learners.items():
            self._log(graph, name, epochs, "test", ended.get("test", {}))
        if self.record is not None:
            sizes = world_sizes(read_manifest(self.record.folder))
            ending = {"status": "finished", "ticks": plan.ticks, "seconds": self._seconds(), "world_sizes": sizes}
            self.record.finish({**ending, "learners": learners, "transfers": transfers})
        ranks.wait_for_all()


def _measured(learner: Learner, split: Split, tick: int) -> dict[str, float] | None:
    """The metrics of a learner on a split, where both are fit to be measured.

    A learner whose metrics are not finite has diverged in its last step, and is marked so: no later
    gradient was there to tell.
    """
    if learner.diverged_at is not None or not len(split):
        return None
    metrics = evaluate(learner, split)
    if all(math.isfinite(value) for value in metrics.values()):
        return metrics
    learner.diverged_at = tick
    return None


def _form_of(images: Images) -> dict[str, Any]:
    """What a model trained on these images takes and gives."""
    return {
        "classes": images.classes,
        "names": list(images.names),
        "shape": list(images.train.images.shape[1:]),
        "mean": list(images.mean),
        "deviation": list(images.deviation),
    }
