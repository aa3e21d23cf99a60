"""What `ablate` and `report` have in common: which table, at which scale, with which seeds, and where its runs lie."""

import functools
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergenet.cli.words import read_paths, runs_option
from mergenet.config import InputError

if TYPE_CHECKING:
    from tune.cells import TablePlan
    from tune.evidence import Evidence
    from tune.results import Protocol, Results


@dataclass(frozen=True)
class TableOptions:
    """What was said of a table.

    Attributes:
        table: its name, or the path of a YAML file.
        seeds: how many; None as the table says.
        chosen_seeds: these alone; none for `seeds`.
        runs, results: folders of records, and of reports with the evidence that was committed with them.
    """

    table: str
    scale: str
    seeds: int | None
    protocol: "Protocol"
    data: tuple[str, ...]
    runs: Path
    results: Path
    chosen_seeds: tuple[int, ...] = ()

    def plan(self) -> "TablePlan":
        """The table with all of its cells, checked."""
        from tune.assemble import PROTOCOLS
        from tune.cells import plan_table
        from tune.table import load_table, seeds_of

        if self.seeds is not None and self.chosen_seeds:
            raise InputError("--seed names seeds and --seeds counts them; leave one out")
        table = load_table(self.table)
        seeds = tuple(dict.fromkeys(self.chosen_seeds)) or seeds_of(table, self.scale, self.seeds)
        return plan_table(table, self.scale, seeds, read_paths(self.data), PROTOCOLS[self.protocol])

    def shows(self, evidence: "Evidence") -> bool:
        """Whether a finished run has what the protocol reads."""
        from tune.assemble import shows

        return shows(evidence, self.protocol)

    def assembled(self, plan: "TablePlan", evidence: "Mapping[str, Evidence]") -> "Results":
        """The table as far as its runs have finished."""
        from tune.assemble import assemble

        return assemble(plan, evidence, self.protocol, self.command(), self.command(with_seeds=False))

    def evidence(self) -> "dict[str, Evidence]":
        """Key of a cell -> the finished run it is in, of all that the protocol can read."""
        from tune.evidence import find_evidence

        return find_evidence(self.runs, self.results, self.shows)

    def command(self, name: str = "ablate", with_seeds: bool = True) -> str:
        """What makes the table on another machine; where things lie here is left out."""
        words = ["mergenet", name, self.table, "--scale", self.scale]
        words += ["--protocol", self.protocol] if self.protocol != "last" else []
        if with_seeds:
            words += ["--seeds", str(self.seeds)] if self.seeds else []
            words += [word for seed in self.chosen_seeds for word in ("--seed", str(seed))]
        return shlex.join(words)

    def folder(self, plan: "TablePlan") -> Path:
        """Where the report goes."""
        protocol = "" if self.protocol == "last" else f"-{self.protocol}"
        return self.results / f"{plan.table.name}-{self.scale}{protocol}"


def table_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the argument TABLE and what goes with it, as one `TableOptions` before its own options."""

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        from mergenet.training.copies import fetch_all, runs_here

        common = {
            "table": values.pop("table"),
            "scale": values.pop("scale"),
            "seeds": values.pop("seeds"),
            "protocol": values.pop("protocol"),
            "data": values.pop("data"),
            "runs": fetch_all(runs_here(values.pop("runs"))),
            "results": Path(values.pop("results")),
        }
        command(TableOptions(**common), **values)

    for option in reversed(
        [
            click.argument("table"),
            click.option("--scale", default="digits", show_default=True, help="On which data and models."),
            click.option(
                "--seeds", type=click.IntRange(min=1), help="So many, from 0.  [default: what the table says]"
            ),
            click.option(
                "--protocol",
                type=click.Choice(["last", "best", "best-test"]),
                default="last",
                show_default=True,
                help="Figures of the last epoch, of the best on validation, or, as in the paper, of the best on test.",
            ),
            click.option("--data", multiple=True, metavar="NAME=PATH", help="Where a data set lies; may be repeated."),
            runs_option,
            click.option(
                "--results",
                default="results",
                envvar="MERGENET_RESULTS",
                show_default=True,
                help="Folder of reports; what was kept there counts as finished.",
            ),
        ]
    ):
        with_options = option(with_options)
    return with_options
