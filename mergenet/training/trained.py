"""A learner as its finished run left it: its weights, and what the record and the data tell of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mergenet.config import InputError, nearest
from mergenet.experiment import Experiment, LearnerOptions
from mergenet.identity import NUMERICS
from mergenet.models import code_digest, find_model, names_code
from mergenet.training.checkpoint import checkpoints, load_checkpoint, problem_of
from mergenet.training.copies import fetch
from mergenet.training.factored import merged
from mergenet.training.files import read_result
from mergenet.training.record import read_experiment, read_manifest


@dataclass(frozen=True)
class Trained:
    """A trained learner.

    Attributes:
        weights: its state dict, the last or the best as the experiment says, contiguous.
        tick: after which it was so.
    """

    name: str
    experiment: Experiment
    manifest: Mapping[str, Any]
    result: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    tick: int

    @property
    def options(self) -> LearnerOptions:
        """The learner's own options."""
        return self.experiment.learners[self.name]

    @property
    def images(self) -> Mapping[str, Any]:
        """What it takes and gives: classes, names, shape (channels, height, width), mean, deviation of its images."""
        return _images_of(self.options, self.manifest)


def _images_of(options: LearnerOptions, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a manifest says of a learner's data set, which is of the whole, as the learner saw it."""
    task = options.trained_task
    seen = dict(manifest["data"][task.data])
    if task.size is not None:
        seen["shape"] = [seen["shape"][0], task.size, task.size]
    if task.classes is not None:
        low, high = task.classes
        seen["classes"], seen["names"] = high - low, seen["names"][low:high]
    return seen


def read_trained(run: Path, learner: str | None, allow_code: bool) -> Trained:
    """The learner of a finished run, the clock's where none is named.

    Raises:
        InputError: a run that has not finished, a learner that is unknown, frozen or diverged, a model of the user's
            own without leave, weights that are not there.
    """
    experiment, manifest, result = read_experiment(run), read_manifest(run), read_result(run)
    if result is None or result["status"] != "finished":
        how = "has not ended" if result is None else f"ended as {result['status']}"
        raise InputError(f"{run}: the run {how}; go on with mergenet train --resume {run}")
    name = learner or experiment.clock
    if name not in experiment.learners:
        raise InputError(f"{run}: no learner '{name}'; {nearest(name, experiment.learners)}")
    options = experiment.learners[name]
    if options.frozen:
        raise InputError(f"{run}: '{name}' is frozen, its weights are those of its file; name another --learner")
    if result["learners"][name]["diverged_at"] is not None:
        raise InputError(f"{run}: '{name}' diverged at tick {result['learners'][name]['diverged_at']}")
    if manifest.get("numerics") != NUMERICS:
        raise InputError(f"{run}: trained by another version of this package, whose networks are not those of today")
    if names_code(options.model):
        _check_code(run, options.model, manifest["code"][name], allow_code)
    weights, tick = _read_weights(run, name, result["ticks"], best=experiment.evaluation.weights == "best")
    weights = merged(weights, options, _images_of(options, manifest)["classes"])
    return Trained(name, experiment, manifest, result, weights, tick)


def _check_code(run: Path, model: str, digest: str, allow_code: bool) -> None:
    if not allow_code:
        raise InputError(f"{run}: model '{model}' is code of yours; add --allow-code to let it run")
    if code_digest(model) != digest:
        raise InputError(f"{run}: the file of model '{model}' is not the one it was trained with")


def _read_weights(run: Path, name: str, ticks: int, best: bool) -> tuple[Mapping[str, Tensor], int]:
    """The learner's weights after the last tick, or its best ones, and the tick they are of."""
    fetch(run, states=True)
    there = checkpoints(run / "checkpoints")
    if not there:
        raise InputError(f"{run}: there is no checkpoint left, and the weights lie there")
    problem = problem_of(there[-1])
    if problem is not None:
        raise InputError(f"{run}: checkpoint {there[-1].name} is broken ({problem})")
    state = load_checkpoint(there[-1])
    if state["done"] != ticks:
        raise InputError(f"{run}: its last checkpoint is of tick {state['done']}, and the run went to {ticks}")
    learner = state["learners"][name]
    weights, tick = learner["model"], ticks
    if best and learner["best"] is not None:
        weights, tick = learner["best"]["weights"], learner["best"]["tick"]
    plain = {key: value.clone(memory_format=torch.contiguous_format) for key, value in weights.items()}
    return plain, tick


def build_trained(trained: Trained) -> nn.Module:
    """Its model with its weights, in eval mode.

    Raises:
        InputError: a model that does not take a plain state dict.
    """
    with torch.random.fork_rng(devices=[]):
        module = find_model(trained.options.model).build(trained.images["classes"])
    try:
        module.load_state_dict(dict(trained.weights))
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{trained.options.model}: the model does not take its weights as a plain state dict: {error}"
        ) from None
    return module.eval()
