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
    return {name: _load(name, paths.get(name)) for name in sorted(names)}


@lru_cache(maxsize=4)
def _load(name: str, path: str | None) -> Images:
    """Once a process: a driver that checks a run and then trains it reads the files once."""
    if name == digits.NAME:
        return digits.load(Path(path) if path else None)
    if path is None:
        raise without_folder(name)
    return find_data_set(name, Path(path)).read()
