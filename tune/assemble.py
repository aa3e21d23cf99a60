"""From finished runs to a table: figures by seed, checked to be whole and paired, and compared."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from mergenet.config import InputError
from mergenet.training.files import in_turn, shown, world_sizes
from tune.cells import TablePlan
from tune.evidence import Evidence
from tune.results import Entry, Figure, Protocol, Results
from tune.scale import Changes
from tune.statistics import LEVEL, Comparison, adjust, compare, is_screening, sign_flip_p
from tune.table import HELD, paper_figures

PROTOCOLS: dict[Protocol, Changes] = {
    "last": {},
    "best": {"evaluation.weights": "best"},
    "best-test": {"evaluation.test": "always"},
}
"""What each protocol changes in every arm."""


def shows(evidence: Evidence, protocol: Protocol) -> bool:
    """Whether a finished run has the figures of a protocol: those of the test split, at the end or of every epoch."""
    measured = evidence.experiment["evaluation"].get("test")
    return measured == "always" if protocol == "best-test" else measured != "never"


def assemble(
    plan: TablePlan, evidence: Mapping[str, Evidence], protocol: Protocol, command: str, without_seeds: str
) -> Results:
    """The table as far as its runs have finished.

    Args:
        evidence: key of a cell -> the finished run it is in.
        command: makes the table.
        without_seeds: the same before it says which seeds; with an arm and a seed it repeats a cell.

    Raises:
        InputError: a record that was changed since, or two that should be paired and are not.
    """
    keys = plan.cells()
    used = {cell: evidence[key] for cell, key in keys.items() if key in evidence}
    for one in {(one.place, one.name): one for one in used.values()}.values():
        one.check()
    _check_paired(plan, used)
    reader = _Reader(plan, used, protocol, without_seeds)
    entries = {(arm, column): reader.entry(arm, column) for arm in plan.table.arms for column in plan.table.columns}
    entries = _compared(plan, entries)
    family = [place for place in entries if entries[place].primary and _is_compared(plan, entries, place)]
    pairs = (len(paired.differences) if (paired := entries[place].comparison) else 0 for place in family)
    made_with, mixed = _surroundings(used.values())
    return Results(
        table=plan.table,
        scale=plan.scale,
        about=plan.table.scale(plan.scale).about,
        protocol=protocol,
        seeds=plan.seeds,
        entries=_ranked(plan, entries),
        held=plan.held(),
        family=len(family),
        screening=is_screening(min(pairs, default=0), max(len(family), 1)),
        notes=(*_missing(plan, used), *mixed),
        made_with=made_with,
        command=command,
    )


# --- checked -----------------------------------------------------------------------------------------------------


def _check_paired(plan: TablePlan, used: Mapping[tuple[str, str, int], Evidence]) -> None:
    """An arm and its baseline began with equal weights and saw the same first batch, seed by seed."""
    keys = plan.cells()
    for cell, one in used.items():
        arm, learner, seed = cell
        baseline = plan.table.baseline_of(arm)
        if baseline is None or (baseline, learner, seed) not in used:
            continue
        other = used[baseline, learner, seed]
        ours = one.manifest["pairing"][one.learner_of(keys[cell])]
        theirs = other.manifest["pairing"][other.learner_of(keys[baseline, learner, seed])]
        for what, digest in ours.items():
            if digest != theirs[what]:
                raise InputError(
                    f"table {plan.table.name}: arms {arm} and {baseline} are not paired in seed {seed}: {learner} has "
                    f"{what.replace('_', ' ')} {digest[:8]} in {_place(one)} and {theirs[what][:8]} in {_place(other)}"
                )


def _place(evidence: Evidence) -> str:
    place = shown(evidence.place.absolute())
    return place if evidence.folder is not None else f"{place} ({evidence.name})"


# --- read off ----------------------------------------------------------------------------------------------------


class _Reader:
    """Entries of a table from its finished runs."""

    def __init__(
        self, plan: TablePlan, used: Mapping[tuple[str, str, int], Evidence], protocol: Protocol, command: str
    ) -> None:
        self._plan = plan
        self._used = used
        self._protocol = protocol
        self._command = command
        self._keys = plan.cells()
        self._paper = paper_figures(plan.table)
        self._usual = _usual_workers(used.values())

    def entry(self, arm: str, column: str) -> Entry:
        """What an arm came to in a column."""
        learner, _, metric = column.partition(".")
        paper = self._paper.get(arm, {}).get(column)
        if metric == HELD:
            return Entry({}, paper)
        cells = {seed: (arm, learner, seed) for seed in self._plan.seeds if (arm, learner, seed) in self._used}
        figures = {seed: self._figure(cell, metric) for seed, cell in cells.items()}
        named = self._plan.table.primary
        return Entry(
            figures,
            paper,
            trains=(arm, learner, self._plan.seeds[0]) in self._keys,
            same_as=self._same_as(arm, learner),
            primary=not named or f"{arm} {column}" in named,
            notes=tuple(self._notes(figures, cells)),
        )

    def _same_as(self, arm: str, learner: str) -> str | None:
        """The first arm before this one whose cells are these."""
        for other in self._plan.table.arms:
            if other == arm:
                return None
            ours, theirs = (
                [self._keys.get((name, learner, seed)) for seed in self._plan.seeds] for name in (arm, other)
            )
            if ours == theirs and ours[0] is not None:
                return other
        return None

    def _figure(self, cell: tuple[str, str, int], metric: str) -> Figure:
        evidence, key = self._used[cell], self._keys[cell]
        learner = evidence.learner_of(key)
        lines = [line for line in evidence.metrics if line["learner"] == learner and line["metric"] == metric]
        task = self._plan.arms[cell[0]].experiment.learners[cell[1]].trained_task
        return Figure(
            value=self._value(evidence, learner, metric, task.selects),
            run=evidence.name,
            folder=None if evidence.folder is None else shown(evidence.folder.absolute()),
            learner=learner,
            command=f"{self._command} --arm {cell[0]} --seed {cell[2]} --runs again --results again",
            curve=tuple((line["epoch"], line["value"]) for line in lines if line["split"] == "validation"),
        )

    def _value(self, evidence: Evidence, learner: str, metric: str, selects: str) -> float | None:
        ended = evidence.result["learners"][learner]
        if ended["diverged_at"] is not None:
            return None
        if self._protocol != "best-test":
            return float(ended["test"][metric])
        return _best_on_test(evidence, learner, selects)[metric]

    def _notes(self, figures: Mapping[int, Figure], cells: Mapping[int, tuple[str, str, int]]) -> list[str]:
        diverged = [str(seed) for seed, figure in figures.items() if figure.value is None]
        notes = [f"diverged in seed{'s'[: len(diverged) - 1]} {', '.join(diverged)}"] if diverged else []
        stopped = [str(seed) for seed, cell in cells.items() if self._stopped(cell)]
        if stopped:
            notes.append(f"a transfer stopped before the end in seed{'s'[: len(stopped) - 1]} {', '.join(stopped)}")
        return [*notes, *self._other_workers(cells)]

    def _other_workers(self, cells: Mapping[int, tuple[str, str, int]]) -> Iterator[str]:
        """Runs whose workers changed on the way, or are not as many as most runs of the table have."""
        found: dict[str, list[str]] = {}
        for seed, cell in cells.items():
            workers = _workers(self._used[cell])
            if workers != self._usual:
                found.setdefault(workers, []).append(str(seed))
        for workers, seeds in found.items():
            what = "worker" if workers == "1" else "workers"
            yield f"trained by {workers} {what} in seed{'s'[: len(seeds) - 1]} {', '.join(seeds)}"

    def _stopped(self, cell: tuple[str, str, int]) -> bool:
        """Whether a transfer into this very learner stopped while the learner went on."""
        evidence = self._used[cell]
        learner = evidence.learner_of(self._keys[cell])
        transfers = evidence.experiment["transfers"]
        return evidence.result["learners"][learner]["diverged_at"] is None and any(
            end["stopped_at"] is not None and transfers[name]["to"].partition(".")[0] == learner
            for name, end in evidence.result["transfers"].items()
        )


def _workers(evidence: Evidence) -> str:
    return in_turn(world_sizes(evidence.manifest))


def _usual_workers(used: Iterable[Evidence]) -> str | None:
    """How many workers most runs have; None where the workers of each changed."""
    fixed = [_workers(one) for one in {one.name: one for one in used}.values() if len(world_sizes(one.manifest)) == 1]
    return Counter(fixed).most_common(1)[0][0] if fixed else None


def _best_on_test(evidence: Evidence, learner: str, selects: str) -> dict[str, float]:
    """Every metric of the one epoch whose `selects` is best on test: as in the paper, it is an epoch that is chosen."""
    epochs: dict[int, dict[str, float]] = {}
    for line in evidence.metrics:
        if line["learner"] == learner and line["split"] == "test":
            epochs.setdefault(line["tick"], {})[line["metric"]] = line["value"]
    finite = [metrics for metrics in epochs.values() if None not in metrics.values()]
    return max(finite, key=lambda metrics: metrics[selects])


# --- compared ----------------------------------------------------------------------------------------------------


Entries = dict[tuple[str, str], Entry]


def _compared(plan: TablePlan, entries: Entries) -> Entries:
    """Each entry with its comparison; those that the table is made for adjusted as one family."""
    compared = {place: replace(entry, comparison=_comparison(plan, entries, place)) for place, entry in entries.items()}
    family = {place: entry.comparison for place, entry in compared.items() if entry.comparison and entry.primary}
    adjusted = dict(zip(family, adjust(list(family.values())), strict=True))
    return {
        place: replace(entry, comparison=adjusted.get(place, entry.comparison)) for place, entry in compared.items()
    }


def _comparison(plan: TablePlan, entries: Entries, place: tuple[str, str]) -> Comparison | None:
    arm, column = place
    baseline = plan.table.baseline_of(arm)
    if baseline is None or not _is_compared(plan, entries, place):
        return None
    better = plan.table.columns[column].better
    return compare(baseline, _values(entries[place]), _values(entries[baseline, column]), better)


def _is_compared(plan: TablePlan, entries: Entries, place: tuple[str, str]) -> bool:
    """Whether an arm is one to compare with its baseline in a column, be its runs there or not."""
    arm, column = place
    baseline = plan.table.baseline_of(arm)
    if baseline is None or not plan.table.is_comparison(arm, column) or not entries[place].trains:
        return False
    return _first(entries, arm, column) != _first(entries, baseline, column)


def _first(entries: Entries, arm: str, column: str) -> str:
    """The arm whose figures these are."""
    return entries[arm, column].same_as or arm


def _values(entry: Entry) -> dict[int, float]:
    return {seed: figure.value for seed, figure in entry.figures.items() if figure.value is not None}


def _ranked(plan: TablePlan, entries: Entries) -> Entries:
    """The best entry of each column marked, and those that the sign-flip test on pairs cannot tell from it."""
    standing: dict[tuple[str, str], Literal["best", "tied"]] = {}
    for column, options in plan.table.columns.items():
        sign = 1.0 if options.better == "higher" else -1.0
        values = {
            arm: _values(entries[arm, column]) for arm in plan.table.arms if plan.table.arms[arm].baseline != "none"
        }
        whole = {arm: figures for arm, figures in values.items() if len(figures) == len(plan.seeds) > 1}
        if len(whole) < 2:
            continue
        best = max(whole, key=lambda arm: sign * sum(whole[arm].values()))
        for arm, figures in whole.items():
            differences = [figures[seed] - whole[best][seed] for seed in plan.seeds]
            if (sign_flip_p(differences) or 1.0) >= LEVEL:
                standing[arm, column] = "tied"
        for arm in whole:
            if _first(entries, arm, column) == _first(entries, best, column):
                standing[arm, column] = "best"
    return {place: replace(entry, standing=standing.get(place, "other")) for place, entry in entries.items()}


# --- told --------------------------------------------------------------------------------------------------------


def _missing(plan: TablePlan, used: Mapping[tuple[str, str, int], Evidence]) -> list[str]:
    missing = len(plan.cells()) - len(used)
    return [f"{missing} of {len(plan.cells())} cells are not there yet"] if missing else []


def _surroundings(used: Any) -> tuple[dict[str, str], list[str]]:
    """What all runs share of how they were made; and a note for each thing in which they differ."""
    runs = {one.name: one.manifest for one in used}
    shared, mixed = {}, []
    for name in ("torch", "torchvision", "device", "hardware", "threads", "world size", "commit"):
        counts = Counter(_facts(manifest)[name] for manifest in runs.values())
        if len(counts) == 1:
            shared[name] = next(iter(counts))
        elif counts:
            listed = ", ".join(f"{value} ({count} run{'s'[: count - 1]})" for value, count in counts.most_common())
            mixed.append(f"mixed runs: {name} {listed}")
    elsewhere = [name for name, manifest in runs.items() if any(entry["changed"] for entry in manifest["resumed"])]
    if elsewhere:
        mixed.append(f"gone on with in other surroundings than they began in: {', '.join(elsewhere)}")
    return shared, mixed


def _facts(manifest: Mapping[str, Any]) -> dict[str, str]:
    hardware = manifest["hardware"]
    return {
        "torch": manifest["versions"]["torch"],
        "torchvision": manifest["versions"]["torchvision"],
        "device": manifest["device"],
        "hardware": hardware["gpu"] or hardware["machine"],
        "threads": str(manifest["threads"]),
        "world size": in_turn(world_sizes(manifest)),
        "commit": (manifest["commit"] or "unknown")[:8] + ("+changes" if "+" in (manifest["commit"] or "") else ""),
    }
