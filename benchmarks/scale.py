"""What a step and a sweep cost as workers and nodes grow: models, measurements beside them, and a simulated cluster.

    .venv/bin/python benchmarks/scale.py [step paper driver nodes simulate] [--rounds 5] [--out results/scale]

`step`: trios on 1, 2, 3 and 4 processes, beside a closed form that knows one process and messages between two.
`paper`: ResNet50 and MobileNetV2 on CIFAR-100: bytes counted, a process measured, clusters computed.
`driver`: what the driver of a sweep does a trial, an epoch's figure, a message, a point in MLflow.
`nodes`: sweeps on 1, 2, 5 and 10 Ray nodes on loopback addresses, beside the simulator.
`simulate`: the simulator on up to a thousand nodes, with the driver that `driver` measured.
`show`: prints and draws what was kept before.

Everything of one section takes its turn in every round. What is found is kept as JSON, with two plots.
The whole took 18 minutes on two cores that were not idle. The models are `scaling/step_model.py`, `driver_model.py`
and `simulation.py`.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from scaling import drawing, driving, nodes, paper, plays, rank, steps
from scaling.driver_model import Driver
from scaling.measured import Spread, keep, kept

SECTIONS = ("step", "paper", "driver", "nodes", "simulate")
MEASURES = {"step": steps.measure, "paper": paper.measure, "driver": driving.measure, "nodes": nodes.measure}
MOST_ROUNDS = {"paper": 3, "nodes": 3}
"""Of sections whose rounds are long."""
SEEDS = 5


def driver_of(out: Path) -> Driver:
    """The driver that was measured: the median of each of its numbers."""
    numbers = driving.numbers(kept(out, "driver"))
    return Driver(**{name: max(0.0, Spread.of(values).median) for name, values in numbers.items()})


def show(section: str, out: Path) -> None:
    """Prints what a section found, and draws it."""
    if section == "step":
        drawing.draw_steps(steps.show(kept(out, "step")), out / "steps.png")
    elif section == "paper":
        keep(out, "computed", paper.show(kept(out, "paper")))
    elif section == "driver":
        driving.show(kept(out, "driver"))
    elif section == "nodes":
        nodes.show(kept(out, "nodes"), driver_of(out))
    else:
        rows: list[dict[str, Any]] = plays.run(driver_of(out), SEEDS)
        plays.show(driver_of(out), rows)
        keep(out, "simulated", plays.plain(rows))
        drawing.draw_plays(rows, out / "plays.png")


def main() -> None:
    """Measures what is asked for, then shows it."""
    if sys.argv[1:] == ["rank"]:  # a process of a group
        rank.main()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, "show"], default=SECTIONS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/scale"))
    asked = parser.parse_args()
    again = "show" in asked.sections
    for section in [one for one in asked.sections if one != "show"] or SECTIONS:
        begin = time.monotonic()
        if section in MEASURES and not again:
            rounds = min(asked.rounds, MOST_ROUNDS.get(section, asked.rounds))
            keep(asked.out, section, MEASURES[section](rounds))
        show(section, asked.out)
        print(f"[{section}: {time.monotonic() - begin:.0f} s]", flush=True)


if __name__ == "__main__":
    main()
