"""Where a command's runs happen: on this machine, or on a cluster that it joins."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def address_option(command: Command) -> Command:
    """`--address`, which Ray says to the jobs that it starts."""
    return click.option(
        "--address",
        envvar="RAY_ADDRESS",
        metavar="HOST:PORT",
        help="Runs on the cluster with this head; this machine is one of its nodes.  [default: this machine alone]",
    )(command)


def address_words(address: str | None) -> list[str]:
    """What to type to run there again."""
    return [] if address is None else ["--address", address]


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Inside, runs happen on the cluster at `address`; on this machine where that is None."""
    if address is None:
        yield
        return
    from cluster.session import session

    with session(address=address):
        yield


def device_there(address: str | None, device: Any) -> str:
    """`auto` as cuda where there is a GPU, else as cpu; inside of `joined`."""
    if address is None:
        from mergenet.jobs import resolve_device

        return resolve_device(device)
    from cluster.session import resolve

    return resolve(device)
