"""What `mergenet sweep --dry-run` prints: the space, what of it can run, and how trials fit here."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mergenet.cli.show import print_table, printed
from mergenet.training.files import shown

if TYPE_CHECKING:
    from tune.search.plan import Pairing, Room, SweepPlan
    from tune.search.sweep import Floats, Ints, Values

REASONS = 5


def print_sweep(plan: "SweepPlan", room: "Room") -> None:
    """All that can be said before a trial runs."""
    sweep = plan.sweep
    printed(f"{sweep.name}: {sweep.title}\n")
    print_table(
        ("path", "what it may be"), (), [(path, _range(dimension)) for path, dimension in plan.space.dimensions.items()]
    )
    for transfer, pairing in plan.pairings.items():
        printed("\n".join(_pairs(transfer, pairing)))
    sought = ", ".join(f"{objective} ({better} is better)" for objective, better in sweep.objectives.items())
    plain = sweep.dump()
    budget = f"{sweep.budget.trials} trials" + (f", {sweep.budget.hours:g} hours" if sweep.budget.hours else "")
    printed(
        f"objectives {sought}; sampler {_word(plain['sampler'])}, scheduler {_word(plain['scheduler'])}, "
        f"seed {sweep.seed}\n{budget}; {room.why}\nwould be recorded in {shown(plan.folder)}"
    )


def _pairs(transfer: str, pairing: "Pairing") -> Iterator[str]:
    met, out = len(pairing.meet), len(pairing.left_out)
    yield f"transfers.{transfer}: {met} pair{'s'[: met - 1]} of ports, {out} left out"
    for reason, count in Counter(pairing.left_out.values()).most_common(REASONS):
        yield f"  {count} x {reason}"


def _range(dimension: "Ints | Floats | Values") -> str:
    from tune.search.sweep import Ints, Values, label_of

    if isinstance(dimension, Values):
        labels = [str(label_of(value)) for value in dimension.of]
        few = labels if len(labels) <= 8 else [*labels[:5], "...", labels[-1]]
        return ", ".join(few) + ("" if few == labels else f" ({len(labels)})")
    step = f" in steps of {dimension.step}" if isinstance(dimension, Ints) and dimension.step > 1 else ""
    return f"{dimension.low:g} to {dimension.high:g}{step}{', by its logarithm' if dimension.log else ''}"


def _word(option: dict[str, dict[str, object]]) -> str:
    """An option as `name(key value, ...)`."""
    ((name, values),) = option.items()
    return name + (f"({', '.join(f'{key} {value}' for key, value in values.items())})" if values else "")
