"""Imports: whatever form people keep images in, into a folder of our own."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mergenet.config import InputError, about, nearest
from mergenet.data import digits
from mergenet.data.catalogue import find_data_set
from mergenet.data.description import FILE, Description, describe, read_description, write_description
from mergenet.data.formats import FORMATS, recognise
from mergenet.data.formats.source import Found, Wishes
from mergenet.data.parquet import write_split
from mergenet.data.watch import Watch, unwatched

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def import_data(
    name: str,
    source: Path,
    root: Path,
    form: str | None = None,
    wishes: Wishes = Wishes(),  # noqa: B008 -- frozen
    watch: Watch = unwatched,
) -> tuple[Description, bool]:
    """Reads `source` and writes `ROOT/NAME`: `train.parquet`, `test.parquet`, `dataset.json`.

    All is written into another folder, read back and compared, and renamed at the end.

    Args:
        form: a name in `FORMATS`; None to find it out.

    Returns:
        What `dataset.json` says, and whether `ROOT/NAME` held this data already and was left alone.

    Raises:
        InputError: a name that cannot be one, a source that is missing, broken or in no known form, or other
            data in `ROOT/NAME`.
    """
    with about(f"data {name}"):
        folder = root / name
        _refuse_name(name)
        if folder.exists() and not (folder / FILE).exists():
            raise InputError(f"{folder} is there already and holds no {FILE}; remove it or choose another name")
        with _readable(source):
            found = _read(source, form, wishes, watch)
        description = describe(name, found.train, found.test, found.names)
    if folder.exists():
        _refuse_other_data(name, folder, description, watch)
        return description, True
    with _written_aside(name, folder) as aside:
        write_split(found.train, aside / "train.parquet", description.classes, watch)
        write_split(found.test, aside / "test.parquet", description.classes, watch)
        write_description(description, aside)
        del found  # so that memory holds the images once
        find_data_set(name, aside).verify(watch)
    return description, False


def _refuse_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InputError("a name is up to 100 letters, digits, '.', '_' and '-', and begins with a letter or digit")
    if name == digits.NAME:
        raise InputError("comes with scikit-learn; choose another name")


def _read(source: Path, form: str | None, wishes: Wishes, watch: Watch) -> Found:
    if not source.exists():
        there = [child.name for child in source.parent.iterdir()] if source.parent.is_dir() else []
        raise InputError(f"no file or folder {source}; {nearest(source.name, there)}")
    form = form or recognise(source)
    for wish, value in vars(wishes).items():
        if value is not None and wish not in FORMATS[form].takes:
            raise InputError(f"--{wish} means nothing for {form}; leave it out")
    return FORMATS[form].read(source, wishes, watch)


@contextmanager
def _readable(source: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # no permission, a path too long, a disk that fails
        raise InputError(f"{source} cannot be read: {error.strerror or error}") from None


def _refuse_other_data(name: str, folder: Path, description: Description, watch: Watch) -> None:
    with about(f"data {name}"):
        described = read_description(folder)
    there = described.digest
    if there == description.digest and described.classes != description.classes:
        raise InputError(
            f"data {name}: {folder} is there already and holds these images in classes of other names; "
            "remove it or choose another name"
        )
    if there != description.digest:
        raise InputError(
            f"data {name}: {folder} is there already and holds other data "
            f"(digest {there[:8]}, not {description.digest[:8]}); remove it or choose another name"
        )
    find_data_set(name, folder).verify(watch)


@contextmanager
def _written_aside(name: str, folder: Path) -> Iterator[Path]:
    """A folder that becomes `folder` when all went well, and is gone when it did not."""
    existing = next(parent for parent in folder.absolute().parents if parent.exists())
    aside: Path | None = None
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".importing", dir=existing))
        yield aside
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside.chmod(0o755)
        aside.rename(folder)
    except OSError as error:
        raise InputError(f"data {name}: {folder} cannot be written: {error.strerror or error}") from None
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
