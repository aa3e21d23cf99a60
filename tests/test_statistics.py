"""Figures of paired runs: worked out by hand, against scipy, and over laws whose truth is known."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, permutation_test, ttest_1samp, ttest_rel

from tune.statistics import (
    Comparison,
    Summary,
    adjust,
    compare,
    holm,
    interval,
    is_screening,
    pairs_needed,
    probability_of_improvement,
    sign_flip_p,
    summary,
)

pytestmark = pytest.mark.filterwarnings("error")

ARM = {0: 71.0, 1: 74.0, 2: 73.0, 3: 70.0}
BASELINE = {3: 71.0, 2: 70.0, 1: 72.0, 9: 50.0}


def against(
    baseline: dict[int, float], arm: dict[int, float] = ARM, better: Literal["higher", "lower"] = "higher"
) -> Comparison:
    found = compare("plain", arm, baseline, better)
    assert found is not None
    return found


def by_seed(figures: list[float]) -> dict[int, float]:
    return dict(enumerate(figures))


# --- by hand -----------------------------------------------------------------------------------------------------


def test_a_summary_has_the_deviation_with_n_minus_1() -> None:
    assert summary([2.0, 4.0, 9.0]) == Summary(3, 5.0, math.sqrt(13))
    assert summary([0.1, 0.1, 0.1]) == Summary(3, 0.1, 0.0)
    assert summary([7.0]) == Summary(1, 7.0, None)


def test_a_comparison_pairs_by_seed_and_leaves_out_what_one_side_lacks() -> None:
    found = against(BASELINE)
    assert found.baseline == "plain"
    assert list(found.differences.items()) == [(1, 2.0), (2, 3.0), (3, -1.0)]
    assert found.mean == pytest.approx(4 / 3) and found.deviation == pytest.approx(math.sqrt(13 / 3))
    # Student's t of 2 degrees of freedom leaves 2.5 % above 4.302653; sqrt(13 / 9) is the mean's standard error
    half = 4.302653 * math.sqrt(13 / 9)
    assert found.interval == pytest.approx((4 / 3 - half, 4 / 3 + half), rel=1e-6) and found.method == "paired t"
    # sums of +-2 +-3 +-1: 6, 4, 0, 2 and their negatives; the observed is 4
    assert found.p == 4 / 8 and found.adjusted is None
    assert found.improvement == 2 / 3


def test_where_lower_is_better_the_signs_turn() -> None:
    found = against(BASELINE, better="lower")
    assert found.differences == {1: -2.0, 2: -3.0, 3: 1.0}
    assert found.mean == pytest.approx(-4 / 3) and found.improvement == 1 / 3 and found.p == 4 / 8


def test_without_a_common_seed_there_is_no_comparison() -> None:
    assert compare("plain", {0: 1.0}, {1: 1.0}, "higher") is None


def test_one_pair_bounds_nothing() -> None:
    found = against({0: 70.0})
    assert (found.mean, found.interval, found.p, found.improvement) == (1.0, (-math.inf, math.inf), None, 1.0)
    assert math.isnan(found.deviation)


@pytest.mark.parametrize(
    ("differences", "share"),
    [
        ([1, 2, 3], 2 / 8),  # only all and none flipped
        ([-1, -2, -3], 2 / 8),
        ([1, 2, -1], 6 / 8),  # 4, 2, 2, 0 and their negatives; the observed is 2
        ([3, 1, -1], 6 / 8),  # 5, 3, 3, 1; 3
        ([5, 1, -1], 6 / 8),  # 7, 5, 5, 3; 5
        ([5, 2, 1], 2 / 8),
        ([5, 2, -1], 4 / 8),  # 8, 6, 4, 2; 6
        ([0, 1, 2], 4 / 8),  # the flips of 0 change nothing
        ([1, -1], 1.0),
        ([1, 1], 2 / 4),
        ([0, 0, 0], 1.0),
        ([1] * 6, 2 / 64),
        ([1] * 20, 2 / 2**20),
    ],
)
def test_the_p_is_the_share_of_sign_flips_as_far_from_zero(differences: list[float], share: float) -> None:
    assert sign_flip_p(differences) == share


@pytest.mark.parametrize("counts", [(1, 2, -2), (1, -6, -6, -1), (3, 3, -1, -2, 4), (7, -4, 1, 2, 0, -3)])
def test_flips_that_tie_but_for_rounding_count_as_tied(counts: tuple[int, ...]) -> None:
    """Percentages one decimal apart tie where the counts they stand for do."""
    percentages = [(71.3 + count / 10) - 71.3 for count in counts]
    assert sign_flip_p(percentages) == sign_flip_p(counts)


def test_above_twenty_pairs_p_is_drawn_and_never_zero() -> None:
    assert sign_flip_p([1.0] * 21) == 1e-5
    assert sign_flip_p([1.0] * 300) == 1e-5
    assert sign_flip_p([0.0] * 21) == 1.0


@pytest.mark.parametrize(
    ("ps", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # .005 * 4, .01 * 3, .03 * 2, and .04 not below it
        ([0.7, 0.6], [1.0, 1.0]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
    ],
)
def test_holm(ps: list[float], adjusted: list[float]) -> None:
    assert holm(ps) == pytest.approx(adjusted)


def test_a_family_is_adjusted_together_and_a_single_pair_counts_in_it() -> None:
    sure = against(by_seed([0.0] * 8), by_seed([1.0] * 8))
    single = against({0: 70.0})
    unsure = against(by_seed([0.0] * 3), by_seed([1.0, 2.0, 3.0]))
    adjusted = adjust([unsure, single, sure])
    assert [comparison.adjusted for comparison in adjusted] == [2 * 2 / 8, None, 3 * 2 / 256]
    assert [comparison.p for comparison in adjusted] == [2 / 8, None, 2 / 256]
    assert sure.adjusted is None and adjusted[2].differences == sure.differences
    assert adjust([]) == []


def test_ties_are_half_an_improvement() -> None:
    assert probability_of_improvement([1.0, -1.0, 0.0, 2.0]) == 2.5 / 4
    assert probability_of_improvement([0.0]) == 0.5


@pytest.mark.parametrize(("pairs", "carries"), [(5, 0), (6, 1), (7, 3), (8, 6), (9, 12)])
def test_so_many_pairs_carry_so_many_comparisons(pairs: int, carries: int) -> None:
    assert not is_screening(pairs, carries) and is_screening(pairs, carries + 1)
    family = holm([2 / 2**pairs] * (carries + 1))
    assert min(family) >= 0.05


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_pairs_needed_are_those_of_the_published_tables(effect: float, pairs: int) -> None:
    """Two-sided paired t-test, 5 %, power 0.8: Cohen's effects, in any unit and either direction."""
    assert pairs_needed(1.0, effect) == pairs
    assert pairs_needed(250.0, -250.0 * effect) == pairs


@pytest.mark.parametrize(("comparisons", "fewest"), [(1, 6), (3, 7), (6, 8), (7, 9)])
@pytest.mark.parametrize("deviation", [0.0, 1e-30, 0.01])
def test_a_certain_effect_still_needs_the_pairs_that_carry_the_table(
    comparisons: int, fewest: int, deviation: float
) -> None:
    assert pairs_needed(deviation, 1.0, comparisons) == fewest


def test_what_no_number_of_pairs_finds_has_no_number() -> None:
    assert pairs_needed(1.0, 0.0) is None and pairs_needed(0.0, 0.0) is None
    assert pairs_needed(1.0, 1e-12) is None
    # normal law: ((1.96 + 0.8416) / 0.0285)^2 = 9663 pairs, at 0.028 more than the ten thousand that are looked at
    assert pairs_needed(1.0, 0.0285) == pytest.approx(9663, abs=5) and pairs_needed(1.0, 0.028) is None


@pytest.mark.parametrize("values", [[], [1.0, math.nan, 2.0], [math.inf, 1.0]])
def test_what_is_no_figure_is_refused(values: list[float]) -> None:
    for function in (summary, interval, sign_flip_p, probability_of_improvement):
        with pytest.raises(ValueError, match="finite"):
            function(values)  # type: ignore[operator]
    for deviation, effect in [(math.nan, 1.0), (-1.0, 1.0), (1.0, math.nan), (1.0, math.inf)]:
        with pytest.raises(ValueError, match="finite"):
            pairs_needed(deviation, effect)


@pytest.mark.parametrize("n", [2, 6, 20, 40])
@pytest.mark.parametrize("value", [0.0, 0.1, -71.3])
def test_equal_differences_have_themselves_as_interval(n: int, value: float) -> None:
    assert interval([value] * n)[0] == (value, value)


@pytest.mark.parametrize("n", [6, 20])
def test_differences_equal_but_for_rounding_have_an_interval_as_narrow(n: int) -> None:
    (low, high), _ = interval([0.1] * (n - 1) + [0.1 + 1e-16])
    assert 0.1 - 1e-15 < low <= high < 0.1 + 1e-15


# --- against scipy and plain enumeration -------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 6, 19])
def test_below_twenty_pairs_the_interval_is_that_of_the_paired_t_test(n: int) -> None:
    arm, baseline = np.random.default_rng(n).normal(70, 2, (2, n))
    for confidence in (0.8, 0.95):
        found, method = interval(list(arm - baseline), confidence)
        theirs = ttest_rel(arm, baseline).confidence_interval(confidence)
        assert found == pytest.approx((theirs.low, theirs.high)) and method == "paired t"


@pytest.mark.parametrize("n", [20, 33])
def test_from_twenty_pairs_the_interval_is_scipys_bca_bootstrap(n: int) -> None:
    differences = np.random.default_rng(n).exponential(3.0, n)
    for confidence in (0.8, 0.95):
        found, method = interval(list(differences), confidence)
        theirs = bootstrap(
            (differences,), np.mean, confidence_level=confidence, method="BCa", rng=np.random.default_rng(0)
        ).confidence_interval
        assert found == pytest.approx((theirs.low, theirs.high), rel=1e-6) and method == "BCa bootstrap"


def test_the_p_is_scipys_where_nothing_ties() -> None:
    for seed in range(20):
        differences = np.random.default_rng(seed).normal(0.5, 1, 9)
        theirs = permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=math.inf, vectorized=True
        )
        assert sign_flip_p(list(differences)) == pytest.approx(theirs.pvalue)


def share_of_flips(counts: list[int]) -> float:
    """The sign-flip p of whole numbers, from how many choices of signs give each sum."""
    ways = Counter({0: 1})
    for count in counts:
        ways = sum((Counter({total + turn: n for total, n in ways.items()}) for turn in (count, -count)), Counter())
    return sum(n for total, n in ways.items() if abs(total) >= abs(sum(counts))) / 2 ** len(counts)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=14), st.sampled_from([1.0, 0.1, 1 / 360]))
def test_the_p_is_exact_whatever_ties(counts: list[int], unit: float) -> None:
    share = share_of_flips(counts)
    assert sign_flip_p([count * unit for count in counts]) == share
    assert sign_flip_p([(71.3 + count * unit) - 71.3 for count in counts]) == share


@pytest.mark.parametrize("seed", range(4))
def test_a_drawn_p_is_near_the_exact_one(seed: int) -> None:
    counts = [int(count) for count in np.random.default_rng(seed).integers(-6, 10, 25)]
    exact = share_of_flips(counts)
    error = math.sqrt(exact * (1 - exact) / 1e5)
    assert sign_flip_p([count / 10 for count in counts]) == pytest.approx(exact, abs=4 * error + 1e-5)


# --- by simulation -----------------------------------------------------------------------------------------------

Law = Callable[[np.random.Generator, int], np.ndarray]


def normal(random: np.random.Generator, n: int) -> np.ndarray:
    return random.normal(1.0, 2.0, n)


def skewed(random: np.random.Generator, n: int) -> np.ndarray:
    return random.exponential(1.0, n)


@pytest.mark.parametrize(
    ("n", "law", "runs", "least", "most"),
    [
        (6, normal, 2000, 0.94, 0.96),
        (6, skewed, 2000, 0.86, 0.91),  # t asks for a normal law, and of six pairs no method can tell
        (20, normal, 400, 0.90, 0.96),
        (20, skewed, 400, 0.89, 0.95),
    ],
)
def test_the_interval_covers_the_true_mean(n: int, law: Law, runs: int, least: float, most: float) -> None:
    random = np.random.default_rng(2)
    intervals = [interval(list(law(random, n)))[0] for _ in range(runs)]
    assert least <= np.mean([low <= 1.0 <= high for low, high in intervals]) <= most


@pytest.mark.parametrize(("n", "smaller"), [(6, 2 / 64), (8, 12 / 256)])
def test_without_an_effect_p_is_false_as_often_as_its_steps_allow(n: int, smaller: float) -> None:
    """An exact p of n pairs comes in steps of 2 / 2^n; `smaller` is the largest that is at most 0.05."""
    random = np.random.default_rng(0)
    ps = [sign_flip_p(list(random.normal(0, 1, n))) for _ in range(4000)]
    assert np.mean([p is not None and p <= 0.05 for p in ps]) == pytest.approx(smaller, abs=0.01)
    grid = [sign_flip_p(list(random.integers(-3, 4, n) / 10)) for _ in range(4000)]
    assert np.mean([p is not None and p <= 0.05 for p in grid]) <= 0.05


def test_with_holm_a_table_of_no_effects_is_seldom_false() -> None:
    """Six arms against one baseline, eight seeds; unadjusted, a table in six or so claims something."""
    random = np.random.default_rng(0)
    unadjusted, adjusted = 0, 0
    for _ in range(1500):
        figures = random.normal(70, 1, (7, 8))
        ps = [sign_flip_p(list(arm - figures[0])) or 0.0 for arm in figures[1:]]
        unadjusted += min(ps) <= 0.05
        adjusted += min(holm(ps)) <= 0.05
    assert unadjusted / 1500 > 0.12 and 0.01 < adjusted / 1500 <= 0.05


@pytest.mark.parametrize(("effect", "comparisons", "power"), [(0.7, 1, 0.8), (0.9, 3, 0.8), (0.6, 1, 0.9)])
def test_pairs_needed_have_the_power_and_one_fewer_has_not(effect: float, comparisons: int, power: float) -> None:
    pairs = pairs_needed(2.0, 2.0 * effect, comparisons, power)
    assert pairs is not None
    differences = np.random.default_rng(0).normal(2.0 * effect, 2.0, (40_000, pairs))

    def found(n: int) -> float:
        return float(np.mean(ttest_1samp(differences[:, :n], 0.0, axis=1).pvalue < 0.05 / comparisons))

    assert found(pairs - 1) - 0.004 < power < found(pairs) + 0.004


# --- what holds of any figures -----------------------------------------------------------------------------------

FIGURES = st.integers(-2000, 2000).map(lambda count: 50 + count / 70)
PAIRS = st.lists(st.tuples(FIGURES, FIGURES), min_size=1, max_size=23)


@settings(deadline=None, max_examples=60)
@given(PAIRS)
def test_arm_and_baseline_may_be_swapped(pairs: list[tuple[float, float]]) -> None:
    arm, baseline = by_seed([pair[0] for pair in pairs]), by_seed([pair[1] for pair in pairs])
    there, back = against(baseline, arm), against(arm, baseline)
    assert back.mean == -there.mean and back.p == there.p
    assert back.improvement == pytest.approx(1 - there.improvement)
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]), rel=1e-6, abs=1e-9)
    turned = against(arm, baseline, better="lower")
    assert (turned.differences, turned.interval, turned.p) == (there.differences, there.interval, there.p)


@settings(deadline=None, max_examples=60)
@given(PAIRS, st.sampled_from([0.01, 3.7e-5, 1000.0]))
def test_the_unit_of_the_figures_does_not_matter(pairs: list[tuple[float, float]], unit: float) -> None:
    arm, baseline = by_seed([pair[0] for pair in pairs]), by_seed([pair[1] for pair in pairs])
    plain = against(baseline, arm)
    scaled = against({seed: unit * v for seed, v in baseline.items()}, {seed: unit * v for seed, v in arm.items()})
    assert scaled.p == plain.p and scaled.improvement == plain.improvement
    assert scaled.mean == pytest.approx(unit * plain.mean, rel=1e-6, abs=unit * 1e-9)
    expected = [unit * bound for bound in plain.interval]
    assert scaled.interval == pytest.approx(tuple(expected), rel=1e-6, abs=unit * 1e-9)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=9))
def test_adjusted_p_are_no_smaller_and_in_the_same_order(ps: list[float]) -> None:
    adjusted = holm(ps)
    assert all(p <= q <= 1 for p, q in zip(ps, adjusted, strict=True))
    for one, other in itertools.combinations(range(len(ps)), 2):
        if ps[one] <= ps[other]:
            assert adjusted[one] <= adjusted[other]
    assert holm(ps[::-1]) == adjusted[::-1]


@pytest.mark.parametrize("seed", range(5))
def test_of_figures_on_a_grid_the_bootstrap_does_not_hang_on_rounding(seed: int) -> None:
    counts: list[int] = np.random.default_rng(seed).integers(-2, 3, 20).tolist()
    (low, high), _ = interval(counts)
    in_tenths, _ = interval([(71.3 + count / 10) - 71.3 for count in counts])
    assert in_tenths == pytest.approx((low / 10, high / 10), rel=1e-6, abs=1e-9)
    assert interval([-count for count in counts])[0] == pytest.approx((-high, -low), rel=1e-6, abs=1e-9)
