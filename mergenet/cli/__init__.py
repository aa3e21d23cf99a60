"""The front door: one file a command. Bad input is one line on standard error and exit code 2."""

import signal
import sys
from types import FrameType

import click

from mergenet import __version__
from mergenet.cli.ablate import ablate
from mergenet.cli.cluster import cluster
from mergenet.cli.data import data
from mergenet.cli.export import export
from mergenet.cli.models import models
from mergenet.cli.plan import plan
from mergenet.cli.report import report
from mergenet.cli.sweep import sweep
from mergenet.cli.sync import sync
from mergenet.cli.train import train
from mergenet.cli.ui import ui
from mergenet.config import InputError
from mergenet.training.remote import Away


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mergenet")
@click.pass_context
def commands(context: click.Context) -> None:
    """Models that teach each other through their weights: train, distribute, record."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


commands.add_command(train)
commands.add_command(ablate)
commands.add_command(sweep)
commands.add_command(plan)
commands.add_command(report)
commands.add_command(models)
commands.add_command(data)
commands.add_command(export)
commands.add_command(sync)
commands.add_command(cluster)
commands.add_command(ui)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Runs a command line.

    Exit code 0 when it did, 2 for bad input, 1 when a run failed or a cluster is not fit, 130 when interrupted.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = commands.main(prog_name="mergenet", standalone_mode=False)
    except click.ClickException as error:
        code = _refuse(error.format_message(), 2 if isinstance(error, click.UsageError) else error.exit_code)
    except InputError as error:
        code = _refuse(str(error), 2)
    except Away as error:
        code = _refuse(f"the object store is away: {error}; nothing is lost, go on when it is back", 1)
    except (click.Abort, KeyboardInterrupt):
        code = _refuse("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _refuse(message: str, code: int) -> int:
    print(f"mergenet: {' '.join(message.split())}", file=sys.stderr)
    return code
