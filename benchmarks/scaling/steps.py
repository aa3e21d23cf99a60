"""The section `step`: the step model's numbers measured, its predictions, and what steps really take."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from . import rank
from .groups import Group, groups
from .measured import Spread, table
from .step_model import Learner, Link, Network, Place, Step, Trio, line, step

CORES = 2
WORLDS = (1, 2, 3, 4)
TICKS = 4
SHORT, LONG = 4, 4 * 2**20
SIZES = (SHORT, 2**18, LONG, 2**24)
REDUCTIONS = 7


def measure(rounds: int) -> dict[str, Any]:
    """Rounds in which everything takes its turn, the first of which is not counted."""
    with groups([1, *WORLDS]) as (beside, *ladder):
        alone, pair = ladder[0], ladder[1]
        messages = {trio: pair.ask("messages", trio=trio)[0] for trio in rank.TRIOS}
        for trio in rank.TRIOS:
            alone.ask("parts", trio=trio)
        found = []
        for number in range(rounds + 1):
            found.append(_one_round(beside, alone, ladder))
            print(f"round {number} of {rounds}", flush=True)
    return {"messages": messages, "rounds": found[1:]}


def _one_round(beside: Group, alone: Group, ladder: Sequence[Group]) -> dict[str, Any]:
    usual = {"trio": "small", "cycle": 4, "manner": "none", "count": TICKS}
    by_itself = alone.ask("ticks", **usual)[0]
    beside.tell("ticks", **usual | {"count": 2 * TICKS})  # so that it is busy for as long
    together = alone.ask("ticks", **usual)[0]
    beside.answers()
    return {
        "crowding": {"alone": by_itself, "together": together},
        "parts": {trio: alone.ask("parts", trio=trio)[0] for trio in rank.TRIOS},
        "reduce": {
            world: {size: _middle(group.ask("reduce", size=size, count=REDUCTIONS)) for size in SIZES}
            for world, group in zip(WORLDS[1:], ladder[1:], strict=True)
        },
        "broadcast": {
            world: {size: _middle(group.ask("broadcast", size=size, count=REDUCTIONS)) for size in SIZES}
            for world, group in zip(WORLDS[1:], ladder[1:], strict=True)
        },
        "ticks": {
            trio: {
                cycle: {
                    world: {
                        manner: max(group.ask("ticks", trio=trio, cycle=cycle, manner=manner, count=TICKS))
                        for manner in (rank.MANNERS if world > 1 else ("all",))
                    }
                    for world, group in zip(WORLDS, ladder, strict=True)
                }
                for cycle in rank.CYCLES
            }
            for trio in rank.TRIOS
        },
    }


def _middle(by_rank: Sequence[Sequence[float]]) -> float:
    """The slowest rank's time of each message, then the median of all messages."""
    return statistics.median(max(times) for times in zip(*by_rank, strict=True))


# --- from one process and a pair's messages to any number ---------------------------------------------------------


def network_of(one: Mapping[str, Any]) -> Network:
    """A pair's messages, short and long: a reduction among two is two messages of half the size, a broadcast is one."""

    def link(times: Mapping[str, float], messages: int) -> Link:
        longer = max(times[str(LONG)] - times[str(SHORT)], 1e-9)
        return Link(times[str(SHORT)] / messages, LONG / longer)

    return Network(link(one["reduce"]["2"], 2), link(one["broadcast"]["2"], 1))


def trio_of(found: Mapping[str, Any], one: Mapping[str, Any], name: str, cycle: int) -> Trio:
    """A trio by what one process took in one round, with bytes as counted."""
    parts, messages = one["parts"][name], found["messages"][name]
    learners = []
    for learner, times in parts["steps"].items():
        fixed, sample = line([(float(batch), seconds) for batch, seconds in times.items()])
        counted = messages["learners"][learner]
        learners.append(Learner(fixed, sample, tuple(counted["buckets"]), tuple(counted["buffers"])))
    return Trio(tuple(learners), rank.BATCH, parts["transfer"], cycle, tuple(messages["transfer"]))


def predicted(found: Mapping[str, Any], one: Mapping[str, Any], name: str, cycle: int, world: int) -> Step:
    """A step on this machine by the model."""
    return step(trio_of(found, one, name, cycle), world, network_of(one), Place(CORES, crowding_of(one)))


def crowding_of(one: Mapping[str, Any]) -> float:
    """How much longer a process takes beside another one."""
    return max(1.0, one["crowding"]["together"] / one["crowding"]["alone"])


def least(rounds: Sequence[Any]) -> Any:
    """A round of the least of every number in some rounds: what else a machine does only adds to times."""
    if isinstance(rounds[0], Mapping):
        return {key: least([one[key] for one in rounds]) for key in rounds[0]}
    return min(rounds)


def table_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each trio, cycle and number of processes; errors and shares are of each round's own pair."""
    return [_row(found, *kind) for kind in product(rank.TRIOS, rank.CYCLES, WORLDS)]


def _row(found: Mapping[str, Any], name: str, cycle: int, world: int) -> dict[str, Any]:
    rounds = found["rounds"]
    models = [predicted(found, one, name, cycle, world) for one in rounds]
    ticks = [one["ticks"][name][str(cycle)][str(world)] for one in rounds]
    model, tick = predicted(found, least(rounds), name, cycle, world), least(ticks)
    row = {
        "trio": name,
        "cycle": cycle,
        "workers": world,
        "measured_s": Spread.of([one["all"] for one in ticks]),
        "predicted_s": Spread.of([one.seconds for one in models]),
        "error": Spread.of([model.seconds / one["all"] - 1 for model, one in zip(models, ticks, strict=True)]),
        "predicted ddp": Spread.of([one.share(one.gradients_s + one.buffers_s) for one in models]),
        "predicted broadcasts": Spread.of([one.share(one.broadcasts_s) for one in models]),
        "transfer share": Spread.of([one.share(one.transfer_s) for one in models]),
        "least_s": tick["all"],
        "least predicted_s": model.seconds,
    }
    if world > 1:
        row["ddp"] = Spread.of([(one["all"] - one["adapter"]) / one["all"] for one in ticks])
        row["broadcasts"] = Spread.of([(one["adapter"] - one["none"]) / one["all"] for one in ticks])
        row["communication"] = Spread.of([(one["all"] - one["none"]) / one["all"] for one in ticks])
    return row


def show(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Prints what was measured and how far off the model is; the rows."""
    rows = table_of(found)
    print(f"\nn = {len(found['rounds'])} rounds, median (least to most). What goes into the model:\n")
    table(["", "fixed, ms", "a sample, ms", "bytes"], _inputs(found))
    print("\nA step, ms:\n")
    columns = [
        "adapter",
        "cycle",
        "processes",
        "measured",
        "predicted",
        "error, %",
        "the least: measured, predicted, error",
    ]
    table(columns, [_compared(row) for row in rows])
    print("\nCommunication, % of the measured step, waiting for the slowest included; in brackets as predicted:\n")
    columns = ["adapter", "cycle", "processes", "all", "DDP: gradients, statistics", "broadcasts of the transfer"]
    table(columns, [_shares(row) for row in rows if row["workers"] > 1])
    return rows


def _inputs(found: Mapping[str, Any]) -> Iterator[list[str]]:
    rounds = found["rounds"]
    for name in rank.TRIOS:
        trios = [trio_of(found, one, name, 1) for one in rounds]
        for index, learner in enumerate(rounds[0]["parts"][name]["steps"]):
            fixed = Spread.of([trio.learners[index].fixed_s for trio in trios]).shown("{:.1f}", 1e3)
            sample = Spread.of([trio.learners[index].sample_s for trio in trios]).shown("{:.3f}", 1e3)
            yield [f"{learner}, {name}", fixed, sample, f"{sum(trios[0].learners[index].buckets):,}"]
        transfer = Spread.of([trio.transfer_s for trio in trios]).shown("{:.1f}", 1e3)
        layer, _, adapter = trios[0].messages
        yield [f"transfer, {name}", transfer, "", f"layer {layer:,}, adapter {adapter:,}"]
    for kind in ("reduce", "broadcast"):
        links = [getattr(network_of(one), kind) for one in rounds]
        latency = Spread.of([link.latency_s for link in links]).shown("{:.3f}", 1e3)
        rate = Spread.of([link.bytes_per_s for link in links]).shown("{:.0f}", 1e-6)
        yield [f"a message, {kind}", latency, "", f"{rate} MB/s"]
    yield ["crowding of two processes", f"x {Spread.of([crowding_of(one) for one in rounds]).shown('{:.2f}')}", "", ""]


def _compared(row: Mapping[str, Any]) -> list[Any]:
    off = 100 * (row["least predicted_s"] / row["least_s"] - 1)
    return [
        row["trio"],
        row["cycle"],
        row["workers"],
        row["measured_s"].shown("{:.0f}", 1e3),
        row["predicted_s"].shown("{:.0f}", 1e3),
        row["error"].shown("{:+.0f}", 100),
        f"{1e3 * row['least_s']:.0f}, {1e3 * row['least predicted_s']:.0f}, {off:+.0f} %",
    ]


def _shares(row: Mapping[str, Any]) -> list[Any]:
    ddp, broadcasts = (row[f"predicted {key}"].shown("{:.0f}", 100) for key in ("ddp", "broadcasts"))
    return [
        row["trio"],
        row["cycle"],
        row["workers"],
        row["communication"].shown("{:.0f}", 100),
        f"{row['ddp'].shown('{:.0f}', 100)} [{ddp}]",
        f"{row['broadcasts'].shown('{:.0f}', 100)} [{broadcasts}]",
    ]
