"""Comparing what runs leave behind, bit for bit."""

import json
from pathlib import Path
from typing import Any

import torch

from mergenet.training.checkpoint import checkpoints

TIMES = {"seconds", "seal"}  # which covers the time


def final_state(folder: Path) -> dict[str, Any]:
    """The newest checkpoint under a run's folder."""
    state: dict[str, Any] = torch.load(checkpoints(folder / "checkpoints")[-1] / "state.pt", weights_only=True)
    return state


def assert_equal(one: Any, other: Any, path: str = "state") -> None:
    """Every value the same, tensors bit for bit; what tells of time is left out."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one.keys() - TIMES:
            assert_equal(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_equal(left, right, f"{path}[{index}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other or (one != one and other != other), f"{path}: {one} is not {other}"


def assert_runs_equal(one: Path, other: Path) -> None:
    """Two runs ended with the same weights, adapters, metrics and results."""
    assert_equal(final_state(one), final_state(other))
    assert_equal(*(json.loads((folder / "result.json").read_text()) for folder in (one, other)))
    assert_equal(metrics(one), metrics(other))


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without the run's name."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "run"} for line in lines]
