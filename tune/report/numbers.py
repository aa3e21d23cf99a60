"""Figures as text, with no more digits than their spread deserves."""

import math
import statistics
from collections.abc import Iterable

from tune.statistics import summary

MINUS, UNKNOWN = "\N{MINUS SIGN}", "\N{EN DASH}"


def decimals(spreads: Iterable[float]) -> int:
    """For figures that stand beneath each other: two significant digits of the median of their standard deviations.

    At most two decimals, unless it would read as zero; one that is nothing but rounding counts as none.
    """
    spread = statistics.median([*spreads] or [0.0])
    if spread < 1e-4:
        return 2
    exponent = math.floor(math.log10(spread))
    return max(0, min(2, 1 - exponent), -exponent)


def mean_and_spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation (n - 1); of one value that value alone."""
    found = summary(values)
    mean = f"{found.mean:.{digits}f}"
    return mean if found.deviation is None else f"{mean} ± {found.deviation:.{digits}f}"


def signed(value: float, digits: int) -> str:
    """With its sign, but nothing is plus or minus zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0.0 else text.replace("-", MINUS)


def interval(mean: float, bounds: tuple[float, float], digits: int) -> str:
    """Mean [low, high]; the mean alone where there are too few pairs for bounds."""
    if not all(map(math.isfinite, bounds)):
        return signed(mean, digits)
    return f"{signed(mean, digits)} [{signed(bounds[0], digits)}, {signed(bounds[1], digits)}]"


def probability(p: float) -> str:
    """Three decimals."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def millions(number: int) -> str:
    """Three significant digits, in millions."""
    value = number / 1e6
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
