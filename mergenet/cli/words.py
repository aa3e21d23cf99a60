"""What the commands read from, and say of, a command line."""

import shutil
import sys
from pathlib import Path

from mergenet.config import InputError
from mergenet.training.files import shown


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
