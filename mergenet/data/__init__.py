"""Data sets by name: real images in memory as bytes, and streams of batches from them."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from mergenet.config import InputError, nearest
from mergenet.data import cifar100, digits
from mergenet.data.images import Images

DATA: dict[str, Callable[[Path | None], Images]] = {"digits": digits.load, "cifar100": cifar100.load}


def load_data(names: set[str], paths: Mapping[str, str]) -> dict[str, Images]:
    """The data sets `names`, each read from its path in `paths` (name -> folder).

    Raises:
        InputError: an unknown name, a missing or unreadable folder or file.
    """
    for name in sorted({*names, *paths}):
        if name not in DATA:
            raise InputError(f"no data '{name}'; {nearest(name, DATA)}")
    return {name: _load(name, paths.get(name)) for name in sorted(names)}


@lru_cache(maxsize=4)
def _load(name: str, path: str | None) -> Images:
    """Once a process: a driver that checks a run and then trains it reads the files once."""
    return DATA[name](Path(path) if path else None)
