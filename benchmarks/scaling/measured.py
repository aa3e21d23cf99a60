"""What was measured, as a median with the least and the most, and how it is printed and kept."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Of n values."""

    median: float
    least: float
    most: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of some values."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    def shown(self, form: str = "{:.4f}", scale: float = 1.0) -> str:
        """Median (least to most)."""
        middle, least, most = (form.format(scale * value) for value in (self.median, self.least, self.most))
        return f"{middle} ({least} to {most})"

    def plain(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints it as a page has it."""
    for cells in (columns, ["---"] * len(columns), *rows):
        print("|", " | ".join(map(str, cells)), "|")


def keep(folder: Path, name: str, found: Any) -> None:
    """Writes what a section found."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def kept(folder: Path, name: str) -> Any:
    """What a section found before.

    Raises:
        SystemExit: it has not run yet.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        raise SystemExit(f"{path} is not there: run the section '{name}' first")
    return json.loads(path.read_text())
