"""Small experiments of learners that teach each other or share weights, for the networks of `tests.smooth`."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mergenet.config import parse
from mergenet.experiment import Experiment
from mergenet.models import MODELS
from tests.smooth import BROAD, SMOOTH

TRAINING = {"epochs": 2, "batch_size": 256, "optimizer": {"sgd": {"lr": 0.05}}, "schedule": "cosine"}


def add_networks() -> None:
    """The smooth networks among the models, in a process of one's own; a test lets `monkeypatch` do it."""
    MODELS.update(smooth=SMOOTH, broad=BROAD)


def learner(
    copy: int = 0, model: str = "smooth", task: dict[str, Any] | None = None, **training: Any
) -> dict[str, Any]:
    """One that trains on digits, five ticks an epoch."""
    task = {"classification": {"data": "digits", **(task or {})}}
    return {"model": model, "copy": copy, "task": task, "training": training}


def frozen(file: Path, model: str = "smooth") -> dict[str, Any]:
    """One that does not."""
    return {"model": model, "frozen": True, "weights": str(file)}


def experiment(learners: dict[str, Any], **rest: Any) -> Experiment:
    """Of these learners and families of edges; the clock is `target`."""
    training = {**TRAINING, **rest.pop("training", {})}
    return parse(Experiment, {"name": "taught", "learners": learners, "training": training, **rest})


def save(path: Path, model: str = "smooth", classes: int = 10, seed: int = 0, **change: torch.Tensor) -> Path:
    """Weights of a fresh model as a file, some of them changed."""
    torch.manual_seed(seed)
    weights = {**MODELS[model].build(classes).state_dict(), **change}
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    return path
