"""The files of a record as plain values: for whoever only looks at one, without torch and all it brings."""

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from mergenet.config import InputError, digest

PATIENCE_S = 120.0
SAID_AFTER_S = 2.0
SEEN_WITHIN_S = 60.0
LOCK = ".lock"
STATE, CHECKSUM = "state.pt", "sha256"
"""Files of a checkpoint; it is whole where the second fits the first."""
REMOTE = ".mergenet-remote"
"""File in a folder of runs that is a copy: the URI of what it is a copy of."""


def shown(path: Path) -> str:
    """A path as short as it can be written from here; of a copy what it is a copy of."""
    uri = copied_from(path)
    if uri is not None:
        return uri
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def copied_from(path: Path) -> str | None:
    """The URI of what this is a copy of, in an object store; None where it is none."""
    for above in (path, *path.parents[:4]):
        with suppress(OSError):  # there is none, or the folder is not for this user to look into
            uri = (above / REMOTE).read_text().strip()
            return uri if above == path else below(uri, path.relative_to(above).as_posix())
    return None


def below(uri: str, name: str) -> str:
    """The URI of what lies below another under this name; options after `?` hold for both."""
    parts = urlsplit(uri)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()


def has_begun(folder: Path) -> bool:
    """Whether a run has described itself there: what it is, and what it began with."""
    return (folder / "manifest.json").exists()


def is_being_written(folder: Path) -> bool:
    """Whether a process has this record open for writing now, as far as this user may know."""
    try:
        with (folder / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody ever has, or the record is not for this user to read
        return False
    return False


def check_free(folder: Path, resume: bool, say: Callable[[str], None]) -> None:
    """Whether a record is nobody's to write now; who goes on with it waits for that, and `say` is told so.

    Raises:
        InputError: another process is writing it.
    """
    if resume:
        wait_until_free(folder, say)
    if is_being_written(folder):
        raise InputError(f"{shown(folder)}: another process is writing this run")


def lock(folder: Path, what: str = "run") -> IO[str]:
    """The folder, made where there is none, and held until what is returned is closed.

    Args:
        what: the folder holds, in a word.

    Raises:
        InputError: another process holds it, or it is not for this user to write.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a")
    except OSError as error:
        raise InputError(f"{shown(folder)}: cannot be written: {error.strerror}") from None
    try:
        _hold(file)
    except BlockingIOError:
        file.close()
        raise InputError(f"{shown(folder)}: another process is writing this {what}") from None
    except OSError as error:  # a file system that does not lock
        file.close()
        raise InputError(f"{shown(folder)}: cannot be locked: {error.strerror}") from None
    return file


def _hold(file: IO[str]) -> None:
    """Locks it, if not at once then after who only looks whether it is locked has let go."""
    for _ in range(5):
        with suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def wait_until_free(folder: Path, say: Callable[[str], None] = lambda text: None, seconds: float | None = None) -> None:
    """Waits for the process that writes this record to let go of it.

    A worker that Ray has given up, or one on a node that died, may hold it for a while longer: a server of files lets
    go of what a dead machine has locked after a minute and a half.

    Args:
        say: told that this waits, where it takes more than a moment.
        seconds: at most; `PATIENCE_S` by default.
    """
    seconds = PATIENCE_S if seconds is None else seconds
    begin, said = time.monotonic(), False
    while is_being_written(folder) and (waited := time.monotonic() - begin) < seconds:
        if waited > SAID_AFTER_S and not said:
            said = True
            say(f"{shown(folder)}: another process is writing it; waiting {seconds:.0f} s for it to let go")
        time.sleep(0.2)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write that becomes `path` when it is whole, so that a reader never meets half a one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a record.

    Raises:
        InputError: missing or broken.
    """
    try:
        value = json.loads(path.read_text())
    except OSError:
        raise InputError(f"{copied_from(path) or path}: no such file; a run's folder holds one") from None
    except ValueError as error:
        raise InputError(f"{copied_from(path) or path}: broken: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{copied_from(path) or path}: broken: no map")
    return value


def read_result(folder: Path) -> dict[str, Any] | None:
    """How a recorded run ended; None while it runs, or when it was killed."""
    path = folder / "result.json"
    return read_json(path) if path.exists() else None


def await_finished(folder: Path) -> dict[str, Any] | None:
    """The same of a run that is known to have finished: a folder that nodes mount may show it a moment later here.

    None where it does not.
    """
    end = time.monotonic() + SEEN_WITHIN_S
    while (result := read_result(folder)) is None or result["status"] != "finished":
        if time.monotonic() > end:
            return None
        time.sleep(0.5)
        for above in (folder.parent, folder):
            with suppress(OSError):
                list(above.iterdir())  # NFS forgets that a name was not there when it lists the folder
    return result


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Every recorded figure; none before the first validation."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [values for line in lines if (values := parse_line(line)) is not None]


def parse_line(line: str | bytes) -> dict[str, Any] | None:
    """A line of metrics; None where a death cut it short."""
    try:
        values: dict[str, Any] = json.loads(line)
        return values if {"tick", "split"} <= values.keys() else None
    except (ValueError, AttributeError):
        return None


def world_sizes(manifest: Mapping[str, Any]) -> list[int]:
    """How many workers trained the ticks of a run: at first, then each other number it went on with.

    Ticks that were lost with a worker and trained again are those of whoever trained them last.
    """
    stretches = [(0, manifest["world_size"])]
    for entry in manifest.get("resumed", ()):
        stretches = [stretch for stretch in stretches if stretch[0] < entry["tick"]]
        stretches.append((entry["tick"], entry.get("world_size", manifest["world_size"])))
    return [size for size, _ in groupby(size for _, size in stretches)]


def in_turn(sizes: Sequence[int]) -> str:
    """World sizes in words: `2`, `2 then 1`."""
    return " then ".join(map(str, sizes))


# --- sealed ------------------------------------------------------------------------------------------------------


def seal_of(
    experiment: Mapping[str, Any],
    manifest: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
) -> str:
    """SHA-256 of a finished record, to see whether a figure of it was changed since; paths do not count.

    It stands in the result itself, as `seal`.
    """
    unsealed = {key: value for key, value in result.items() if key != "seal"}
    return digest([*portable(experiment, manifest), list(metrics), unsealed])


def portable(experiment: Mapping[str, Any], manifest: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Experiment and manifest without the paths of one machine: files of weights are named by their digest."""
    named = manifest.get("weights", {})
    learners = {
        name: {**learner, "weights": named[name]} if name in named else learner
        for name, learner in experiment["learners"].items()
    }
    data = {name: {**entry, "path": None} for name, entry in manifest["data"].items()}
    return {**experiment, "learners": learners}, {**manifest, "data": data}
