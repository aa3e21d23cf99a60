"""What a report says of a sweep, in words that every format shares."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import stdev

from tune.report.numbers import decimals
from tune.report.sweep import remarks
from tune.report.sweep.importance import Importance, importance_of
from tune.report.sweep.names import written
from tune.report.sweep.outcome import Outcome
from tune.search.ledger import Trial
from tune.search.sweep import COST

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows beneath heads, the first column in words."""

    heads: Row
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Again:
    """How a trial of the table is run again."""

    number: int
    run: str
    record: Path
    command: str


@dataclass(frozen=True)
class Ended:
    """The trials of a state that is not finished.

    Attributes:
        reasons: why, and which trials, with the last figure of each where there is one.
    """

    title: str
    reasons: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Findings:
    """A report in words.

    Attributes:
        about: name, scale, objectives, and how it was searched.
        facts: how many trials there are, what was not tried, and which trials are no equals of the others.
        space: short name, path and range of each parameter.
        best: the best trials, or the Pareto front; `again` runs each of them again.
        ended: the others.
        importance: by parameter; without rows where nothing can be said, which its notes say.
    """

    title: str
    about: str
    facts: tuple[str, ...]
    warning: str
    space: Table
    best_title: str
    best_note: str
    best: Table
    again: tuple[Again, ...]
    ended: tuple[Ended, ...]
    importance: Table
    importance_notes: tuple[str, ...]
    made_with: str


def findings_of(outcome: Outcome) -> Findings:
    """Everything a report says of a sweep."""
    importance, log = importance_of(outcome), outcome.log
    return Findings(
        title=log.sweep.title,
        about=remarks.about(outcome),
        facts=(
            remarks.counts(outcome),
            *remarks.not_tried(outcome),
            *remarks.cost_note(outcome),
            *remarks.other_workers(outcome),
        ),
        warning=remarks.warning(outcome),
        space=Table(("parameter", "path", "may be"), tuple(remarks.space_rows(outcome))),
        best_title="Pareto front" if len(outcome.objectives) > 1 else "Best trials",
        best_note=remarks.best_note(outcome),
        best=_best(outcome),
        again=tuple(Again(one.number, one.run, log.record(one), log.command(one)) for one in outcome.best),
        ended=tuple(_ended(outcome)),
        importance=_importance(outcome, importance),
        importance_notes=tuple(remarks.importance_notes(outcome, importance)),
        made_with=remarks.made_with(outcome),
    )


def _best(outcome: Outcome) -> Table:
    paths = [path for path in outcome.space.dimensions if any(path in trial.point for trial in outcome.best)]
    heads = ("trial", *outcome.objectives, *(outcome.names[path] for path in paths), "run")
    return Table(heads, tuple(_row(outcome, trial, paths) for trial in outcome.best))


def _row(outcome: Outcome, trial: Trial, paths: list[str]) -> Row:
    values = [figure(outcome, value, each) for value, each in zip(trial.values or (), outcome.objectives, strict=True)]
    point = [written(trial.point[path]) if path in trial.point else remarks.DASH for path in paths]
    mark = remarks.OTHER_WORKERS if trial.number in outcome.other_workers else ""
    return (f"{trial.number}{mark}", *values, *point, trial.run)


def figure(outcome: Outcome, value: float, objective: str) -> str:
    """A value of an objective, with the digits that the spread of the finished trials deserves."""
    if objective == COST:
        return f"{value:,.0f}"
    values = list(outcome.final(objective).values())
    return f"{value:.{decimals([stdev(values)] if len(values) > 1 else [])}f}"


def _ended(outcome: Outcome) -> Iterator[Ended]:
    for state, title in remarks.STATES.items():
        trials = [trial for trial in outcome.trials if trial.state == state]
        by_reason = groupby(sorted(trials, key=_reason), key=_reason)
        reasons = [(reason, list(found)) for reason, found in by_reason]
        reasons.sort(key=lambda each: each[1][0].number)
        if trials:
            listed = tuple((reason, ", ".join(_named(outcome, one) for one in found)) for reason, found in reasons)
            yield Ended(f"{title[0].upper()}{title[1:]}", listed)


def _reason(trial: Trial) -> str:
    return trial.reason or "no reason noted" if trial.state != "running" else "not ended yet"


def _named(outcome: Outcome, trial: Trial) -> str:
    last = outcome.value(trial, outcome.chief)
    return str(trial.number) if last is None else f"{trial.number} (last {figure(outcome, last, outcome.chief)})"


def _importance(outcome: Outcome, importance: Importance) -> Table:
    objectives = [objective for objective, shares in importance.shares.items() if shares]
    if not objectives:
        return Table(("parameter",), ())
    paths = list(outcome.space.dimensions)
    first = importance.shares[objectives[0]]
    paths.sort(key=lambda path: -first.get(path, -1.0))
    rows = [(outcome.names[path], *(_share(importance, path, each) for each in objectives)) for path in paths]
    return Table(("parameter", *objectives), tuple(rows))


def _share(importance: Importance, path: str, objective: str) -> str:
    share = importance.shares[objective].get(path)
    return remarks.DASH if share is None else f"{share:.2f}"
