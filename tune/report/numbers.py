"""Figures as text, with no more digits than their spread deserves."""

import math

MINUS, UNKNOWN = "\N{MINUS SIGN}", "\N{EN DASH}"


def decimals(spread: float) -> int:
    """Two significant digits of a standard deviation, at most two decimals unless it would read as zero.

    One that is nothing but rounding counts as none.
    """
    if not (math.isfinite(spread) and spread >= 1e-4):
        return 2
    exponent = math.floor(math.log10(spread))
    return max(0, min(2, 1 - exponent), -exponent)


def mean_and_spread(values: list[float]) -> str:
    """Mean ± standard deviation (n - 1); of one value that value alone."""
    mean, spread = moments(values)
    if spread is None:
        return f"{mean:.2f}"
    digits = decimals(spread)
    return f"{mean:.{digits}f} ± {spread:.{digits}f}"


def moments(values: list[float]) -> tuple[float, float | None]:
    """Mean, and the standard deviation (n - 1) of two values or more."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def signed(value: float, digits: int) -> str:
    """With its sign, but nothing is plus or minus zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0.0 else text.replace("-", MINUS)


def interval(mean: float, bounds: tuple[float, float], spread: float) -> str:
    """Mean [low, high]; the mean alone where there are too few pairs for bounds."""
    digits = decimals(spread)
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
