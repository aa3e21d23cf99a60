"""`dataset.json`: what an imported data set is, beside its Parquet files."""

import json
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from mergenet.config import InputError, Listed, Options, about, parse
from mergenet.data.cifar import find_cifar
from mergenet.data.images import Images, Split
from mergenet.data.pixels import Size, image_size

FILE = "dataset.json"
THREE = Field(min_length=3, max_length=3)


class Description(Options):
    """What `dataset.json` says.

    Attributes:
        format: version of this file and of the Parquet files beside it.
        name: the one it was imported as.
        classes: their names, in the order of the labels 0, 1, ...
        size: channels, height and width of every image.
        train, test: images of each split.
        mean, deviation: of the channels (of 255), by which images are normalised.
        digest: `Images.digest()`.
    """

    format: Literal[1] = 1
    name: str
    classes: Annotated[Listed[str], Field(min_length=1)]
    size: Annotated[Listed[PositiveInt], THREE]
    train: PositiveInt
    test: PositiveInt
    mean: Annotated[Listed[float], THREE]
    deviation: Annotated[Listed[PositiveFloat], THREE]
    digest: str

    def image_size(self) -> Size:
        """`size` as what it is."""
        channels, height, width = self.size
        return channels, height, width


def describe(name: str, train: Split, test: Split, names: tuple[str, ...]) -> Description:
    """What `dataset.json` is to say of two splits; classes without `names` are called by their number.

    CIFAR keeps the mean and deviation that everyone uses, whichever part of it this is.
    """
    size = image_size(train.images)
    classes = len(names) or int(train.labels.max()) + 1
    cifar = find_cifar(name, names, classes, size)
    if not names:
        names = cifar.names if cifar is not None else tuple(map(str, range(classes)))
    mean, deviation = (cifar.mean, cifar.deviation) if cifar is not None else mean_and_deviation(train.images)
    digest = Images(train, test, len(names), mean, deviation).digest()
    return Description(
        name=name,
        classes=names,
        size=size,
        train=len(train),
        test=len(test),
        mean=mean,
        deviation=deviation,
        digest=digest,
    )


def mean_and_deviation(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel of uint8 `images` (N, C, H, W), of 255, to four digits as people write them.

    Exact whatever the order of the sums, because they are taken over how often each of the 256 values occurs.
    A channel that is the same everywhere has the deviation 1: there is nothing to scale.
    """
    values = np.arange(256) / 255.0
    counts = np.zeros((images.shape[1], 256))
    for part in images.split(1024):
        for channel in range(images.shape[1]):
            counts[channel] += torch.bincount(part[:, channel].flatten(), minlength=256).numpy()
    shares = counts / counts.sum(axis=1, keepdims=True)
    means = shares @ values
    deviations = np.sqrt((shares * (values - means[:, None]) ** 2).sum(axis=1))
    return (
        tuple(round(float(mean), 4) for mean in means),
        tuple(round(float(deviation), 4) or 1.0 for deviation in deviations),
    )


def write_description(description: Description, folder: Path) -> None:
    """Writes `dataset.json` into `folder`, a line a key."""
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in description.dump().items())
    (folder / FILE).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def read_description(folder: Path) -> Description:
    """What the `dataset.json` in `folder` says.

    Raises:
        InputError: it is missing or broken.
    """
    file = folder / FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read (cut short?): {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{file} holds no map")
    with about(str(file)):
        return parse(Description, values)
