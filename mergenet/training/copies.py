"""Copies of records that are kept in an object store, for whoever reads them here.

They lie in a folder of runs like any other, which says in `.mergenet-remote` what it is a copy of. What reads a record
fetches it first, which does nothing to a record that is no copy; the states in checkpoints, its large part, come when
they are asked for.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mergenet.config import InputError, digest
from mergenet.training.files import CHECKSUM, REMOTE, STATE, copied_from, read_result, replacing
from mergenet.training.remote import Away, Remote, patiently

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo

CHECKPOINTS, RESULT = "checkpoints", "result.json"
KEPT = {"experiment.json", "manifest.json", "metrics.jsonl", RESULT, "sweep.json", "trials.jsonl"}
"""Files of a record or a sweep, beside checkpoints; all else can be made again."""
WEIGHTS = "weights"
"""Folder in that of all runs: weights that one run hands to another."""
PROBE = ".mergenet-probe"
FETCH_EVERY_S = 5.0


# --- where they lie ----------------------------------------------------------------------------------------------


def runs_here(runs: str | Path) -> Path:
    """The folder of runs on this machine: the one named, or the copy of the one that a URI names.

    Raises:
        InputError: no such kind of store, or a URI that holds a key.
    """
    if not _is_uri(runs):
        return Path(runs)
    uri = _checked(str(runs), "s3://BUCKET/FOLDER", parts=1)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "mergenet" / f"{urlsplit(uri).netloc}-{digest(uri)[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if copied_from(folder) != uri:
            with replacing(folder / REMOTE) as aside:
                aside.write_text(f"{uri}\n")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}; set XDG_CACHE_HOME") from None
    return folder


def record_here(record: str | Path) -> Path:
    """The folder of a record or a sweep on this machine: the one named, or the copy of the one that a URI names.

    A copy is fetched.

    Raises:
        InputError: no such kind of store, a URI that holds a key, or a store that cannot be reached.
    """
    if _is_uri(record):
        uri = Remote(_checked(str(record), "s3://BUCKET/FOLDER/NAME/HASH-sSEED", parts=3))
        name, folder = urlsplit(uri.uri).path.split("/")[-2:]
        record = runs_here(uri.above().above().uri) / name / folder
    uri_of = copied_from(Path(record))
    if uri_of is not None:
        with refusing(uri_of):
            bring(Remote(uri_of), Path(record), states=False)
    return Path(record)


def _is_uri(named: str | Path) -> bool:
    """Whether this is meant for one: a `Path` of a URI has one slash, and so has a slip."""
    return "://" in str(named) or str(named).startswith("s3:")


def _checked(uri: str, form: str, parts: int) -> str:
    """`uri` in one way of writing, with at least so many parts below its bucket; it is not said where it is refused."""
    try:
        found = urlsplit(uri)
    except ValueError:
        raise InputError(f"{uri}: no URI; write {form}") from None
    if "@" in found.netloc or "@" in found.path:
        raise InputError("a URI is shown and recorded: leave its key out, and set AWS_ACCESS_KEY_ID and its fellows")
    below = [part for part in found.path.split("/") if part]
    if found.scheme != "s3" or not found.netloc or len(below) < parts:
        raise InputError(f"{uri}: write a folder, or {form}")
    return found._replace(path=f"/{'/'.join(below)}", fragment="").geturl()


# --- bringing them -----------------------------------------------------------------------------------------------


def fetch(folder: Path, states: bool = False) -> None:
    """Brings the copy of a record or a sweep up to date; other folders are left alone.

    Args:
        states: also the large part of its checkpoints.

    Raises:
        Away: the store cannot be reached, not even after a while.
    """
    uri = copied_from(folder)
    if uri is not None:
        patiently(lambda: bring(Remote(uri), folder, states))


def fetch_all(runs: Path) -> Path:
    """Brings the copies of all records and sweeps up to date, without the states of their checkpoints; `runs` again.

    Raises:
        InputError: the store cannot be reached.
    """
    uri = copied_from(runs)
    if uri is not None:
        with refusing(uri):
            remote = Remote(uri)
            here = {path.parent.relative_to(runs).as_posix() for path in runs.glob("*/*/*.json")}
            there: dict[str, dict[str, FileInfo]] = {record: {} for record in here}
            files_there = remote.files()
            for name, info in files_there.items():
                experiment, _, rest = name.partition("/")
                record, below, file = rest.partition("/")
                if below:
                    there.setdefault(f"{experiment}/{record}", {})[file] = info
            for record, files in sorted(there.items()):
                _bring(remote.at(record), runs / record, files, states=False)
            for path in runs.glob(f"{WEIGHTS}/*"):
                if f"{WEIGHTS}/{path.name}" not in files_there:  # whoever needs them would not find them there
                    path.unlink()
    return runs


def bring(remote: Remote, folder: Path, states: bool) -> list[str]:
    """Makes the files of a record in `folder` those of `remote`; what is the same by size and time is left alone.

    Returns:
        What of it is there and was left, states too that were not asked for.

    Raises:
        Away: the store cannot be reached.
    """
    return _bring(remote, folder, remote.files(), states)


def _bring(remote: Remote, folder: Path, files: Mapping[str, "FileInfo"], states: bool) -> list[str]:
    kept = {name: info for name, info in files.items() if is_kept(name)}
    # a checkpoint is there when its checksum is, which is pushed last
    there = {
        name: info
        for name, info in kept.items()
        if not name.endswith(STATE) or (states and name.replace(STATE, CHECKSUM) in kept)
    }
    for name, info in there.items():
        if mark_of(folder / name) != (info.size, info.mtime_ns) and remote.get(name, folder / name):
            os.utime(folder / name, ns=(info.mtime_ns, info.mtime_ns))
    for name in sorted(kept_in(folder) - there.keys()):  # of a checkpoint that went its checksum before its state
        if states or not name.endswith(STATE) or not (folder / name).with_name(CHECKSUM).exists():
            (folder / name).unlink(missing_ok=True)
            with suppress(OSError):
                (folder / name).parent.rmdir()
    return sorted(kept.keys() - there.keys())


def result_of(folder: Path, uri: str | None) -> dict[str, Any] | None:
    """How the run ended whose record is kept there, or in `folder`; None while it runs, or when it was killed.

    Raises:
        Away: the store cannot be reached.
    """
    if uri is None:
        return read_result(folder)
    content = patiently(lambda: Remote(uri).read(RESULT))
    return None if content is None else json.loads(content)


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


def is_kept(name: str) -> bool:
    """Whether this file is part of a record or a sweep: not a lock, nor what can be made again."""
    folder, _, file = name.rpartition("/")
    if not folder:
        return file in KEPT
    return folder.startswith(f"{CHECKPOINTS}/") and not any(part.startswith(".") for part in name.split("/"))


def kept_in(folder: Path) -> set[str]:
    """The names of a record's files in `folder`."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
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
            fetch(folder)


def _follow(remote: Remote, folder: Path, ended: threading.Event) -> None:
    while not ended.wait(FETCH_EVERY_S):
        with suppress(Away):
            bring(remote, folder, states=False)
