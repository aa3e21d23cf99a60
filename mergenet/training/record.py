"""What a run leaves behind, in `RUNS/NAME/HASH8-sSEED/`; written by rank 0, it is the truth about the run.

experiment.json   the resolved experiment
manifest.json     hashes of run, cells, data, initial weights and first batches; seed, versions, hardware
metrics.jsonl     one figure a line
checkpoints/      the newest two
result.json       how it ended: finished with its figures, or failed, stopped or interrupted and why
"""

import hashlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergenet.config import InputError, parse
from mergenet.experiment import Experiment
from mergenet.training.files import lock, parse_line, read_json, read_metrics, replacing, seal_of

PACKAGES = ("mergenet", "torch", "torchvision", "numpy", "pyarrow", "scikit-learn", "ray")


def run_folder(runs: Path, name: str, run_hash: str, seed: int) -> Path:
    """Where the run's record lies."""
    return runs / name / f"{run_hash[:8]}-s{seed}"


class Record:
    """The record of one run, open for writing; another process that opens it is refused."""

    def __init__(self, folder: Path) -> None:
        self._lock = lock(folder)
        self.folder = folder

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / "checkpoints"

    def describe(self, experiment: Experiment, manifest: Mapping[str, Any]) -> None:
        """Writes experiment and manifest, once, at the run's start."""
        _write_json(self.folder / "experiment.json", experiment.dump())
        _write_json(self.folder / "manifest.json", manifest)

    def note_resume(self, tick: int, here: Mapping[str, Any]) -> None:
        """Keeps in the manifest where the run went on, with how many workers, and what else is not as at its start."""
        path = self.folder / "manifest.json"
        manifest, others = read_json(path), dict(here)
        entry = {"tick": tick, "world_size": others.pop("world_size")}
        entry["changed"] = {name: value for name, value in others.items() if manifest[name] != value}
        _write_json(path, {**manifest, "resumed": [*manifest["resumed"], entry]})

    def go_on_from(self, tick: int, ticks: int) -> None:
        """Cuts the metrics back to those of the first `tick` of `ticks` ticks and forgets how the run ended."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _belongs_before(line, tick, ticks)]
            with replacing(path) as aside:
                aside.write_text("".join(f"{line}\n" for line in kept))
        (self.folder / "result.json").unlink(missing_ok=True)

    def log(self, learner: str, tick: int, epoch: float, split: str, metrics: Mapping[str, float]) -> None:
        """Appends one line a metric; a value that is not finite is written as null."""
        run = str(self.folder.name)
        with (self.folder / "metrics.jsonl").open("a") as file:
            for metric, value in metrics.items():
                line = {
                    "run": run,
                    "learner": learner,
                    "tick": tick,
                    "epoch": epoch,
                    "split": split,
                    "metric": metric,
                    "value": value if math.isfinite(value) else None,
                }
                file.write(json.dumps(line, allow_nan=False) + "\n")

    def finish(self, result: Mapping[str, Any]) -> None:
        """Writes how the run ended; a finished record is sealed."""
        if result["status"] == "finished":
            experiment, manifest = (read_json(self.folder / name) for name in ("experiment.json", "manifest.json"))
            plain = json.loads(json.dumps(result, allow_nan=False))
            result = {**plain, "seal": seal_of(experiment, manifest, read_metrics(self.folder), plain)}
        _write_json(self.folder / "result.json", result)

    def has_result(self) -> bool:
        """Whether it says how the run ended."""
        return (self.folder / "result.json").exists()

    def close(self) -> None:
        """Lets others open the record."""
        self._lock.close()


def _belongs_before(line: str, tick: int, ticks: int) -> bool:
    """Whether a line of metrics is of the first `tick` of `ticks` ticks, and not of the final test."""
    values = parse_line(line)
    if values is None or values["tick"] > tick:
        return False
    return values["split"] != "test" or values["tick"] < ticks


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as aside:
        aside.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


# --- reading -----------------------------------------------------------------------------------------------------


def read_experiment(folder: Path) -> Experiment:
    """The experiment of a recorded run."""
    return parse(Experiment, read_json(folder / "experiment.json"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a recorded run.

    Raises:
        InputError: missing, broken, or without what a run is taken up by.
    """
    path = folder / "manifest.json"
    manifest = read_json(path)
    missing = {"hash", "seed", "data", "world_size", "threads", "device"} - manifest.keys()
    if missing:
        raise InputError(f"{path}: broken: {', '.join(sorted(missing))} is missing")
    return manifest


# --- surroundings ------------------------------------------------------------------------------------------------


def surroundings(device: str, threads: int, workers: int) -> dict[str, Any]:
    """Versions, commit and hardware a run's figures may depend on; `device` is cpu or cuda."""
    return {
        "python": platform.python_version(),
        "versions": {package: found for package in PACKAGES if (found := _version(package))},
        "commit": _commit(),
        "hardware": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        },
        "device": device,
        "threads": threads,
        "world_size": workers,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the code, with `+changes` when the tree is not that commit; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        tracked = git("ls-files", "--error-unmatch", __file__)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "") if tracked else None
    except (OSError, subprocess.SubprocessError):
        return None


def hash_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors, names and bits."""
    sha = hashlib.sha256()
    for name, tensor in tensors.items():
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
