"""How figures of paired runs are summed up and compared, by the rules of small numbers.

A figure is what one run came to, a difference an arm's figure minus its baseline's with the same seed; means,
deviations and intervals are in the figure's unit. Bootstrap and drawn flips start from a fixed seed: the same figures
in the same order give the same result.

Raises:
    ValueError: from every function that takes figures, where there are none or one is no finite number. A NaN would
        otherwise come out as the most significant result of all.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from statistics import mean, stdev
from typing import Literal

import numpy as np
from scipy.stats import bootstrap, nct, norm, t

LEVEL = 0.05
"""Share of false positives that a table of no effects may have."""

BOOTSTRAP_FROM = 20
"""Pairs from which the interval is bootstrapped: a 95 % one then covers 92 to 93 %, with six pairs only 86."""

RESAMPLES = 9_999
"""Of the bootstrap."""

EXACT_UP_TO = 20
"""Pairs up to which all 2^n sign flips are gone through."""

FLIPS = 99_999
"""Sign flips that are drawn where there are too many to go through: the smallest p is 1e-5."""

ROUNDING = 1e-9
"""Sums that differ by less than this share of their terms' sizes are equal: in floats, 0.3 - 0.1 is not 0.2."""

MOST_PAIRS = 10_000
"""How many pairs `pairs_needed` thinks of."""

Method = Literal["paired t", "BCa bootstrap"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """Figures of one arm.

    Attributes:
        n: how many.
        mean: in their unit.
        deviation: the standard deviation with n - 1, in their unit; None below two.
    """

    n: int
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Comparison:
    """An arm against its baseline, paired by seed; positive differences are improvements, whichever way is better.

    Attributes:
        baseline: the arm it is compared with.
        differences: seed -> the arm's figure minus the baseline's, turned so that positive is better.
        mean, deviation: of the differences; the standard deviation with n - 1, NaN of a single pair.
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
    interval: Interval
    method: Method
    p: float | None
    adjusted: float | None
    improvement: float


def summary(values: Sequence[float]) -> Summary:
    """How many figures, their mean and their standard deviation with n - 1."""
    figures = _finite(values)
    return Summary(len(figures), mean(figures), stdev(figures) if len(figures) > 1 else None)


# --- one comparison ----------------------------------------------------------------------------------------------


def compare(
    baseline_name: str,
    arm: Mapping[int, float],
    baseline: Mapping[int, float],
    better: Literal["higher", "lower"],
) -> Comparison | None:
    """An arm against its baseline over the seeds that both have; None where they share none.

    Args:
        arm, baseline: seed -> figure.
        better: which way is; decides the sign of the differences.
    """
    sign = 1 if better == "higher" else -1
    differences = {seed: sign * (arm[seed] - baseline[seed]) for seed in sorted(arm.keys() & baseline.keys())}
    if not differences:
        return None
    values = list(differences.values())
    found = summary(values)
    bounds, method = interval(values)
    return Comparison(
        baseline=baseline_name,
        differences=differences,
        mean=found.mean,
        deviation=math.nan if found.deviation is None else found.deviation,
        interval=bounds,
        method=method,
        p=sign_flip_p(values),
        adjusted=None,
        improvement=probability_of_improvement(values),
    )


def interval(differences: Sequence[float], confidence: float = 0.95) -> tuple[Interval, Method]:
    """A confidence interval of the mean difference, in the differences' unit, and how it was made.

    Student's paired t below `BOOTSTRAP_FROM` pairs; from there on the BCa bootstrap (bias-corrected and accelerated;
    Efron, "Better bootstrap confidence intervals", 1987), which asks for no normal law. One pair bounds nothing: the
    interval is the whole line. Differences that are all equal give their value as both bounds, to which both methods
    tend; that is no certainty, and the sign-flip p beside it does not take it for one.
    """
    found = summary(differences)
    method: Method = "paired t" if found.n < BOOTSTRAP_FROM else "BCa bootstrap"
    if found.deviation is None:
        return (-math.inf, math.inf), method
    if found.deviation == 0:
        return (found.mean, found.mean), method
    if method == "paired t":
        half = float(t.isf((1 - confidence) / 2, found.n - 1)) * found.deviation / math.sqrt(found.n)
        return (found.mean - half, found.mean + half), method
    low, high = _bootstrapped([(value - found.mean) / found.deviation for value in differences], confidence)
    return (found.mean + low * found.deviation, found.mean + high * found.deviation), method


def _bootstrapped(standardised: Sequence[float], confidence: float) -> Interval:
    """BCa bounds of the mean of figures whose mean is 0 and deviation 1.

    BCa counts the resampled means below and at the observed one. Figures of a grid (accuracies are) tie often, so means
    are rounded: which tie counts as below must not hang on the order of a sum.
    """

    def rounded_mean(resamples: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.round(resamples.mean(axis=axis), 9)

    found = bootstrap(
        (standardised,),
        rounded_mean,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """The two-sided p of Fisher's sign-flip test (The Design of Experiments, 1935); None below two pairs.

    Without an effect a seed's two figures could as well be swapped: p is the share of all 2^n swaps whose mean
    difference is as far from 0 as the observed one. The smallest p of n pairs is 2 / 2^n. Exact up to `EXACT_UP_TO`
    pairs; above, over `FLIPS` drawn swaps and the observed one (Phipson and Smyth, "Permutation p-values should never
    be zero", 2010).
    """
    figures = _finite(differences)
    if len(figures) < 2:
        return None
    sizes = np.sort(np.abs(figures))  # so that drawn swaps, too, are the same for either sign and any order
    observed = abs(math.fsum(figures))
    sums = _all_sums(sizes) if len(figures) <= EXACT_UP_TO else np.append(_drawn_sums(sizes), observed)
    return float(np.mean(np.abs(sums) >= observed - ROUNDING * sizes.sum()))


def _all_sums(sizes: np.ndarray) -> np.ndarray:
    """The sums under every choice of signs: (2^n,)."""
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums - size, sums + size])
    return sums


def _drawn_sums(sizes: np.ndarray) -> np.ndarray:
    """The sums under `FLIPS` random choices of signs."""
    random = np.random.default_rng(0)
    sums = np.zeros(FLIPS)
    for size in sizes:
        sums += size * random.choice((-1.0, 1.0), FLIPS)
    return sums


def probability_of_improvement(differences: Sequence[float]) -> float:
    """The share of seeds with which the arm is better, ties counting half.

    Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice" (NeurIPS 2021), take it over
    all pairs of an arm's run and a baseline's, whatever their seeds. Here only runs of one seed are compared: it is how
    often the arm wins from the same weights and batches. The two estimate the same where an arm's figure and its
    baseline's are independent; where the seed moves both alike, this one lies farther from 1/2.
    """
    return mean(1.0 if value > 0 else 0.5 if value == 0 else 0.0 for value in _finite(differences))


# --- a table of comparisons --------------------------------------------------------------------------------------


def adjust(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one family, in their order, with `adjusted` after Holm.

    One without a p (a single pair) stays without, yet counts in the family as p = 1: it was planned with the others.
    """
    adjusted = holm([1.0 if comparison.p is None else comparison.p for comparison in comparisons])
    return [
        replace(comparison, adjusted=None if comparison.p is None else p)
        for comparison, p in zip(comparisons, adjusted, strict=True)
    ]


def holm(ps: Sequence[float]) -> list[float]:
    """p values adjusted for their number, in their order: at most 5 % of tables of no effects have one below 0.05.

    The smallest of k counts k times, the next k - 1 times, and so on; none falls below one before it or exceeds 1
    (Holm, "A simple sequentially rejective multiple test procedure", 1979).
    """
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = highest
    return adjusted


def is_screening(pairs: int, comparisons: int, level: float = LEVEL) -> bool:
    """Whether so few pairs cannot carry so many comparisons: not even the clearest result would pass.

    The smallest sign-flip p of n pairs is 2 / 2^n, which Holm takes times k: 6 pairs carry one comparison at 0.05, 7
    three, 8 six.
    """
    return comparisons * 2.0 ** (1 - pairs) >= level


def fewest_pairs(comparisons: int, level: float = LEVEL) -> int:
    """The fewest pairs that are more than screening for so many comparisons."""
    return next(pairs for pairs in count(2) if not is_screening(pairs, comparisons, level))


def pairs_needed(
    deviation: float, effect: float, comparisons: int = 1, power: float = 0.8, level: float = LEVEL
) -> int | None:
    """Pairs with which a two-sided paired t-test finds a true mean difference, and its sign; None above `MOST_PAIRS`.

    The power is the noncentral t's (Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988), at `level` /
    `comparisons`, as Holm has it for the smallest p. Never fewer than `is_screening` asks for; for the same power the
    sign-flip test, whose p comes in steps, may take a pair more. A pilot's deviation is itself uncertain: after six
    pairs the true one may be 0.6 to 2.5 times what they show.

    Args:
        deviation: standard deviation of the pilot's differences, in the figure's unit.
        effect: the mean difference to be found, in the same unit; of 0 no number of pairs is enough.
        comparisons: of the table's family.
        power: the chance to find it.
    """
    if not (0 <= deviation < math.inf and math.isfinite(effect)):
        raise ValueError(f"deviation {deviation} and effect {effect} must be finite, the deviation not negative")
    if effect == 0:
        return None
    single = level / comparisons
    size = abs(effect) / max(deviation, abs(effect) / 100)  # 100 deviations are certain to be found; beyond is NaN
    fewest = fewest_pairs(comparisons, level)
    # A known deviation can only help, so the search starts from what the normal law asks for, a few pairs below.
    start = ((norm.isf(single / 2) + norm.ppf(power)) / size) ** 2
    for pairs in range(max(fewest, math.ceil(start)), MOST_PAIRS + 1):
        noncentrality = size * math.sqrt(pairs)
        if nct.sf(t.isf(single / 2, pairs - 1), pairs - 1, noncentrality) >= power:
            return pairs
    return None


def _finite(values: Sequence[float]) -> list[float]:
    figures = [float(value) for value in values]
    if not figures or not all(map(math.isfinite, figures)):
        raise ValueError(f"figures must be finite numbers, at least one: {figures}")
    return figures
