"""The section `step`: the step model's numbers measured, its predictions, and what steps really take."""

import statistics
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from . import rank
from .groups import Group, groups
from .measured import Spread
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


def table(found: Mapping[str, Any]) -> list[dict[str, Any]]:
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
    """Prints what was measured and how far off the model is; the table's rows."""
    rounds = found["rounds"]
    n = len(rounds)
    print(f"\none process, milliseconds (median of {n}, from the least to the most):")
    for name in rank.TRIOS:
        made = [trio_of(found, one, name, 4) for one in rounds]
        for index, learner in enumerate(("source", "target")):
            fixed = Spread.of([trio.learners[index].fixed_s for trio in made])
            sample = Spread.of([trio.learners[index].sample_s for trio in made])
            print(f"  {name} {learner:<9}fixed {fixed.shown('{:.1f}', 1e3)}  a sample {sample.shown('{:.3f}', 1e3)}")
        print(f"  {name} transfer  {Spread.of([trio.transfer_s for trio in made]).shown('{:.1f}', 1e3)}")
    print(f"crowding of two processes  {Spread.of([crowding_of(one) for one in rounds]).shown('{:.2f}')}")
    for kind in ("reduce", "broadcast"):
        links = [getattr(network_of(one), kind) for one in rounds]
        latency = Spread.of([link.latency_s for link in links]).shown("{:.0f}", 1e6)
        rate = Spread.of([link.bytes_per_s for link in links]).shown("{:.0f}", 1e-6)
        print(f"{kind:<10}a message {latency} us, {rate} MB/s")
    print("bytes:", found["messages"])
    rows = table(found)
    print(f"\na step, milliseconds, n = {n}; of each the median, least and most, and the least against the least:")
    print("trio   cycle  W  measured              predicted             error, %            least of both    error, %")
    for row in rows:
        off = 100 * (row["least predicted_s"] / row["least_s"] - 1)
        print(
            f"{row['trio']:<8}{row['cycle']:>4}{row['workers']:>3}  {row['measured_s'].shown('{:.0f}', 1e3):<22}"
            f"{row['predicted_s'].shown('{:.0f}', 1e3):<22}{row['error'].shown('{:+.0f}', 100):<20}"
            f"{1e3 * row['least_s']:.0f} {1e3 * row['least predicted_s']:.0f} {off:>+14.0f}"
        )
    print("\ncommunication, per cent of the measured step, waiting for the slowest included; in brackets as predicted:")
    print("trio   cycle  W  all              DDP: gradients, statistics   broadcasts of the transfer")
    for row in rows:
        if row["workers"] > 1:
            said = [row[f"predicted {key}"].shown("{:.0f}", 100) for key in ("ddp", "broadcasts")]
            found_ = [row[key].shown("{:.0f}", 100) for key in ("communication", "ddp", "broadcasts")]
            print(
                f"{row['trio']:<8}{row['cycle']:>4}{row['workers']:>3}  {found_[0]:<17}"
                f"{found_[1]} [{said[0]}]   {found_[2]} [{said[1]}]"
            )
    return rows
