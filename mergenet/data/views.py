"""A data set seen smaller: fewer classes, fewer training images, fewer pixels."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from mergenet import randomness
from mergenet.config import InputError
from mergenet.data.images import Images, Split
from mergenet.data.pixels import image_size

PART = 1024  # images that are shrunk at once, as floats


@lru_cache(maxsize=16)
def view(whole: Images, size: int | None, samples: int | None, classes: tuple[int, ...] | None) -> Images:
    """`whole` in some of its classes, with `samples` of their training images, all shrunk to `size` x `size` pixels.

    It keeps the digest, mean and deviation of the whole. Whoever asks for the same view gets the same object.

    Args:
        classes: the first and the end of a range, which are numbered from 0; images of others are in neither split.

    Raises:
        InputError: `size` is above the images' own, there are not as many training images, or classes.
    """
    train, test, names, count = whole.train, whole.test, whole.names, whole.classes
    if classes is not None:
        low, high = classes
        if high > count:
            raise InputError(f"classes: {list(classes)} goes beyond the {count} classes, which are 0 to {count - 1}")
        train, test = (_in_classes(split, low, high) for split in (train, test))
        names, count = names[low:high], high - low
    if samples is not None:
        train = _choose(train, samples, whole.digest())
    if size is not None:
        train, test = (Split(_shrink(split.images, size), split.labels) for split in (train, test))
    return Images(train, test, count, whole.mean, whole.deviation, names, origin=whole.digest())


def _in_classes(split: Split, low: int, high: int) -> Split:
    """The samples of classes low to high - 1 in their order, labelled from 0."""
    chosen = split.at(((low <= split.labels) & (split.labels < high)).nonzero().flatten())
    return Split(chosen.images, chosen.labels - low)


def _choose(split: Split, samples: int, digest: str) -> Split:
    """`samples` of a split in their order, of each class the same share; which ones depends on `digest` alone.

    By chance a class of a hundred could lose a fifth of its 50 images to another. Fewer are part of more.
    """
    if samples > len(split):
        raise InputError(f"samples: {samples} is above the {len(split)} training images; leave it out for all of them")
    order = torch.randperm(len(split), generator=randomness.generator("samples", digest))
    depths = _depths(split.labels[order])
    return split.at(order[depths.argsort(stable=True)[:samples]].sort().values)


def _depths(labels: Tensor) -> Tensor:
    """How deep within its class each sample (N,) stands, from 0 for the first to 1 for the last."""
    depths = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = labels == label
        count = int(members.sum())
        depths[members] = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return depths


def _shrink(images: Tensor, size: int) -> Tensor:
    """uint8 images (N, C, H, W) to (N, C, size, size): each pixel the rounded mean of the area that it covers."""
    _, height, width = image_size(images)
    if size > min(height, width):
        raise InputError(f"size: {size} would enlarge images of {height} x {width}; they can only be shrunk")
    parts = images.split(PART)
    return torch.cat([functional.adaptive_avg_pool2d(part.double(), size).round().to(torch.uint8) for part in parts])
