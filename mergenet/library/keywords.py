"""The options of a transfer as keywords."""

from typing import Any, Literal, TypedDict

from mergenet.config import Choice, InputError, Options, parse
from mergenet.method.layout import Flattening
from mergenet.method.matching import Match
from mergenet.method.options import TransferOptions
from mergenet.method.upkeep import Policy
from mergenet.optimization import Constant

Chosen = str | dict[str, Any] | Options
"""One of several options: a word (`whole`), a map with one key (`{"svd": {"rank": 4}}`), or the options themselves.

An adapter and an encoding may be of a class that is not listed: the user's own.
"""


class Keywords(TypedDict, total=False):
    """The options of a transfer by their names; `TransferOptions` says what each means, and has the defaults."""

    control: Literal["none", "shuffled", "initial", "own"]
    flattening: Flattening
    bias: bool
    encoding: Chosen
    adapter: Chosen
    match: Match
    blend: float
    optimizer_state: Policy
    batchnorm: Policy
    turn: int
    cycle: int
    start: float
    stop: float
    span: Literal["step", "cycle"]
    update: Literal["delta", "loss"]
    optimizer: Chosen
    schedule: Chosen
    clip: float
    enabled: bool


def read_options(rank: int | None, steps: int | None, given: dict[str, Any]) -> TransferOptions:
    """What a transfer does.

    Args:
        rank: of the encoding `svd`, in place of `encoding`.
        steps: ticks of the whole run, if known.
        given: `Keywords`.

    Raises:
        InputError: an unknown option, a value that does not fit, or two that do not go together.
    """
    if rank is not None and "encoding" in given:
        raise InputError("rank: is that of the encoding 'svd', and `encoding` is given; leave one of them out")
    if rank is not None:
        given["encoding"] = {"svd": {"rank": rank}}
    if steps is None:
        given = {"schedule": "constant", **given}
    elif isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps: ticks of the whole run, a whole number above 0, got {steps!r}")
    own = {name: given.pop(name) for name in ("adapter", "encoding") if _is_own(name, given.get(name))}
    options = parse(TransferOptions, {**given, "from": "source.port", "to": "target.port"}).model_copy(update=own)
    if options.control == "random":
        raise InputError("control: 'random' is a source that is built anew; pass one as `source`, and leave it out")
    shares = {
        "schedule": isinstance(options.schedule, Constant),
        "start": options.start == 0,
        "stop": options.stop == 1,
    }
    for name, whole in shares.items():
        if steps is None and not whole:
            raise InputError(f"{name}: is told in shares of the run; say how many ticks that has, steps=10_000")
    return options


def _is_own(name: str, value: Any) -> bool:
    """Whether it is options of a class that a file cannot name."""
    choice = next(mark for mark in TransferOptions.model_fields[name].metadata if isinstance(mark, Choice))
    return isinstance(value, Options) and not choice.lists(value)
