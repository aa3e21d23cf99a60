"""A split in Parquet: a column of encoded images, and one of whole numbers from 0."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergenet.config import InputError
from mergenet.data.images import Split
from mergenet.data.pixels import Encoded, Fit, decode_all, encode
from mergenet.data.watch import Watch, unwatched

PART = re.compile(r"-\d{5}-of-(\d{5})\.parquet$")
ROW_GROUP = 512

Columns = tuple[str, str]
"""Names of the image column and of the label column."""


# --- files -------------------------------------------------------------------------------------------------------


def split_files(folder: Path, name: str) -> list[Path]:
    """The one file `NAME.parquet` of a split, or all of its numbered parts `NAME-00000-of-00004.parquet`.

    Raises:
        InputError: neither is there, or a part is missing.
    """
    single = folder / f"{name}.parquet"
    if single.exists():
        return [single]
    parts = sorted(file for file in folder.glob(f"{name}-*.parquet") if PART.search(file.name))
    if not parts:
        raise InputError(f"{folder} holds neither {name}.parquet nor {name}-00000-of-....parquet")
    total = max(int(PART.findall(file.name)[0]) for file in parts)
    wanted = [folder / f"{name}-{part:05d}-of-{total:05d}.parquet" for part in range(total)]
    missing = [file for file in wanted if file not in parts]
    if missing:
        raise InputError(f"{missing[0]} is missing, {len(parts)} of {total} parts are there")
    return wanted


def count_rows(files: Sequence[Path]) -> int:
    """Rows of all `files`, without reading them."""
    return sum(_open(file).metadata.num_rows for file in files)


def column_names(file: Path) -> list[str]:
    """The columns of `file`."""
    return list(_open(file).schema_arrow.names)


def class_names(file: Path, label: str) -> tuple[str, ...]:
    """What the file says the values of its column `label` mean: `LABEL_names`, as we write it, or Hugging Face's."""
    metadata = _open(file).schema_arrow.metadata or {}
    try:
        if own := metadata.get(f"{label}_names".encode()):
            return tuple(map(str, json.loads(own)))
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        return tuple(map(str, features.get(label, {}).get("names", ())))
    except (ValueError, TypeError, AttributeError):  # anyone's JSON
        return ()


# --- reading -----------------------------------------------------------------------------------------------------


def read_split(
    files: Sequence[Path], columns: Columns, fit: Fit, classes: int | None = None, watch: Watch = unwatched
) -> Split:
    """All rows of `files`; the image column holds encoded images, or Hugging Face's `{bytes, path}`.

    Raises:
        InputError: a column that is missing, a file cut short, a row without an image or with a label that is none
            of `classes`.
    """
    labels = torch.cat([_read_labels(file, columns, classes) for file in files])
    encoded = (image for file in files for image in _read_images(file, columns[0]))
    name = files[0].stem.partition("-")[0]
    return Split(decode_all(watch(encoded, len(labels), f"reading {name}"), len(labels), fit), labels)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read (cut short?): {error}") from None


def _open(file: Path) -> Any:
    from pyarrow import parquet

    with _reading(file):
        return parquet.ParquetFile(file)


def _read_labels(file: Path, columns: Columns, classes: int | None) -> Tensor:
    """The labels (N,), all there and none outside."""
    import pyarrow

    opened, label = _open(file), columns[1]
    there = opened.schema_arrow.names
    if not set(columns) <= set(there):
        raise InputError(f"{file} needs the columns {' and '.join(columns)}; it has {', '.join(there)}")
    with _reading(file):
        column = opened.read([label]).column(label)
    if not len(column):
        raise InputError(f"{file} has no rows")
    if column.null_count or not pyarrow.types.is_integer(column.type):
        raise InputError(f"{file} needs a whole number in every row of {label}")
    lowest, highest = min(values := column.to_pylist()), max(values)
    if lowest < 0 or (classes is not None and highest >= classes):
        raise InputError(f"{file} has a {label} outside 0 to {'...' if classes is None else classes - 1}")
    return torch.tensor(values, dtype=torch.int64)


def _read_images(file: Path, name: str) -> Iterator[Encoded]:
    import pyarrow

    opened, row = _open(file), 0
    with _reading(file):
        for batch in opened.iter_batches(ROW_GROUP, columns=[name]):
            column = batch.column(0)
            if pyarrow.types.is_struct(column.type):
                column = column.field("bytes")
            for content in column.to_pylist():
                yield f"{file} row {row}", content
                row += 1


# --- writing -----------------------------------------------------------------------------------------------------


def write_split(split: Split, file: Path, names: Sequence[str], watch: Watch = unwatched) -> None:
    """`split` as `image` (PNG) and `label`, in row groups, with the `names` of the classes beside the columns."""
    import pyarrow
    from pyarrow import parquet

    fields = [("image", pyarrow.binary()), ("label", pyarrow.int64())]
    schema = pyarrow.schema(fields, metadata={"label_names": json.dumps(names)})
    groups = list(zip(split.images.split(ROW_GROUP), split.labels.split(ROW_GROUP), strict=True))
    with parquet.ParquetWriter(file, schema, compression="none") as writer:  # a PNG is compressed already
        for images, labels in watch(groups, len(groups), f"writing {file.stem}"):
            rows = {"image": [encode(image) for image in images], "label": labels.tolist()}
            writer.write_table(pyarrow.table(rows, schema=schema))
