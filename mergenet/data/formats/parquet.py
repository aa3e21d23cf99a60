"""Parquet as Hugging Face and we ourselves write it: encoded images and whole numbers as labels."""

import re
from pathlib import Path

from mergenet.config import InputError, nearest
from mergenet.data.formats.source import TEST_NAMES, UNEQUAL, Format, Found, Wishes, no_test_split
from mergenet.data.parquet import PART, Columns, class_names, column_names, read_split, split_files
from mergenet.data.pixels import Fit, image_size
from mergenet.data.watch import Watch

IMAGES = ("image", "img")
LABELS = ("fine_label", "label")


def _recognise(source: Path) -> bool:
    return bool(_files(source, "train"))


def _read(source: Path, wishes: Wishes, watch: Watch) -> Found:
    train_files = _files(source, "train")
    test_files = next((files for name in TEST_NAMES if (files := _files(source, name))), [])
    if not train_files:
        raise InputError(f"{source} holds no train*.parquet")
    if not test_files:
        raise no_test_split(source, str(source / "test.parquet"))
    columns = _find_columns(train_files[0], wishes)
    names = class_names(train_files[0], columns[1])
    train = read_split(train_files, columns, Fit(None, wishes.size, UNEQUAL), len(names) or None, watch)
    classes = len(names) or int(train.labels.max()) + 1
    test = read_split(test_files, columns, Fit(image_size(train.images), wishes.size, UNEQUAL), classes, watch)
    return Found(train, test, names)


def _files(source: Path, name: str) -> list[Path]:
    """`NAME.parquet`, its numbered parts, or whatever else begins with NAME, numbers in their order."""
    found = [file for file in source.glob(f"{name}*.parquet") if file.is_file()]
    if any(PART.search(file.name) or file.stem == name for file in found):
        return split_files(source, name)
    return sorted(found, key=lambda file: [int(part) if part.isdigit() else part for part in _words(file)])


def _words(file: Path) -> list[str]:
    return re.split(r"(\d+)", file.stem)


def _find_columns(file: Path, wishes: Wishes) -> Columns:
    there = column_names(file)
    image = _find_column(file, "image", wishes.image, IMAGES, there)
    return image, _find_column(file, "label", wishes.label, LABELS, there)


def _find_column(file: Path, kind: str, wish: str | None, usual: tuple[str, ...], there: list[str]) -> str:
    if wish is None:
        found = next((name for name in usual if name in there), None)
        if found is None:
            others = ", ".join(there)
            raise InputError(f"{file} has no column {' or '.join(usual)}; say which with --{kind}: {others}")
        return found
    if wish not in there:
        raise InputError(f"--{kind} {wish}: {file} has no such column; {nearest(wish, there)}")
    return wish


PARQUET = Format("files train*.parquet and test*.parquet", _recognise, _read, takes=("size", "label", "image"))
