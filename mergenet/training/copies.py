"""Copies of records that are kept in an object store, for whoever reads them here.

They lie in a folder of runs like any other, which says in `.mergenet-remote` what it is a copy of. What reads a record
fetches it first, which does nothing to a record that is no copy; the states in checkpoints, its large part, come when
they are asked for.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mergenet.config import InputError, digest
from mergenet.training.files import CHECKSUM, REMOTE, STATE, copied_from, read_result
from mergenet.training.remote import Away, Remote, patiently

CHECKPOINTS, RESULT = "checkpoints", "result.json"
PROBE = ".mergenet-probe"
FETCH_EVERY_S = 5.0
SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")


def runs_here(runs: str | Path) -> Path:
    """The folder of runs on this machine: the one named, or the copy of the one that a URI names.

    Raises:
        InputError: no such kind of store, or a URI that holds a password.
    """
    if "://" not in str(runs):
        return Path(runs)
    uri, parts = str(runs).rstrip("/"), urlsplit(str(runs))
    if parts.scheme not in SCHEMES:
        raise InputError(f"--runs {uri}: no such kind of store; write a folder, or s3://BUCKET/FOLDER")
    if parts.password:
        raise InputError(
            f"--runs of {parts.scheme}://: a URI is shown and recorded; leave its key out, set AWS_ACCESS_KEY_ID"
        )
    if parts.scheme == "file":
        return Path(parts.path)
    if not parts.netloc or not parts.path.strip("/"):
        raise InputError(f"--runs {uri}: name a folder in a bucket, as {parts.scheme}://BUCKET/FOLDER")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "mergenet" / f"{parts.netloc}-{digest(uri)[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / REMOTE).write_text(f"{uri}\n")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}; set XDG_CACHE_HOME") from None
    return folder


def record_here(record: str | Path) -> Path:
    """The folder of a record or a sweep on this machine: the one named, or the copy of the one that a URI names.

    A copy is fetched.

    Raises:
        InputError: no such kind of store, or it cannot be reached.
    """
    named = str(record)
    if "://" in named:
        remote = Remote(named)
        name, folder = urlsplit(named).path.strip("/").split("/")[-2:]
        record = runs_here(remote.above().above().uri) / name / folder
    fetch(Path(record))
    return Path(record)


def fetch(folder: Path, states: bool = False) -> None:
    """Brings the copy of a record or a sweep up to date; other folders are left alone.

    Args:
        states: also the large part of its checkpoints.

    Raises:
        InputError: the store cannot be reached.
    """
    uri = copied_from(folder)
    if uri is not None:
        with refusing(uri):
            bring(Remote(uri), folder, states)


def result_of(folder: Path, uri: str | None) -> dict[str, Any] | None:
    """How the run ended whose record is kept there, or in `folder`; None while it runs, or when it was killed.

    Raises:
        Away: the store cannot be reached.
    """
    if uri is None:
        return read_result(folder)
    content = patiently(lambda: Remote(uri).read(RESULT))
    return None if content is None else json.loads(content)


def fetch_all(runs: Path) -> Path:
    """Brings the copies of all records and sweeps up to date, without the states of their checkpoints; `runs` again.

    Raises:
        InputError: the store cannot be reached.
    """
    uri = copied_from(runs)
    if uri is not None:
        with refusing(uri):
            remote = Remote(uri)
            there = {"/".join(parts[:2]) for name in remote.files() if len(parts := name.split("/")) > 2}
            here = {path.parent.relative_to(runs).as_posix() for path in runs.glob("*/*/*.json")}
            for name in sorted(there | here):
                bring(remote.at(name), runs / name, states=False)
    return runs


def check_writable(runs: Path) -> None:
    """Sees that records can be brought to where they are kept, before anything is trained for it.

    Raises:
        InputError: they cannot.
    """
    uri = copied_from(runs)
    if uri is not None:
        with refusing(uri, "written"):
            Remote(uri).write(PROBE, b"")
            Remote(uri).remove(PROBE)


@contextmanager
def refusing(uri: str, done: str = "read") -> Iterator[None]:
    """Bad input to whoever named a store that cannot be reached."""
    try:
        yield
    except Away as error:
        raise InputError(f"{uri}: cannot be {done}: {error}") from None


def bring(remote: Remote, folder: Path, states: bool) -> None:
    """Makes the files of a record in `folder` those of `remote`; what is the same by size and time is left alone.

    Raises:
        Away: the store cannot be reached.
    """
    there = {name: info for name, info in remote.files().items() if is_kept(name)}
    # a checkpoint is there when its checksum is, which is pushed last
    there = {
        name: info
        for name, info in there.items()
        if not name.endswith(STATE) or (states and name.replace(STATE, CHECKSUM) in there)
    }
    for name, info in there.items():
        if mark_of(folder / name) != (info.size, info.mtime_ns) and remote.get(name, folder / name):
            os.utime(folder / name, ns=(info.mtime_ns, info.mtime_ns))
    for name in sorted(kept_in(folder) - there.keys()):  # of a checkpoint that went its checksum before its state
        if states or not name.endswith(STATE) or not (folder / name).with_name(CHECKSUM).exists():
            (folder / name).unlink(missing_ok=True)
            with suppress(OSError):
                (folder / name).parent.rmdir()


def is_kept(name: str) -> bool:
    """Whether this file of a record is part of it: not a lock, nor what can be made again."""
    parts = name.split("/")
    made = parts[0] != CHECKPOINTS if len(parts) > 1 else name.endswith(".journal")
    return not made and not any(part.startswith(".") for part in parts)


def kept_in(folder: Path) -> set[str]:
    """The names of a record's files in `folder`."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return {name for name in names if is_kept(name)}


def mark_of(path: Path) -> tuple[int, int] | None:
    """Changes when the file is written; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


@contextmanager
def following(folder: Path) -> Iterator[None]:
    """Keeps the copy of a record up to date while the run inside is trained, and brings its end."""
    uri = copied_from(folder)
    if uri is None:
        yield
        return
    ended = threading.Event()
    follower = threading.Thread(target=_follow, args=(Remote(uri), folder, ended), daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()
        with suppress(Away):  # who reads it fetches it again, and says so
            patiently(lambda: bring(Remote(uri), folder, states=False))


def _follow(remote: Remote, folder: Path, ended: threading.Event) -> None:
    while not ended.wait(FETCH_EVERY_S):
        with suppress(Away):
            bring(remote, folder, states=False)
