"""`mergenet sync`: sends records to MLflow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from mergenet.cli.words import runs_option
from mergenet.config import InputError
from mergenet.training.files import shown


@click.command(short_help="Brings MLflow up to the records.")
@click.argument("records", nargs=-1, metavar="[RUN]...")
@runs_option
@click.option(
    "--to", "uri", envvar="MLFLOW_TRACKING_URI", metavar="URI", help="Another MLflow.  [default: RUNS/mlflow.db]"
)
def sync(records: tuple[str, ...], runs: str, uri: str | None) -> None:
    """Brings MLflow up to the records in the folders RUN, or to all records and sweeps there are.

    What it has already is not sent again.

    \b
    mergenet sync
    mergenet sync runs/digits-cross-structure/0123abcd-s0 --to http://127.0.0.1:5000
    """
    from tune.store import default_uri, keep_quiet

    keep_quiet()
    from mergenet.training.copies import fetch_all, record_here, runs_here
    from tune.files import check_record
    from tune.search.ledger import find_logs

    place = runs_here(runs) if records else fetch_all(runs_here(runs))
    folders = [record_here(record) for record in records] or _all_records(place)
    for folder in folders:
        check_record(folder)
    for folder in folders:
        _send(folder, uri or default_uri(folder.absolute().parents[1]))
    for folder in [] if records else find_logs(place):
        _send_sweep(folder, uri or default_uri(folder.absolute().parents[1]))


def _all_records(runs: Path) -> list[Path]:
    found = sorted(path.parent for path in runs.glob("*/*/manifest.json"))
    if not found:
        raise InputError(f"{shown(runs)} holds no records; name a run's folder, or --runs DIR")
    return found


def _send(folder: Path, uri: str) -> None:
    from tune.records import sync

    with _away(uri, folder), TemporaryDirectory(prefix="mergenet-") as aside:
        sent = sync(folder, uri, lambda: _exported(folder, Path(aside)))
    points = f"{sent.points} new point{'' if sent.points == 1 else 's'}"
    click.echo(f"{shown(folder)}  {sent.status}, {points}")


def _send_sweep(folder: Path, uri: str) -> None:
    from tune.search.mirror import sync_sweep

    with _away(uri, folder):
        trials = sync_sweep(folder, uri)
    click.echo(f"{shown(folder)}  {trials} trial{'' if trials == 1 else 's'}")


@contextmanager
def _away(uri: str, folder: Path) -> Iterator[None]:
    """Says in one line that MLflow is away, and what was not sent."""
    from tune.store import Away, without_password

    try:
        yield
    except Away as error:
        raise click.ClickException(
            f"MLflow at {without_password(uri)} is away ({error}); {shown(folder)} is not sent"
        ) from None


def _exported(folder: Path, aside: Path) -> Path | None:
    """The trained model, where MLflow lacks it; this brings torch."""
    from mergenet.jobs import exported

    return exported(folder, aside, allow_code=False)
