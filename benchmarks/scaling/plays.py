"""The section `simulate`: sweeps on clusters of up to a thousand nodes, with a driver as it was measured."""

import math
from collections.abc import Mapping
from random import Random
from typing import Any

from .driver_model import Driver, Sweep, load, most_at_once
from .measured import Spread, table
from .simulation import Cluster, Halving, Outcome, Work, play

NODES = (10, 30, 100, 300, 1000)
EPOCHS = 30
A_PLACE = 4
"""Trials that each place comes to run, on average."""
EPOCH_S = (1.0, 10.0, 60.0)
SIGMA = 0.3
"""An epoch's seconds: lognormal among trials, with this deviation of the logarithm: nine in ten in 0.6 to 1.6."""
FIRST_S, BEGIN_S = 5.1, 0.07
"""From being given a trial to its first tick (benchmarks/README.md, sweep.py start)."""
DAY = 86400.0
SCENARIOS: dict[str, dict[str, Any]] = {
    "random": {},
    "tpe": {"tpe": True},
    "asha": {"halving": Halving(grace=1, factor=3)},
    "failures": {"between_failures_s": DAY},
}


def run(driver: Driver, seeds: int) -> list[dict[str, Any]]:
    """A row for each scenario, length of an epoch and size of the cluster, of one trial at a time a node."""
    rows = []
    for scenario in SCENARIOS:
        for epoch_s in EPOCH_S:
            for nodes in NODES:
                played = [one(driver, scenario, epoch_s, nodes, seed) for seed in range(seeds)]
                rows.append(_row(driver, scenario, epoch_s, nodes, played))
    return rows


def one(driver: Driver, scenario: str, epoch_s: float, nodes: int, seed: int) -> Outcome:
    """A sweep of one scenario."""
    options = SCENARIOS[scenario]

    def draw(random: Random) -> float:
        return random.lognormvariate(math.log(epoch_s), SIGMA)

    cluster = Cluster(
        nodes, 1, options.get("between_failures_s", math.inf), repair_s=300.0, begin_s=BEGIN_S, first_s=FIRST_S
    )
    work = Work(A_PLACE * nodes, EPOCHS, draw, options.get("halving"))
    return play(cluster, work, asking(driver, scenario), seed)


def asking(driver: Driver, scenario: str) -> Driver:
    """The driver with TPE's draws, or without."""
    return driver if SCENARIOS[scenario].get("tpe") else Driver(driver.trial_s, driver.report_s, driver.message_s)


def _row(driver: Driver, scenario: str, epoch_s: float, nodes: int, played: list[Outcome]) -> dict[str, Any]:
    run = Spread.of([outcome.epochs / (A_PLACE * nodes * EPOCHS) for outcome in played])
    epochs = max(1, round(EPOCHS * run.median))
    closed = load(asking(driver, scenario), Sweep(nodes, epochs, epoch_s), known=A_PLACE * nodes // 2)
    return {
        "scenario": scenario,
        "epoch_s": epoch_s,
        "nodes": nodes,
        "utilisation": Spread.of([outcome.utilisation for outcome in played]),
        "steady": Spread.of([outcome.steady_utilisation for outcome in played]),
        "driver": Spread.of([outcome.driver_load for outcome in played]),
        "closed": closed,
        "makespan_s": Spread.of([outcome.makespan_s for outcome in played]),
        "lost": Spread.of([outcome.lost_s / (outcome.useful_s + outcome.lost_s) for outcome in played]),
        "epochs": run,
    }


def show(driver: Driver, rows: list[dict[str, Any]]) -> None:
    """Prints rows, and where the closed form has the driver's end."""
    print(f"\nSimulated, {rows[0]['steady'].n} seeds, per cent:\n")
    columns = ["scenario", "an epoch, s", "nodes", "places at work until the last draw", "in all", "driver busy"]
    table([*columns, "by the closed form", "hours", "epochs run", "epochs lost"], map(_shown, rows))
    print(f"\nComputed: trials at once that the driver bears, of {EPOCHS} epochs:\n")
    known = (0, 1000, 10000)
    table(
        ["an epoch, s", "random draws", *(f"TPE that knows {number}" for number in known)],
        [
            [
                f"{epoch_s:g}",
                most_at_once(asking(driver, "random"), EPOCHS, epoch_s),
                *(most_at_once(driver, EPOCHS, epoch_s, number) for number in known),
            ]
            for epoch_s in EPOCH_S
        ],
    )


def _shown(row: Mapping[str, Any]) -> list[Any]:
    shares = [row[key].shown("{:.0f}", 100) for key in ("steady", "utilisation", "driver")]
    hours = row["makespan_s"].shown("{:.2f}", 1 / 3600)
    ends = [f"{100 * row['closed']:.0f}", hours, f"{100 * row['epochs'].median:.0f}", f"{100 * row['lost'].median:.2f}"]
    return [row["scenario"], f"{row['epoch_s']:g}", row["nodes"], *shares, *ends]


def plain(rows: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    """For JSON."""
    return [{key: value.plain() if isinstance(value, Spread) else value for key, value in row.items()} for row in rows]
