"""Checkpoints: written aside and renamed, with a checksum, read without running code."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from mergenet.config import InputError
from mergenet.training.files import CHECKSUM, STATE

KEEP = 2


def save_checkpoint(folder: Path, tick: int, state: dict[str, Any]) -> None:
    """Writes `state` as `folder/tick-NNNNNNNN` and drops all but the newest two.

    A checkpoint that exists is whole: it gets its name by a rename, after its bytes are on the disk.
    """
    name = f"tick-{tick:08d}"
    aside = folder / f".{name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    torch.save(state, aside / STATE)
    (aside / CHECKSUM).write_text(_sha256(aside / STATE) + "\n")
    for file in (aside / STATE, aside / CHECKSUM):
        _to_disk(file)
    shutil.rmtree(folder / name, ignore_errors=True)
    aside.rename(folder / name)
    _to_disk(folder)
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints under `folder`, oldest first."""
    return sorted(folder.glob("tick-*"))


def recover_newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose checksum holds, and a line for each newer one that is broken.

    Broken ones are renamed `broken-tick-...`, and what a killed process had not finished is removed.
    """
    for unfinished in folder.glob(".tick-*"):
        shutil.rmtree(unfinished)
    broken: list[str] = []
    for path in reversed(checkpoints(folder)):
        problem = problem_of(path)
        if problem is None:
            return path, broken
        before = (
            "using the one before it"
            if path != checkpoints(folder)[0]
            else "and there is none before it: starting from the first tick"
        )
        broken.append(f"checkpoint {path} is broken ({problem}), {before}")
        path.rename(path.with_name(f"broken-{path.name}"))
    return None, broken


def problem_of(path: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is whole."""
    state, checksum = path / STATE, path / CHECKSUM
    if not state.is_file() or not checksum.is_file():
        return "a file is missing"
    holds = _sha256(state).encode() == checksum.read_bytes().strip()
    return None if holds else "its checksum does not match"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a whole checkpoint, its tensors on the CPU.

    Raises:
        InputError: it cannot be read all the same.
    """
    try:
        state: dict[str, Any] = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its bytes lead it to
        raise InputError(f"checkpoint {path}: cannot be read: {error}") from None
    return state


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
