"""`mergenet cluster`: looks at a cluster before anything runs on it, and sends it jobs."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mergenet.cli.cluster_jobs import logs, status, stop, submit
from mergenet.cli.words import mirror_to, read_paths
from mergenet.training.copies import runs_here
from mergenet.training.files import shown

if TYPE_CHECKING:
    from cluster.finding import Finding
    from cluster.preflight import Check

MLFLOW_S = 60.0


@click.group()
def cluster() -> None:
    """Looks at a cluster, and sends it jobs."""


for command in (submit, status, logs, stop):
    cluster.add_command(command)


@cluster.command()
@click.option("--address", metavar="HOST:PORT", help="Of the cluster's head.  [default: a Ray on this machine]")
@click.option("--data", "data", multiple=True, metavar="NAME=PATH", help="Where a data set lies; may be repeated.")
@click.option(
    "--storage",
    default="runs",
    envvar="MERGENET_RUNS",
    show_default=True,
    metavar="PATH",
    help="Where records will lie: a folder, or a URI.",
)
@click.option(
    "--mlflow", default="auto", metavar="URI", help="As of `train`, or `off`.  [default: SQLite in --storage]"
)
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Processes that share a batch.  [default: one a node]"
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--one-machine", is_flag=True, help="Several nodes on one machine are meant so.")
def preflight(
    address: str | None,
    data: tuple[str, ...],
    storage: str,
    mlflow: str,
    workers: int | None,
    device: Any,
    one_machine: bool,
) -> int:
    """Finds what is broken in a cluster before it costs money.

    Run it on a machine of the cluster. Exit code 1 where something is bad.

    \b
    mergenet cluster preflight
    mergenet cluster preflight --address 10.0.0.1:6379 --storage /mnt/runs --workers 8
    """
    from mergenet.cli.show import print_finding

    wanted_data = read_paths(data)
    before = [_mlflow(mlflow, runs_here(storage))]

    from cluster.preflight import Wanted
    from cluster.preflight import preflight as findings

    some_bad = False
    for finding in findings(Wanted(address, wanted_data, storage, workers, device, one_machine), before):
        print_finding(finding.name, finding.verdict, finding.text, finding.remedy)
        some_bad |= finding.verdict == "bad"
    return int(some_bad)


def _mlflow(mlflow: str, runs: Path) -> "Check":
    """It is this process that speaks to MLflow, not the nodes."""
    from cluster.preflight import Check

    uri = mirror_to(mlflow, runs)
    remedy = "start it, or let this machine reach it; a run goes on without it (--mlflow off says so for good)"
    return Check("MLflow", partial(_look_at_mlflow, uri), remedy, MLFLOW_S)


def _look_at_mlflow(uri: str | None) -> "Finding":
    from cluster.finding import bad, good, skipped
    from tune.store import Away, answers, database_of, without_password

    if uri is None:
        return skipped("off")
    database = database_of(uri)
    name = without_password(uri) if database is None else shown(database)
    if database is not None and not database.exists():
        return skipped(f"{name} is made when the first run begins")
    try:
        answers(uri)
    except Away as error:
        upgrade = f"back it up, then `mlflow db upgrade {without_password(uri)}`" if "schema" in str(error) else ""
        return bad(f"{name}: {error}", upgrade)
    return good(f"{name} answers")
