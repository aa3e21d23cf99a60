"""The sentences around a table: what it is, how to read it, and how far to believe it."""

import math
from collections.abc import Iterator
from statistics import median

from tune.results import Entry, Results
from tune.statistics import MOST_PAIRS, pairs_needed
from tune.table import HELD

OTHER_SCALE = "\N{DAGGER}"

PROTOCOLS = {
    "last": "Protocol: last epoch. The test split is read once, at the end, with the weights of the last epoch.",
    "best": "Protocol: best validation epoch. The test split is read once, with the weights of the epoch that was best "
    "on the validation split.",
    "best-test": "Protocol: best TEST epoch, as in the paper. This is optimistic: the test split chooses the epoch it "
    "is then read with.",
}


def about(results: Results) -> str:
    """Name, scale, what it is good for, how many seeds."""
    seeds = len(results.seeds)
    scale = f"{results.table.name} at scale {results.scale}" + (f": {results.about}" if results.about else "")
    return f"{scale}. n = {seeds} {'seed' if seeds == 1 else 'seeds'}."


def paper_mark(results: Results) -> str:
    """Beside every figure of the paper that was taken at another scale."""
    return "" if results.scale == "paper" else OTHER_SCALE


def warning(results: Results) -> str:
    """What stands before the table: that there is none yet, or that it carries no claim."""
    if not any(entry.figures for entry in results.entries.values()):
        return "No run has finished yet."
    return _screening(results) if results.screening else ""


def _screening(results: Results) -> str:
    pairs = [len(entry.comparison.differences) for entry in _compared(results) if entry.comparison]
    if not pairs or not results.family:
        return "Screening: there is nothing to compare yet, and no claim follows from these figures."
    least = min(pairs)
    smallest = results.family * 2 / 2**least
    text = "Screening: no claim follows from these figures."
    if smallest < 0.05:
        return text
    comparisons = "comparison" if results.family == 1 else "comparisons"
    return (
        f"{text} The smallest p that {least} {_pairs(least)} can have, 2/{2**least}, times {results.family} "
        f"{comparisons} is {smallest:.2g}, not below 0.05."
    )


def remarks(results: Results) -> Iterator[str]:
    """What is to be known of the whole table, then how to read it, sentence by sentence."""
    yield from results.notes
    if any(entry.values() for entry in results.entries.values()):
        yield "ours: mean ± standard deviation (n \N{MINUS SIGN} 1) over the seeds that finished without diverging."
    if _compared(results):
        yield _differences(results)
        yield _probabilities(results)
    if any(entry.standing == "best" for entry in results.entries.values()):
        yield _standing(results)
    if any(entry.same_as for entry in results.entries.values()):
        yield "as another arm: nothing of what is changed reaches this learner, so its runs are the very same."
    if any(column.endswith(f".{HELD}") for column in results.table.columns):
        yield "Parameters, in millions: the numbers held in training, of learners, adapters and losses."
    if results.effect is not None:
        yield from _needed(results, results.effect)
    if any(entry.paper is not None for entry in results.entries.values()):
        yield _paper(results)


def _compared(results: Results) -> list[Entry]:
    """The primary comparisons; all where there are none."""
    compared = [entry for entry in results.entries.values() if entry.comparison is not None and entry.same_as is None]
    return [entry for entry in compared if entry.primary] or compared


def _differences(results: Results) -> str:
    comparisons = [entry.comparison for entry in _compared(results) if entry.comparison is not None]
    pairs = sorted({len(comparison.differences) for comparison in comparisons})
    methods = " or ".join(sorted({comparison.method for comparison in comparisons}))
    many = f"{pairs[0]} to {pairs[-1]}" if len(pairs) > 1 else f"{pairs[0]}"
    return (
        f"difference: to {results.table.arms[results.table.baseline].label}, paired by seed ({many} "
        f"{_pairs(pairs[-1])}), turned so that positive is better; in brackets the 95 % interval of its mean "
        f"({methods})."
    )


def _probabilities(results: Results) -> str:
    text = f"p: exact sign-flip test, two-sided, Holm-adjusted over {results.family} "
    text += "comparison" if results.family == 1 else "comparisons"
    exploratory = any(entry.comparison and not entry.primary for entry in results.entries.values())
    return text + ("; the exploratory ones were not named before the runs." if exploratory else ".")


def _needed(results: Results, effect: float) -> Iterator[str]:
    """Seeds that would find a true difference of `effect`, by the median spread of a column's differences."""
    for column, options in results.table.columns.items():
        entries = [results.entries.get((arm, column)) for arm in results.table.arms]
        spreads = [entry.comparison.deviation for entry in entries if entry and entry.comparison]
        known = [spread for spread in spreads if math.isfinite(spread)]
        if known:
            pairs = pairs_needed(median(known), effect, max(results.family, 1))
            many = f"more than {MOST_PAIRS}" if pairs is None else str(pairs)
            yield (
                f"{options.title}: {many} seeds would find a true difference of {effect:g} with a chance of 80 % "
                f"(median spread of its arms' differences {median(known):.2g}, {max(results.family, 1)} to test)."
            )


def _standing(results: Results) -> str:
    if results.screening:
        return "Bold: the best mean of its column, in itself no finding. Underlined: not told apart from it."
    return "Bold: best of its column. Underlined: cannot be told from the best."


def _paper(results: Results) -> str:
    if not paper_mark(results):
        return "paper: as published (arXiv 2404.13322v3), without a spread."
    return (
        f"{OTHER_SCALE} The paper's figures (arXiv 2404.13322v3) are of its own scale, other data and networks than "
        f"those of scale {results.scale}: not comparable in height."
    )


def _pairs(number: int) -> str:
    return "pair" if number == 1 else "pairs"
