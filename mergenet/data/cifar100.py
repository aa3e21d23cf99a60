"""CIFAR-100 (Krizhevsky 2009) from Parquet: `image` (PNG bytes, 32 x 32 RGB) and `fine_label`."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergenet.config import InputError
from mergenet.data.images import Images, Split

COLUMNS = ("image", "fine_label")
SIZE = (3, 32, 32)
PART = re.compile(r"-\d{5}-of-(\d{5})\.parquet$")


def load(path: Path | None) -> Images:
    """All images under `path`: `train.parquet` and `test.parquet`, or numbered parts of them.

    Raises:
        InputError: no path, a missing folder, part or column, a file cut short, an image that is none.
    """
    if path is None:
        raise InputError("data cifar100: needs its folder, --data cifar100=PATH")
    if not path.is_dir():
        raise InputError(f"data cifar100: no folder {path}")
    # Mean and deviation of the channels over the training images, as everyone uses them.
    return Images(
        _read_split(path, "train"),
        _read_split(path, "test"),
        classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        deviation=(0.2673, 0.2564, 0.2762),
    )


def _read_split(folder: Path, name: str) -> Split:
    parts = [_read_part(file) for file in _files(folder, name)]
    return Split(torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts]))


def _files(folder: Path, name: str) -> list[Path]:
    """The one file of a split, or all of its numbered parts `NAME-00000-of-00004.parquet`."""
    single = folder / f"{name}.parquet"
    if single.exists():
        return [single]
    parts = sorted(file for file in folder.glob(f"{name}-*.parquet") if PART.search(file.name))
    if not parts:
        raise InputError(f"data cifar100: {folder} holds neither {name}.parquet nor {name}-00000-of-....parquet")
    total = max(int(PART.findall(file.name)[0]) for file in parts)
    wanted = [folder / f"{name}-{part:05d}-of-{total:05d}.parquet" for part in range(total)]
    missing = [file for file in wanted if file not in parts]
    if missing:
        raise InputError(f"data cifar100: {missing[0]} is missing, {len(parts)} of {total} parts are there")
    return wanted


def _read_part(file: Path) -> tuple[Tensor, Tensor]:
    import pyarrow
    from pyarrow import parquet

    try:
        there = parquet.read_schema(file).names
        table = parquet.read_table(file, columns=[column for column in COLUMNS if column in there])
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"data cifar100: {file} cannot be read (cut short?): {error}") from None
    if set(table.column_names) != set(COLUMNS):
        raise InputError(f"data cifar100: {file} needs the columns {' and '.join(COLUMNS)}; it has {', '.join(there)}")
    labels = _labels(table.column("fine_label"), file)
    images = [_decode(png, file, row) for row, png in enumerate(table.column("image").to_pylist())]
    return torch.stack(images), labels


def _labels(column: Any, file: Path) -> Tensor:
    """The labels (N,), all there and all from 0 to 99."""
    import pyarrow

    if not len(column):
        raise InputError(f"data cifar100: {file} has no rows")
    if column.null_count or not pyarrow.types.is_integer(column.type):
        raise InputError(f"data cifar100: {file} needs a whole number in every row of fine_label")
    labels = torch.tensor(column.to_pylist(), dtype=torch.int64)
    if labels.min() < 0 or labels.max() > 99:
        raise InputError(f"data cifar100: {file} has a fine_label outside 0 to 99")
    return labels


def _decode(png: Any, file: Path, row: int) -> Tensor:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png)) as opened:
            image = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    except (OSError, ValueError, TypeError, SyntaxError) as error:
        raise InputError(f"data cifar100: {file} row {row}: not a PNG image: {error}") from None
    if image.shape != SIZE:
        raise InputError(f"data cifar100: {file} row {row}: an image of {tuple(image.shape)}, not {SIZE}")
    return image
