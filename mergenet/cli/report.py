"""`mergenet report`: a table as far as its runs have finished, as files to read and to cite."""

import click

from mergenet.cli.tables import TableOptions, table_options
from mergenet.training.files import shown


@click.command(short_help="Renders a table from its finished runs.")
@table_options
def report(options: TableOptions) -> None:
    """Writes TABLE, as far as its runs have finished, into --results: Markdown, LaTeX, CSV, Parquet, a page, plots.

    What the runs prove is kept beside it, without their weights: `ablate` does not train them again.

    \b
    mergenet report table8
    mergenet report table8 --scale cifar16 --results docs/results
    """
    from tune.evidence import find_evidence, write_evidence
    from tune.report import markdown, write_report

    plan = options.plan()
    results = options.assembled(plan)
    written = write_report(results, options.folder())
    found = find_evidence(options.runs, options.results)
    used = {one.name: one for key in plan.cells().values() if (one := found.get(key)) is not None}
    write_evidence(used.values(), options.folder())
    click.echo(markdown(results))
    click.echo("\nWritten:")
    for path in written:
        click.echo(f"  {shown(path.absolute())}")
