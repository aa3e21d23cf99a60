"""`mergenet report`: a table as far as its runs have finished, as files to read and to cite."""

from dataclasses import replace

import click

from mergenet.cli.tables import TableOptions, table_options
from mergenet.training.files import shown


@click.command(short_help="Renders a table from its finished runs.")
@table_options
@click.option("--effect", type=click.FloatRange(min=0, min_open=True), help="Says how many seeds would find so much.")
def report(options: TableOptions, effect: float | None) -> None:
    """Writes TABLE, as far as its runs have finished, into --results: Markdown, LaTeX, CSV, Parquet, a page, plots.

    What the runs prove is kept beside it, without their weights: `ablate` does not train them again.

    \b
    mergenet report table8
    mergenet report table8 --effect 0.5
    mergenet report table8 --scale cifar16 --results docs/results
    """
    from tune.evidence import write_evidence
    from tune.report import markdown, write_report

    plan, found = options.plan(), options.evidence()
    results = replace(options.assembled(plan, found), effect=effect)
    written = write_report(results, options.folder(plan))
    used = {found[key].name: found[key] for key in plan.cells().values() if key in found}
    written += write_evidence(used.values(), options.folder(plan))
    click.echo(markdown(results))
    click.echo("\nWritten:")
    for path in written:
        click.echo(f"  {shown(path.absolute())}")
