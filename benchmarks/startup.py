"""What `mergenet --help` costs beside `import torch`: whole processes, in turn, ratio pair by pair.

    .venv/bin/python benchmarks/startup.py [PAIRS]

Goal: a ratio of at most 1.5.
"""

import statistics
import subprocess
import sys
import time


def seconds(*words: str) -> float:
    """Wall time of one Python process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    """Measures pairs after one that is not counted, and prints medians and the ratio's spread."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    measured = [(seconds("-m", "mergenet", "--help"), seconds("-c", "import torch")) for _ in range(pairs + 1)][1:]
    ratios = [own / torch for own, torch in measured]
    own, torch = (statistics.median(column) for column in zip(*measured, strict=True))
    print(f"mergenet --help {own:.2f} s, import torch {torch:.2f} s (medians of {pairs})")
    print(f"ratio: median {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
