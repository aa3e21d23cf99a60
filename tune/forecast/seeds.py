"""Seeds that a comparison takes: the fewest that can carry it, and by the spread of what has been measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from tune.results import Results
from tune.statistics import fewest_pairs, is_screening, pairs_needed


@dataclass(frozen=True)
class Needed:
    """Seeds by what has been measured in a column.

    Attributes:
        spread: median deviation of its arms' paired differences, in the column's unit.
        seeds: that find the effect with a chance of 80 %; None for more than anyone has.
    """

    spread: float
    seeds: int | None


@dataclass(frozen=True)
class Seeds:
    """Seeds, and what they can carry.

    Attributes:
        there: that are planned.
        comparisons: primary ones.
        fewest: below which not even the clearest result would pass.
        effect: the true difference that one would like to find.
        needed: title of a column -> seeds by its measured spread; nothing where nothing has been measured.
    """

    there: int
    comparisons: int
    fewest: int
    effect: float
    needed: Mapping[str, Needed] = field(default_factory=dict)

    @property
    def suffice(self) -> bool:
        """Whether they are more than screening."""
        return not is_screening(self.there, max(self.comparisons, 1))


def seeds_for(there: int, comparisons: int, effect: float) -> Seeds:
    """By the number of comparisons alone."""
    return Seeds(there, comparisons, fewest_pairs(max(comparisons, 1)), effect)


def seeds_of(results: Results, effect: float) -> Seeds:
    """Of a table, by its primary comparisons, and by the spread of those that have been measured."""
    family = max(results.family, 1)
    needed = {}
    for column, options in results.table.columns.items():
        spread = _spread(results, column)
        if spread is not None:
            needed[options.title] = Needed(spread, pairs_needed(spread, effect, family))
    return Seeds(len(results.seeds), results.family, fewest_pairs(family), effect, needed)


def _spread(results: Results, column: str) -> float | None:
    """Median deviation of a column's paired differences; None before an arm has two."""
    entries = [results.entries.get((arm, column)) for arm in results.table.arms]
    found = [entry.comparison.deviation for entry in entries if entry and entry.comparison]
    known = [spread for spread in found if math.isfinite(spread)]
    return median(known) if known else None
