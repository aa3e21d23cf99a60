"""Progress of a command on standard error: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterable
from typing import TypeVar

import click

T = TypeVar("T")

LINE_EVERY_S = 10.0


def watched(items: Iterable[T], total: int, doing: str) -> Iterable[T]:
    """`items`, of which there are `total`, while a user sees how many are done."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if console.is_terminal:
        return track(items, doing, total, console=console, transient=True)
    return _told(items, total, doing)


def _told(items: Iterable[T], total: int, doing: str) -> Iterable[T]:
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            click.echo(f"{doing}: {100 * done // total} %", err=True)
        yield item
