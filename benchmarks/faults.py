"""What a fault costs: seconds until a run goes on, and ticks that are done again, by the tests of faults, repeated.

    .venv/bin/python benchmarks/faults.py [--rounds 3] [-k WORDS]

A run of 12 ticks on digits, two workers, a checkpoint every 3 ticks, struck after its fifth; a trial of one worker.
Counted from the fault to the moment at which a new worker has read the checkpoint.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

TESTS = ["tests/test_faults_nodes.py", "tests/test_faults_hosts.py"]


def main() -> None:
    """Reads the command line and prints a line for each fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-k", default="", help="Only tests that fit, as pytest has it.")
    options = parser.parse_args()
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as kept:
        for _ in range(options.rounds):
            command = [sys.executable, "-m", "pytest", "-q", *TESTS, "-k", options.k]
            subprocess.run(command, env={**os.environ, "MERGENET_FAULTS": kept.name}, check=True)
        show(Path(kept.name))


def show(kept: Path) -> None:
    """The figures in a file that tests wrote."""
    costs: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for line in map(json.loads, kept.read_text().splitlines()):
        costs[line["fault"]].append((line["seconds"], line["wasted_ticks"]))
    for fault, figures in costs.items():
        seconds, ticks = zip(*figures, strict=True)
        print(
            f"{fault:32} {statistics.median(seconds):5.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), "
            f"{statistics.median(ticks):g} ticks ({min(ticks)} to {max(ticks)}), n = {len(figures)}"
        )


if __name__ == "__main__":
    main()
