"""The sentences around a sweep: what it was, how far to believe it, and what importance is."""

import re
from collections import Counter
from collections.abc import Iterable

from mergenet.config import in_line
from tune.report.sweep.importance import LEAST, Importance
from tune.report.sweep.names import written
from tune.report.sweep.outcome import Outcome
from tune.search.ledger import State
from tune.search.sweep import COST, Asha, Floats, Ints, Nsga2, Tpe, Values, label_of

STATES: dict[State, str] = {
    "stopped": "stopped early",
    "diverged": "diverged",
    "failed": "failed",
    "running": "still running",
}
COMMONEST = 3
DASH = "\N{EN DASH}"
OTHER_WORKERS = "\N{DAGGER}"
MOST_LISTED = 6
"""Values of a parameter that are all named."""


def about(outcome: Outcome) -> str:
    """Name, scale, objectives, sampler, scheduler, seed."""
    sweep, plain = outcome.log.sweep, outcome.log.sweep.dump()
    scale = f" at scale {sweep.scale}" if sweep.scale else ""
    goals = " and ".join(f"{objective} ({better} is better)" for objective, better in sweep.objectives.items())
    return (
        f"{sweep.name}: a search around {sweep.experiment}{scale} for {goals}. "
        f"Sampler: {label_of(plain['sampler'])}. Scheduler: {label_of(plain['scheduler'])}. "
        f"Seed of every trial: {sweep.seed}."
    )


def counts(outcome: Outcome) -> str:
    """How many trials there are of each state."""
    found = {"finished": len(outcome.finished), **{STATES[state]: len(outcome.of(state)) for state in STATES}}
    said = ", ".join(f"{number} {state}" for state, number in found.items() if number or state == "finished")
    return f"{many(len(outcome.trials), 'trial')} begun, of {outcome.log.sweep.budget.trials}: {said}."


def warning(outcome: Outcome) -> str:
    """That no claim follows, and what would make one."""
    name = outcome.log.sweep.name
    if not outcome.finished:
        return "No trial has finished yet: there is nothing to conclude."
    return (
        f"No claim follows from these figures: they are of the validation split and of one seed. The best of "
        f"{many(len(outcome.finished), 'trial')} is also the luckiest, so its figure is too good (winner's curse). "
        f"`mergenet sweep --resume {name} --confirm 6` trains the winner again on fresh seeds against no transfer, and "
        f"only then reads the test split."
    )


def many(number: int, what: str) -> str:
    """A number of things."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# --- what was not tried ------------------------------------------------------------------------------------------


def not_tried(outcome: Outcome) -> Iterable[str]:
    """Points that were refused, and pairs of ports that were left out, with the commonest reasons."""
    refused = [str(event["reason"]) for event in outcome.log.events if event["event"] == "refused"]
    if refused:
        yield f"{many(len(refused), 'point')} drawn but refused: {_commonest(refused)}."
    left_out = [reason for pairs in outcome.log.left_out.values() for reason in pairs.values()]
    if left_out:
        yield f"{many(len(left_out), 'pair')} of ports left out before the search: {_commonest(left_out)}."


def _commonest(reasons: list[str]) -> str:
    """Reasons that differ in numbers alone count as one, told by the first of them."""
    alike = [re.sub(r"\d+", "0", reason) for reason in reasons]
    first = {kind: reason for kind, reason in reversed(list(zip(alike, reasons, strict=True)))}
    found = Counter(alike).most_common()
    said = [f"{number} x {first[kind]}{_and_alike(kind, reasons, alike)}" for kind, number in found[:COMMONEST]]
    others = sum(number for _, number in found[COMMONEST:])
    return "; ".join([*said, *([f"{others} for other reasons"] if others else [])])


def _and_alike(kind: str, reasons: list[str], alike: list[str]) -> str:
    same = {reason for reason, each in zip(reasons, alike, strict=True) if each == kind}
    return " (or another number)" if len(same) > 1 else ""


# --- the rest ----------------------------------------------------------------------------------------------------


def best_note(outcome: Outcome) -> str:
    """What the table of the best holds."""
    if len(outcome.objectives) > 1:
        return f"All finished trials that no other beats in both objectives, by {outcome.objectives[0]}."
    return f"Of {many(len(outcome.finished), 'finished trial')}, best first; no other trials are among them."


def cost_note(outcome: Outcome) -> Iterable[str]:
    """What the objective that no run measures is."""
    if COST in outcome.objectives:
        yield f"{COST}: the numbers in the adapters of all transfers, known before a run."


def other_workers(outcome: Outcome) -> Iterable[str]:
    """Trials that are no equals of the others: trained by another number of workers, or by one that changed."""
    told = [f"{number} ({workers})" for number, workers in outcome.other_workers.items()]
    if told:
        usual = many(outcome.log.setting.workers, "worker")
        yield f"{OTHER_WORKERS} Not trained by {usual} throughout, as the others: trials {', '.join(told)}."


def importance_notes(outcome: Outcome, importance: Importance) -> Iterable[str]:
    """What the shares are, and what they are not."""
    if not any(importance.shares.values()):
        yield _no_importance(importance)
        return
    yield (
        f"PED-ANOVA on {importance.finished} finished trials: how differently the {importance.top} best of them and "
        "all of them are spread over a parameter, as a share of the sum. It says what tells the top from the rest "
        "among the points that were sampled. It is no cause, and it says neither which value is better nor what two "
        "parameters do together."
    )
    yield "With few trials to a value, as of ports, a parameter looks important by chance."
    if isinstance(outcome.log.sweep.sampler, Tpe | Nsga2):
        yield (
            "This sampler goes where it was good before, which biases the shares: `sampler=random` or `sampler=qmc` is "
            "what to measure them on."
        )
    if isinstance(outcome.log.sweep.scheduler, Asha):
        yield "Trials that were stopped early do not count, so the shares are of those that survived."
    if any(shares.keys() != outcome.space.dimensions.keys() for shares in importance.shares.values()):
        yield f"{DASH}: only one value among the finished trials, or none."


def _no_importance(importance: Importance) -> str:
    if importance.finished < LEAST:
        return f"Not computed: it takes {LEAST} finished trials to say anything, and there are {importance.finished}."
    return "Not computed: the finished trials do not differ in their points, or their values do not differ."


def made_with(outcome: Outcome) -> str:
    """Versions and hardware of the driver."""
    found = outcome.log.made_with.items()
    known = {name: value if isinstance(value, str) else in_line(value) for name, value in found if value is not None}
    said = [f"{name} {value}" for name, value in known.items()]
    return f"Made with {', '.join(said)}." if said else ""


def space_rows(outcome: Outcome) -> Iterable[tuple[str, str, str]]:
    """(short name, path, what it may be) of every parameter."""
    for path, dimension in outcome.space.dimensions.items():
        yield outcome.names[path], path, _range(dimension)


def _range(dimension: Ints | Floats | Values) -> str:
    if isinstance(dimension, Values):
        labels = [written(label_of(value)) for value in dimension.of]
        return ", ".join(labels) if len(labels) <= MOST_LISTED else f"{len(labels)} values, {labels[0]} to {labels[-1]}"
    said = f"{written(dimension.low)} to {written(dimension.high)}"
    step = dimension.step if isinstance(dimension, Ints) else 1
    return said + (f" in steps of {step}" if step > 1 else "") + (", by its logarithm" if dimension.log else "")
