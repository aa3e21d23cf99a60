"""Short names of an experiment's paths, and values as text."""

from collections.abc import Iterable
from typing import Any

LONGEST = 30
"""Letters of a label in a plot."""


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Path -> its shortest tail that no other path ends with, in whole words."""
    words = {path: path.split(".") for path in paths}
    return {path: _shortest(path, words) for path in words}


def _shortest(path: str, words: dict[str, list[str]]) -> str:
    own, others = words[path], [other for each, other in words.items() if each != path]
    for length in range(1, len(own)):
        tail = own[-length:]
        if not any(other[-length:] == tail for other in others):
            return ".".join(tail)
    return path


def written(value: Any) -> str:
    """A value of a point, as a reader would write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.3g}"
    return "none" if value is None else str(value)


def in_plot(label: str) -> str:
    """A label short enough for an axis: a long one loses its middle."""
    line = " ".join(label.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]}\N{HORIZONTAL ELLIPSIS}{line[-LONGEST // 3 :]}"
