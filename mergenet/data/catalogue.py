"""Data sets in folders: what lies in a root, where each is, reading one whole."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mergenet.config import InputError, about, nearest
from mergenet.data import digits
from mergenet.data.cifar import CIFARS, SIZE, Cifar
from mergenet.data.description import FILE, read_description
from mergenet.data.images import Images
from mergenet.data.parquet import Columns, count_rows, read_split, split_files
from mergenet.data.pixels import Fit, Size
from mergenet.data.watch import Watch, unwatched

# --- where ---------------------------------------------------------------------------------------------------------


def root_folder() -> Path:
    """Where data sets lie unless a command says otherwise: the environment's MERGENET_DATA, or `data`."""
    return Path(os.environ.get("MERGENET_DATA") or "data")


def data_sets(root: Path) -> dict[str, Path]:
    """Name -> folder of the data sets in `root`: those imported, and CIFAR in bare Parquet."""
    if not root.is_dir():
        return {}
    folders = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    return {folder.name: folder for folder in folders if folder.name in CIFARS or (folder / FILE).exists()}


def locate(names: Iterable[str], paths: Mapping[str, str]) -> dict[str, str]:
    """The absolute path of each data set: those given in `paths`, and for every other of `names` that in the root.

    What comes with the package has none.

    Raises:
        InputError: a name that is found nowhere, or a given folder that is not there.
    """
    for name, path in paths.items():
        if name != digits.NAME and not Path(path).is_dir():
            raise InputError(f"data {name}: no folder {path}")
    root = root_folder()
    found = {name: str(root / name) for name in names if name not in paths and name != digits.NAME}
    for name, path in found.items():
        if not Path(path).is_dir():
            raise without_folder(name)
    return {name: str(Path(path).absolute()) for name, path in {**found, **paths}.items()}


def without_folder(name: str) -> InputError:
    """The error for a data set that nobody said the place of."""
    known = {digits.NAME, *data_sets(root_folder())}
    return InputError(
        f"data {name}: needs its folder, --data {name}=PATH, "
        f"or mergenet data import {name} SOURCE; {nearest(name, known)}"
    )


# --- what ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSet:
    """A data set in a folder, as it is known before its images are read.

    Attributes:
        classes: their names, in the order of the labels.
        size: channels, height, width.
        mean, deviation: of the channels, of 255.
        train, test: images of each split.
        digest: the recorded one; None for CIFAR in bare Parquet.
        columns: of images and labels.
        train_files, test_files: the Parquet files of each split.
    """

    name: str
    folder: Path
    classes: tuple[str, ...]
    size: Size
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    train: int
    test: int
    digest: str | None
    columns: Columns
    train_files: list[Path]
    test_files: list[Path]

    def read(self, watch: Watch = unwatched) -> Images:
        """All of it; its digest is not compared.

        Raises:
            InputError: a file cut short, an image that is none or of another size, a label outside the classes.
        """
        with about(f"data {self.name}"):
            train, test = (
                read_split(files, self.columns, Fit(self.size), len(self.classes), watch)
                for files in (self.train_files, self.test_files)
            )
        return Images(train, test, len(self.classes), self.mean, self.deviation, self.classes)

    def verify(self, watch: Watch = unwatched) -> str:
        """The digest of all of it, read anew.

        Raises:
            InputError: what `read` refuses, or a digest that is not the recorded one.
        """
        digest = self.read(watch).digest()
        if self.digest not in (None, digest):
            raise InputError(
                f"data {self.name}: {self.folder} holds other pixels or labels than {FILE} says "
                f"(digest {digest[:8]}, not {str(self.digest)[:8]}); remove it and import it again"
            )
        return digest


def find_data_set(name: str, folder: Path) -> DataSet:
    """The data set in `folder`: an imported one, or CIFAR in bare Parquet (`image`, and `fine_label` or `label`).

    Raises:
        InputError: something is missing or broken, or there are not as many rows as `dataset.json` says.
    """
    with about(f"data {name}"):
        if not folder.is_dir():
            raise InputError(f"no folder {folder}")
        if (folder / FILE).exists():
            return _find_imported(name, folder)
        if name in CIFARS:
            return _find_bare(CIFARS[name], folder)
        raise InputError(f"{folder} holds no {FILE}; mergenet data import {name} SOURCE makes such a folder")


def _find_imported(name: str, folder: Path) -> DataSet:
    described = read_description(folder)
    train_files, test_files = split_files(folder, "train"), split_files(folder, "test")
    for files, wanted in ((train_files, described.train), (test_files, described.test)):
        if (rows := count_rows(files)) != wanted:
            raise InputError(f"{files[0]} holds {rows} images, and {FILE} says {wanted}")
    return DataSet(
        name,
        folder,
        described.classes,
        described.image_size(),
        described.mean,
        described.deviation,
        described.train,
        described.test,
        described.digest,
        ("image", "label"),
        train_files,
        test_files,
    )


def _find_bare(cifar: Cifar, folder: Path) -> DataSet:
    train_files, test_files = split_files(folder, "train"), split_files(folder, "test")
    return DataSet(
        cifar.name,
        folder,
        cifar.names,
        SIZE,
        cifar.mean,
        cifar.deviation,
        count_rows(train_files),
        count_rows(test_files),
        None,
        ("image", cifar.column),
        train_files,
        test_files,
    )
