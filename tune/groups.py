"""Missing cells as runs: arms of one seed that share a learner train side by side in one run, so that it trains once.

That they come out as they would alone is not taken on trust: the keys of the cells must be the same.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from mergenet.config import InputError, digest, parse
from mergenet.experiment import Experiment
from mergenet.identity import upstream
from mergenet.training.plan import Plan, make_plan, plan_again
from mergenet.training.spec import Origin, data_of
from mergenet.wiring import split_end
from tune.cells import ArmPlan, Cell, TablePlan


@dataclass(frozen=True)
class Group:
    """A run that makes cells of one seed.

    Attributes:
        cells: that it makes.
        origins: learner -> what its weights are trained as; they must be there before it starts.
        plan: of the run.
    """

    seed: int
    cells: tuple[Cell, ...]
    experiment: Experiment
    origins: Mapping[str, Origin]
    plan: Plan

    def needs(self) -> set[str]:
        """Keys of the cells whose weights it begins with."""
        return {origin.cell for origin in self.origins.values()}


@dataclass(frozen=True)
class _Part:
    """An arm with the learners that its missing cells need."""

    arm: str
    plan: ArmPlan
    cells: tuple[Cell, ...]
    learners: frozenset[str]

    def keys(self, seed: int) -> dict[str, str]:
        return {learner: key for learner, key in self.plan.keys[seed].items() if learner in self.learners}

    def with_clock(self) -> "_Part":
        """The same with the arm's clock learner, by whose epochs the steps of all are counted."""
        experiment = self.plan.experiment
        return replace(self, learners=self.learners | upstream(experiment, experiment.clock))


def group_cells(table: TablePlan, missing: Iterable[Cell]) -> list[Group]:
    """The runs that make the `missing` cells, each cell once."""
    missing = list(missing)
    plans: dict[str, Plan] = {}
    return [
        group
        for seed in table.seeds
        for parts in _sharing(_parts(table, [cell for cell in missing if cell[2] == seed]), seed, _before(table, seed))
        for group in _groups(table, parts, seed, plans)
    ]


def _parts(table: TablePlan, missing: Sequence[Cell]) -> list[_Part]:
    """The missing cells of one seed by arm; one that another arm has too, by its key, stays with the first."""
    parts, taken = [], set()
    for arm, plan in table.arms.items():
        fresh = {cell: plan.keys[cell[2]][cell[1]] for cell in missing if cell[0] == arm}
        cells = tuple(cell for cell, key in fresh.items() if key not in taken)
        taken |= set(fresh.values())
        for some in _apart(plan, cells):
            learners = frozenset(name for cell in some for name in upstream(plan.experiment, cell[1]))
            parts.append(_Part(arm, plan, some, learners))
    return parts


def _apart(plan: ArmPlan, cells: Iterable[Cell]) -> list[tuple[Cell, ...]]:
    """Cells of one arm, those that begin with weights of another by themselves: the other may need the rest."""
    halves: tuple[list[Cell], list[Cell]] = ([], [])
    for cell in cells:
        begins = upstream(plan.experiment, cell[1]) & plan.origins[cell[2]].keys()
        halves[bool(begins)].append(cell)
    return [tuple(half) for half in halves if half]


Before = Callable[[str], frozenset[str]]
"""Key of a cell -> those of all the cells whose weights must be there before it is made."""


def _before(table: TablePlan, seed: int) -> Before:
    direct: dict[str, set[str]] = {}
    for plan in table.arms.values():
        origins = plan.origins[seed]
        for learner, key in plan.keys[seed].items():
            direct[key] = {origins[name].cell for name in upstream(plan.experiment, learner) & origins.keys()}

    @cache
    def before(key: str) -> frozenset[str]:
        return frozenset(direct[key]).union(*map(before, direct[key]))

    return before


def _sharing(parts: Sequence[_Part], seed: int, before: Before) -> list[list[_Part]]:
    """Parts together that have a trained learner in common, directly or over others, and do not wait for each other."""
    together: list[list[_Part]] = []
    for part in parts:
        keys = set(part.keys(seed).values())
        whole, joined = [part], list[list[_Part]]()
        for one in together:
            shared = any(keys & set(other.keys(seed).values()) for other in one)
            if shared and not _waits_for_itself([*whole, *one], seed, before):
                whole, joined = [*whole[:-1], *one, part], [*joined, one]
        first = together.index(joined[0]) if joined else len(together)
        together = [*together[:first], whole, *(one for one in together[first:] if one not in joined)]
    return together


def _waits_for_itself(parts: Sequence[_Part], seed: int, before: Before) -> bool:
    """Whether some of them must wait, maybe for others between, for weights that others of them train."""
    keys = [set(part.keys(seed).values()) for part in parts]
    needs = [frozenset[str]().union(*map(before, own)) for own in keys]
    made = {key for own, needed in zip(keys, needs, strict=True) for key in own - needed}
    return any(needed & made for needed in needs)


def _groups(table: TablePlan, parts: Sequence[_Part], seed: int, plans: dict[str, Plan]) -> list[Group]:
    """One run for all parts, or one for each where together they would not be what they are alone."""
    group = _equal_group(table, parts, seed, plans)
    if group is not None:
        return [group]
    if len(parts) > 1:
        return [group for part in parts for group in _groups(table, [part], seed, plans)]
    return [_group(table, [part.with_clock() for part in parts], seed, plans)]


def _equal_group(table: TablePlan, parts: Sequence[_Part], seed: int, plans: dict[str, Plan]) -> Group | None:
    """One run for all parts, if its cells have the keys that the table knows them by."""
    try:
        group = _group(table, parts, seed, plans)
    except InputError:  # clocks, epochs or evaluations that do not go together
        return None
    wanted = {table.arms[arm].keys[seed][learner] for arm, learner, seed in group.cells}
    return group if wanted <= set(group.plan.cells.values()) else None


def _group(table: TablePlan, parts: Sequence[_Part], seed: int, plans: dict[str, Plan]) -> Group:
    """The parts as one run; `plans` keeps those of other seeds, which differ in nothing that takes long to find."""
    merged = _Merged(seed)
    for part in parts:
        merged.add(part, prefix=f"{part.arm}_" if len(parts) > 1 else "")
    experiment = merged.experiment(parts[0].plan.experiment)
    name = digest(experiment.dump())
    if name not in plans:
        plans[name] = make_plan(experiment, seed, data_of(experiment, table.paths), 1, merged.origins)
    plan = plan_again(plans[name], experiment, seed, merged.origins)
    return Group(seed, tuple(cell for part in parts for cell in part.cells), experiment, merged.origins, plan)


class _Merged:
    """Learners and edges of several arms, those of equal key once."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._named: dict[str, str] = {}
        self._learners: dict[str, Any] = {}
        self._edges: dict[str, dict[str, Any]] = {}
        self._clock = ""
        self.origins: dict[str, Origin] = {}

    def add(self, part: _Part, prefix: str) -> None:
        """Takes what of an arm is needed and is not here yet."""
        plain, keys = part.plan.experiment.dump(), part.keys(self._seed)
        fresh = {name for name in part.learners if name not in keys or keys[name] not in self._named}
        names = {name: prefix + name if name in fresh else self._named[keys[name]] for name in part.learners}
        for name in sorted(fresh, key=list(plain["learners"]).index):
            self._learners[names[name]] = plain["learners"][name]
            if name in part.plan.origins[self._seed]:
                self.origins[names[name]] = part.plan.origins[self._seed][name]
        self._clock = self._clock or names.get(part.plan.experiment.clock, "")
        self._named |= {key: names[name] for name, key in keys.items()}
        for family, edges in part.plan.experiment.edges().items():
            for name, edge in edges.items():
                if edge.enabled and fresh & {split_end(end)[0] for end in edge.changes()}:
                    plain_edge = plain[family][name]
                    ends = {key: _renamed(plain_edge[key], names) for key in ("from", "to")}
                    self._edges.setdefault(family, {})[prefix + name] = {**plain_edge, **ends}

    def experiment(self, like: Experiment) -> Experiment:
        """All of it as one experiment, in everything else like the first arm."""
        clock = self._clock or self._any_on_every_tick()
        values = {**like.dump(), **{family: {} for family in like.edges()}, **self._edges}
        values |= {"learners": self._learners, "clock": clock}
        return parse(Experiment, values)

    def _any_on_every_tick(self) -> str:
        """A clock where the usual one is not needed."""
        trained = {name: one for name, one in self._learners.items() if not one["frozen"]}
        return min(trained, key=lambda name: trained[name]["training"]["every"])


def _renamed(end: Any, names: Mapping[str, str]) -> Any:
    """One end, several or none, with the new name of its learner."""
    if end is None:
        return None
    if isinstance(end, list):
        return [_renamed(one, names) for one in end]
    learner, port = split_end(end)
    return f"{names[learner]}.{port}" if port else names[learner]
