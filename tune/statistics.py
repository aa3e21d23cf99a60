"""How figures of paired runs are summed up and compared, by the rules of small numbers."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Comparison:
    """An arm against its baseline, paired by seed; positive differences are improvements, whichever way is better.

    Attributes:
        baseline: the arm it is compared with.
        differences: seed -> the arm's figure minus the baseline's, turned so that positive is better.
        mean, deviation: of the differences; the standard deviation with n - 1.
        interval: 95 %, of the mean difference.
        method: how the interval was made.
        p: two-sided, of the exact sign-flip test; None below two pairs.
        adjusted: p after Holm over the comparisons of the table; None for an exploratory one.
        improvement: estimated probability that the arm is better with a seed, ties counting half.
    """

    baseline: str
    differences: dict[int, float]
    mean: float
    deviation: float
    interval: tuple[float, float]
    method: Literal["paired t", "BCa bootstrap"]
    p: float | None
    adjusted: float | None
    improvement: float
