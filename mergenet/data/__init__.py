"""Data sets by name: real images in memory as bytes, and streams of batches from them."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from mergenet.data import digits
from mergenet.data.catalogue import find_data_set, locate, without_folder
from mergenet.data.images import Images

__all__ = ["load_data", "locate"]


def load_data(names: set[str], paths: Mapping[str, str]) -> dict[str, Images]:
    """The data sets `names`, each read from its path in `paths` (name -> folder).

    Raises:
        InputError: a name without a path, a missing or unreadable folder or file.
    """
    return {name: _load(name, paths.get(name), _stamp(paths.get(name))) for name in sorted(names)}


def _stamp(path: str | None) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files in a folder: those of others are others."""
    files = sorted(Path(path).glob("*")) if path else []
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@lru_cache(maxsize=4)
def _load(name: str, path: str | None, stamp: tuple[tuple[str, int, int], ...]) -> Images:
    """Once a process: a driver that checks a run and then trains it reads the files once."""
    if name == digits.NAME:
        return digits.load(Path(path) if path else None)
    if path is None:
        raise without_folder(name)
    return find_data_set(name, Path(path)).read()
