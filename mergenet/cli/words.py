"""What the commands read from, and say of, a command line."""

import shutil
import sys
from pathlib import Path

import click
from typing_extensions import override

from mergenet.config import InputError
from mergenet.training.files import shown


class Ended(click.ClickException):
    """A command that came to its end in another way than it was to: one line, and its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code: int = code  # type: ignore[misc]  # declared for the class


class Workers(click.ParamType[range]):
    """`N`, or `MIN-MAX` where the number may change: all the numbers there may be.

    Args:
        fixed: why the number of what is asked for may not change.
    """

    name = "N|MIN-MAX"

    def __init__(self, fixed: str = "") -> None:
        self._fixed = fixed

    @override
    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> range:
        least, dash, most = value.partition("-")
        if dash and self._fixed:
            self.fail(f"'{value}': {self._fixed}; say how many", param, ctx)
        numbers = [int(word) if word.isdecimal() else 0 for word in (least, most if dash else least)]
        if not 1 <= numbers[0] <= numbers[1]:
            what = "a number from 1 on" if self._fixed else "a number from 1 on, or MIN-MAX, as 2-4"
            self.fail(f"'{value}': write {what}", param, ctx)
        return range(numbers[0], numbers[1] + 1)


runs_option = click.option(
    "--runs",
    default="runs",
    envvar="MERGENET_RUNS",
    show_default=True,
    help="Folder of all records, or s3://BUCKET/FOLDER.",
)


def runs_words(runs: Path) -> list[str]:
    """What to type to find the same records again."""
    return [] if str(runs) == "runs" else ["--runs", shown(runs)]


def read_paths(data: tuple[str, ...]) -> dict[str, str]:
    """`--data NAME=PATH`, as often as it was said."""
    paths = {}
    for entry in data:
        name, equals, path = entry.partition("=")
        if not equals or not name or not path:
            raise InputError(f"--data {entry}: write it as NAME=PATH, for example cifar100=data/cifar100")
        paths[name] = path
    return paths


def own_name() -> list[str]:
    """What to type to run this program again from here."""
    from mergenet.training import ranks

    program = Path(sys.argv[0])
    if ranks.launched_by_torchrun():
        return ["torchrun", "--nproc-per-node", str(ranks.world()), "-m", "mergenet"]
    if program.name == "__main__.py":
        return ["python", "-m", "mergenet"]
    on_path = shutil.which(program.name)
    return [program.name if on_path and Path(on_path).samefile(program) else shown(program.absolute())]


def mirror_to(mlflow: str, runs: Path) -> str | None:
    """Where many runs are mirrored to, checked, with this process made ready to speak to it; None for nowhere.

    Raises:
        InputError: no such kind of store, or MLflow is asked for and not installed.
    """
    from mergenet.jobs import tracking_uri

    uri = tracking_uri(mlflow, runs)
    if uri is not None:
        from tune.store import check_uri, keep_quiet

        check_uri(uri)
        keep_quiet()
    return uri
