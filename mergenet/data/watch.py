"""How long work is watched, by whoever shows it to a user."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Watch(Protocol):
    """Passes items on while it tells how many of them are done."""

    def __call__(self, items: Iterable[T], total: int, doing: str) -> Iterable[T]:
        """`items`, of which there are `total`, for work called `doing`."""


def unwatched(items: Iterable[T], total: int, doing: str) -> Iterable[T]:
    """Tells nobody."""
    return items
