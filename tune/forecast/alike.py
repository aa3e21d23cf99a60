"""Runs that differ in nothing but their seed are measured once; of too many, the most different are, and the rest go
by the one that is most like them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mergenet.config import digest
from mergenet.training.amounts import Amounts, amounts_of
from mergenet.training.plan import make_plan
from mergenet.training.spec import RunSpec, data_of

if TYPE_CHECKING:
    from tune.ablate import Job

Distance = tuple[int, int]
"""In how many learners two runs differ, then in how many options."""


@dataclass(frozen=True)
class Alike:
    """Runs that differ in their seed alone.

    Attributes:
        name: what a reader knows them by.
        spec: of the first.
        count: how many.
    """

    name: str
    spec: RunSpec
    amounts: Amounts
    count: int

    @cached_property
    def traits(self) -> tuple[Counter[str], Counter[str]]:
        """What a tick costs by: learners that train, with their batches; and every option of what joins them."""
        experiment = self.spec.experiment
        learners = (
            f"{one.model} {one.trained_task.dump()} {one.training.dump()}" for one in experiment.trained().values()
        )
        options = (leaf for one in experiment.enabled_edges().values() for leaf in _leaves(one.dump(), ""))
        return Counter(learners), Counter(options)

    def transfers(self) -> bool:
        """Whether there are ticks with a transfer."""
        return any(happening.transfers for happening in self.amounts.ticks)

    def distance(self, other: "Alike") -> Distance:
        """How unlike another's its ticks are."""
        (learners, options), (others, other_options) = self.traits, other.traits
        return _unlike(learners, others), _unlike(options, other_options)


def _unlike(ours: Counter[str], theirs: Counter[str]) -> int:
    return ((ours - theirs) + (theirs - ours)).total()


def _leaves(values: Any, path: str) -> Iterator[str]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _leaves(value, f"{path}.{key}")
    else:
        yield f"{path}={values}"


def alike(jobs: Iterable["Job"]) -> "list[tuple[Alike, list[Job]]]":
    """A table's missing runs by what they are but for their seed."""
    together: dict[str, list[Job]] = {}
    for job in jobs:
        together.setdefault(_but_for_seed(job.spec), []).append(job)
    return [(_alike(group), group) for group in together.values()]


def _but_for_seed(spec: RunSpec) -> str:
    """A name for a run without its seed, and without the files of weights that are of the seed too."""
    return digest(spec.experiment.with_weights(dict.fromkeys(spec.origins, "")).dump())


def _alike(jobs: Sequence["Job"]) -> Alike:
    spec = jobs[0].spec
    data = data_of(spec.experiment, spec.data)
    plan = make_plan(spec.experiment, spec.seed, data, 1, spec.origins)
    return Alike(", ".join(jobs[0].arms()), spec, amounts_of(spec.experiment, plan, data), len(jobs))


def most_different(runs: Sequence[Alike], most: int) -> list[int]:
    """Places of at most so many: the longest, then each that is least like all before it."""
    chosen = [max(range(len(runs)), key=lambda place: _size(runs[place]))]
    while len(chosen) < min(most, len(runs)):
        left = (place for place in range(len(runs)) if place not in chosen)
        chosen.append(max(left, key=lambda place: min(runs[place].distance(runs[one]) for one in chosen)))
    return chosen


def _size(run: Alike) -> int:
    """Steps of learners and of adapters."""
    return sum(
        count * (len(happening.steps) + len(happening.transfers)) for happening, count in run.amounts.ticks.items()
    )


def nearest(run: Alike, runs: Sequence[Alike], measured: Iterable[int]) -> int:
    """The place of the measured run that is most like `run`."""
    return min(measured, key=lambda place: run.distance(runs[place]))
