"""The models of scale: exact cases, limits, and a simulator that agrees with what can be worked out by hand."""

import math
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from benchmarks.scaling.driver_model import Driver, Sweep, load, mirror_load, most_at_once, shortest_epoch_s
from benchmarks.scaling.simulation import Cluster, Halving, Outcome, Work, play
from benchmarks.scaling.step_model import (
    Learner,
    Link,
    Network,
    Place,
    Trio,
    all_reduce_s,
    broadcast_s,
    buckets_of,
    exposed_s,
    line,
    serial_share,
    speedup,
    step,
    with_cycle,
    workers_worth,
)
from tune.forecast.corners import expected_share
from tune.forecast.cost import Timed, wall_s
from tune.search.sweep import Asha

MILLION = 10**6
LINK = Link(latency_s=0.001, bytes_per_s=1e9)
SLOW = Network(LINK, LINK)
FREE = Network.of(0.0, math.inf)
TRIO = Trio(
    learners=(Learner(0.01, 0.001, (8 * MILLION,), (1000, 8)), Learner(0.02, 0.002, (MILLION, MILLION), (1000,))),
    batch=100,
    transfer_s=0.04,
    cycle=4,
    messages=(1000, 8, MILLION),
)
WORLDS = (1, 2, 3, 4, 8, 64)


# --- messages ------------------------------------------------------------------------------------------------------


def test_a_ring_sends_each_part_round_twice() -> None:
    assert all_reduce_s(1, MILLION, LINK) == 0
    assert all_reduce_s(2, MILLION, LINK) == pytest.approx(2 * (0.001 + 0.0005))
    assert all_reduce_s(4, MILLION, LINK) == pytest.approx(6 * (0.001 + 0.00025))


def test_a_tree_doubles_those_who_have_it() -> None:
    assert [round(broadcast_s(world, MILLION, LINK) / 0.002) for world in (1, 2, 3, 4, 5, 8)] == [0, 1, 2, 2, 3, 3]


def test_buckets_are_full_or_the_last() -> None:
    assert buckets_of([4, 4, 4, 4], first=4, most=8) == (4, 8, 4)
    assert buckets_of([100], first=4, most=8) == (100,)
    assert buckets_of([]) == ()


def test_what_travels_behind_the_backward_pass_costs_nothing_but_its_last_message() -> None:
    each = all_reduce_s(2, MILLION, LINK)
    assert exposed_s((MILLION,) * 4, 0.0, 2, SLOW) == pytest.approx(4 * each)
    assert exposed_s((MILLION,) * 4, 1.5 * each, 2, SLOW) == pytest.approx(2.5 * each)
    assert exposed_s((MILLION,) * 4, 1e9, 2, SLOW) == pytest.approx(each)
    assert exposed_s((), 0.0, 2, SLOW) == 0.0


# --- a step --------------------------------------------------------------------------------------------------------


def test_one_worker_has_nobody_to_talk_to() -> None:
    one = step(TRIO, 1, SLOW, Place(2, crowding=1.5))
    assert one.communication_s == 0
    assert one.seconds == pytest.approx(0.01 + 0.1 + 0.02 + 0.2 + 0.04 / 4)


def test_a_network_that_costs_nothing_leaves_amdahls_law() -> None:
    share = serial_share(TRIO)
    assert share == pytest.approx((0.03 + 0.01) / 0.34)
    for world in WORLDS:
        assert speedup(TRIO, world, FREE, Place()) == pytest.approx(1 / (share + (1 - share) / world))
    assert speedup(TRIO, 10**9, FREE, Place()) == pytest.approx(1 / share)


def test_a_step_by_hand_on_three_workers() -> None:
    one = step(TRIO, 3, SLOW, Place())
    assert one.gradients_s == pytest.approx(4 * (0.001 + 8e-3 / 3) + 2 * 4 * (0.001 + 1e-3 / 3))
    assert one.buffers_s == pytest.approx(2 * (0.003 + 2008e-9))
    assert one.broadcasts_s == pytest.approx(2 * (0.003 + 1001008e-9) / 4)
    assert one.share(one.communication_s) == pytest.approx(1 - one.share(one.computing_s))


def test_a_rarer_transfer_a_faster_line_and_more_processors_never_cost_more() -> None:
    for world in WORLDS:
        rarer = [step(with_cycle(TRIO, cycle), world, SLOW, Place()).seconds for cycle in (1, 2, 4, 16)]
        faster = [step(TRIO, world, Network.of(0.001, rate), Place()).seconds for rate in (1e8, 1e9, 1e10, math.inf)]
        richer = [step(TRIO, world, SLOW, Place(cores)).seconds for cores in (1, 2, 4, None)]
        hidden = [step(TRIO, world, SLOW, Place(overlap=share)).seconds for share in (0.0, 0.5, 1.0)]
        for costs in (rarer, faster, richer, hidden):
            assert all(after <= before for before, after in pairwise(costs))


def test_workers_who_take_turns_are_no_faster_than_those_who_do_not() -> None:
    place = Place(cores=2, crowding=1.1)
    assert [place.slowdown(world) for world in (1, 2, 4)] == [1.0, 1.1, pytest.approx(2.2)]
    free_of_fixed = replace(TRIO, learners=(Learner(0.0, 0.001),), transfer_s=0.0, messages=())
    assert speedup(free_of_fixed, 4, SLOW, Place(cores=2)) == pytest.approx(2.0)


def test_workers_are_worth_it_while_they_do_half_of_what_one_does() -> None:
    assert workers_worth(replace(TRIO, transfer_s=0.0, learners=(Learner(0.0, 0.001),)), FREE, Place(), most=64) == 64
    assert workers_worth(TRIO, FREE, Place()) == 8  # of 1 / (s + (1 - s) / W) at least half of W: W up to 1 + 1 / s
    all_fixed = replace(TRIO, learners=(Learner(1.0, 0.0),))
    assert workers_worth(all_fixed, SLOW, Place(), efficiency=0.51) == 1


def test_a_line_through_points_on_one_and_no_time_below_zero() -> None:
    assert line([(1.0, 3.0), (2.0, 5.0), (3.0, 7.0)]) == pytest.approx((1.0, 2.0))
    assert line([(1.0, 0.0), (2.0, 2.0)]) == pytest.approx((0.0, 0.8))


# --- the driver ----------------------------------------------------------------------------------------------------

DRIVER = Driver(trial_s=0.03, report_s=0.005, message_s=0.0001, ask_s=0.01, ask_growth_s=0.0001)


def test_the_drivers_load_by_hand() -> None:
    sweep = Sweep(at_once=10, epochs=5, epoch_s=2.0)
    assert (sweep.trials_per_s, sweep.reports_per_s) == (1.0, 5.0)
    assert load(DRIVER, sweep, known=100) == pytest.approx(0.03 + 0.01 + 0.01 + 0.025 + 0.002)
    mirrored = replace(DRIVER, mirror_trial_s=0.2, mirror_metric_s=0.001)
    assert mirror_load(mirrored, replace(sweep, metrics=50)) == pytest.approx(0.25)


def test_most_at_once_and_the_shortest_epoch_are_where_the_load_is_one() -> None:
    most = most_at_once(DRIVER, 5, 2.0)
    assert load(DRIVER, Sweep(most, 5, 2.0)) <= 1 < load(DRIVER, Sweep(most + 1, 5, 2.0))
    epoch_s = shortest_epoch_s(DRIVER, 200, 5, known=50)
    assert load(DRIVER, Sweep(200, 5, epoch_s), known=50) == pytest.approx(1.0)
    assert most_at_once(DRIVER, 5, 2.0, known=10_000) < most
    assert shortest_epoch_s(DRIVER, 100_000, 5) == math.inf


# --- the simulator -------------------------------------------------------------------------------------------------

IDLE = Driver(0.0, 0.0)


def constant(seconds: float, trials: int, epochs: int = 1, halving: Halving | None = None) -> Work:
    return Work(trials, epochs, lambda random: seconds, halving)


@pytest.mark.parametrize(("trials", "nodes", "places"), [(7, 3, 1), (12, 2, 2), (1, 5, 1), (10, 1, 1)])
def test_equal_trials_run_in_turns(trials: int, nodes: int, places: int) -> None:
    outcome = play(Cluster(nodes, places), constant(2.0, trials, epochs=3), IDLE)
    assert outcome.makespan_s == pytest.approx(6.0 * math.ceil(trials / (nodes * places)))
    assert outcome.useful_s == pytest.approx(6.0 * trials) and outcome.epochs == 3 * trials
    assert outcome.utilisation == pytest.approx(6.0 * trials / (nodes * places * outcome.makespan_s))
    assert (outcome.driver_s, outcome.waiting_s, outcome.lost_s, outcome.failures) == (0, 0, 0, 0)


def test_places_stand_still_at_the_end_alone() -> None:
    outcome = play(Cluster(4), constant(1.0, 10), IDLE)
    assert (outcome.makespan_s, outcome.utilisation) == (3.0, pytest.approx(10 / 12))
    assert (outcome.drawing_s, outcome.steady_utilisation) == (2.0, 1.0)


def test_unequal_trials_end_when_the_forecast_of_tables_says() -> None:
    def draw(random: Random) -> float:
        return random.uniform(1, 10)

    lengths = Random(3)
    expected = []
    for _ in range(25):
        expected.append(Timed(draw(lengths)))
        lengths.random()  # the trial's quality
    outcome = play(Cluster(4), Work(25, 1, draw), IDLE, seed=3)
    assert outcome.makespan_s == pytest.approx(wall_s(expected, 4))


def test_places_without_end_wait_for_the_driver_alone() -> None:
    driver = Driver(trial_s=0.5, report_s=0.25)
    outcome = play(Cluster(100), constant(0.01, 100), driver)
    assert outcome.makespan_s == pytest.approx(100 * 0.75)
    assert outcome.driver_load == pytest.approx(1.0)


def test_one_place_and_the_driver_take_turns() -> None:
    driver = Driver(trial_s=0.5, report_s=0.25, ask_growth_s=0.1)
    outcome = play(Cluster(1, begin_s=0.125, first_s=4.0), constant(1.0, 3, epochs=2), driver)
    assert outcome.makespan_s == pytest.approx(3 * (0.5 + 2 * 1.25) + 0.1 * (0 + 1 + 2) + 4.0 + 2 * 0.125)
    assert outcome.waiting_s == pytest.approx(outcome.driver_s)


def test_the_drivers_load_is_that_of_the_closed_form_while_it_keeps_up() -> None:
    driver = Driver(trial_s=0.03, report_s=0.005)
    outcome = play(Cluster(20), constant(1.0, 400, epochs=10), driver)
    assert outcome.driver_load == pytest.approx(load(driver, Sweep(20, 10, 1.0)), rel=0.05)


def test_more_nodes_never_make_equal_trials_later_and_a_slower_driver_never_earlier() -> None:
    spans = [play(Cluster(nodes), constant(1.0, 60, 2), DRIVER).makespan_s for nodes in (1, 2, 5, 10, 30)]
    assert all(after <= before for before, after in pairwise(spans))
    slower = [play(Cluster(10), constant(1.0, 60, 2), Driver(t, t)).makespan_s for t in (0.0, 0.01, 0.1, 1.0)]
    assert all(after >= before for before, after in pairwise(slower))


def test_the_same_seed_plays_the_same() -> None:
    def once(seed: int) -> Outcome:
        work = Work(30, 4, lambda random: random.lognormvariate(0.0, 0.5), Halving())
        return play(Cluster(5, 2, between_failures_s=20.0, repair_s=3.0), work, DRIVER, seed)

    assert once(1) == once(1) != once(2)


# --- failures ------------------------------------------------------------------------------------------------------


def test_all_is_done_whatever_dies_and_no_epoch_counts_twice() -> None:
    outcome = play(Cluster(3, 2, between_failures_s=15.0, repair_s=5.0), constant(1.0, 40, 10), IDLE)
    assert outcome.failures > 10
    assert outcome.epochs == 400 and outcome.useful_s == pytest.approx(400.0)
    assert outcome.utilisation < 1 and outcome.lost_s > 0


def test_a_failure_loses_half_an_epoch_of_each_place_on_average() -> None:
    cluster = Cluster(10, 1, between_failures_s=500.0, repair_s=0.0)
    outcome = play(cluster, constant(10.0, 2000, 10), IDLE)
    assert outcome.failures > 300
    assert outcome.lost_s / outcome.failures == pytest.approx(5.0, rel=0.15)


@pytest.mark.parametrize("seed", range(8))
def test_a_trial_whose_node_died_goes_on_elsewhere_from_its_last_epoch(seed: int) -> None:
    outcome = play(Cluster(30, between_failures_s=300.0, repair_s=1e6), constant(1.0, 1, 100), IDLE, seed)
    assert 0 < outcome.failures < 30
    assert outcome.makespan_s == pytest.approx(100 + outcome.lost_s)


# --- halving -------------------------------------------------------------------------------------------------------


def test_halving_runs_more_than_its_share_and_less_than_all() -> None:
    work = constant(1.0, 600, 27, Halving(grace=1, factor=3))
    outcome = play(Cluster(1), work, IDLE)
    share = outcome.epochs / (600 * 27)
    assert expected_share(Asha(grace=1, factor=3), 27) <= share < 0.5
    assert share == pytest.approx(expected_share(Asha(grace=1, factor=3), 27), rel=0.25)
