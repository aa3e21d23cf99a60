"""`mergenet report`: a table or a sweep as far as its runs have finished, as files to read and to cite."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import click

from mergenet.cli.tables import TableOptions, table_options
from mergenet.training.files import shown


@click.command(short_help="Renders a table or a sweep from its finished runs.")
@table_options
@click.option("--effect", type=click.FloatRange(min=0, min_open=True), help="Says how many seeds would find so much.")
def report(options: TableOptions, effect: float | None) -> None:
    """Writes TABLE, as far as its runs have finished, into --results: Markdown, LaTeX, CSV, Parquet, a page, plots.

    What the runs prove is kept beside it, without their weights: `ablate` does not train them again.

    A sweep is named like a table, or by its folder; of the options only --runs and --results are about it.

    \b
    mergenet report table8
    mergenet report table8 --effect 0.5
    mergenet report digits-pairing
    mergenet report table8 --scale cifar16 --results docs/results
    """
    if is_sweep(options.table, options.runs):
        _render_sweep(options)
    else:
        render_table(options, effect)


def render_table(options: TableOptions, effect: float | None) -> None:
    """Writes a table's report and prints it."""
    from tune.evidence import write_evidence
    from tune.report import markdown, write_report

    plan, found = options.plan(), options.evidence()
    results = replace(options.assembled(plan, found), effect=effect)
    written = write_report(results, options.folder(plan))
    used = {found[key].name: found[key] for key in plan.cells().values() if key in found}
    written += write_evidence(used.values(), options.folder(plan))
    _print(markdown(results), written)


def is_sweep(named: str, runs: Path) -> bool:
    """Whether this is a sweep's name or file, or the name or folder of one that began."""
    from tune.search.ledger import DEFINITION, find_logs
    from tune.search.sweep import holds_sweep, sweeps

    begun = "://" in named or (Path(named) / DEFINITION).exists() or bool(find_logs(runs, named))
    return begun or named in sweeps() or holds_sweep(named)


def _render_sweep(options: TableOptions) -> None:
    from tune.report.sweep import markdown, write_sweep_report
    from tune.search.ledger import find_log, read_log
    from tune.search.sweep import holds_sweep, load_sweep

    named = load_sweep(options.table).name if holds_sweep(options.table) else options.table
    log = read_log(find_log(options.runs, named))
    _print(markdown(log), write_sweep_report(log, options.results / log.label))


def _print(text: str, written: Iterable[Path]) -> None:
    click.echo(text)
    click.echo("\nWritten:")
    for path in written:
        click.echo(f"  {shown(path.absolute())}")
