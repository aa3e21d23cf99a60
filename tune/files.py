"""The files of a record, and what MLflow is told of them."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mergenet.config import digest
from mergenet.training.files import parse_line, read_json


def check_record(folder: Path) -> None:
    """Raises:
    InputError: the folder holds no record, or a broken one.
    """
    for name in ("experiment.json", "manifest.json"):
        read_json(folder / name)


class Lines:
    """The lines of a growing file that were not read before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> list[dict[str, Any]]:
        """Whole lines only: the last one may be half written. What is no JSON is left out, as a resume would.

        A file that was cut back is waited for: a resumed run writes the same lines again.
        """
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _half = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [value for line in whole.splitlines() if (value := parse_line(line)) is not None]


# --- as MLflow has it --------------------------------------------------------------------------------------------


def params(experiment: Mapping[str, Any]) -> dict[str, str]:
    """The experiment as dotted path -> text; what all learners have in common of `training` stands there once."""
    flat = dict(_flat(experiment, ""))
    learners = list(experiment["learners"])
    first = f"learners.{learners[0]}.training."
    for path in [path.removeprefix(first) for path in flat if path.startswith(first)]:
        each = [f"learners.{name}.training.{path}" for name in learners]
        if len({flat.get(key) for key in each}) == 1:
            flat[f"training.{path}"] = flat[each[0]]
            for key in each:
                del flat[key]
    return flat


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def tags_of(manifest: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """What a record is found by."""
    tags = {
        "run": "{hash}-s{seed}-{world_size}x{device}-t{threads}".format(**manifest),
        "folder": folder.name,
        **{key: manifest[key] for key in ("hash", "seed", "commit", "world_size", "device", "threads")},
        **{f"cell.{learner}": key for learner, key in manifest["cells"].items()},
        **{f"data.{name}": data["digest"] for name, data in manifest["data"].items()},
    }
    return {f"mergenet.{key}": str(value) for key, value in tags.items() if value is not None}


def milliseconds(path: Path) -> int:
    """When a file was last written."""
    return path.stat().st_mtime_ns // 1_000_000


def hash_of(files: list[Path]) -> str:
    """Changes when a name or a byte of the files does."""
    return digest([[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])
