"""A data set seen smaller: fewer training images, fewer pixels."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from mergenet import randomness
from mergenet.config import InputError
from mergenet.data.images import Images, Split
from mergenet.data.pixels import image_size

PART = 1024  # images that are shrunk at once, as floats


@lru_cache(maxsize=4)
def view(whole: Images, size: int | None, samples: int | None) -> Images:
    """`whole` with `samples` of its training images, all images shrunk to `size` x `size` pixels.

    It keeps the digest, mean and deviation of the whole. Whoever asks for the same view gets the same object.

    Raises:
        InputError: `size` is above the images' own, or there are not as many training images.
    """
    train, test = whole.train, whole.test
    if samples is not None:
        train = _choose(train, samples, whole.digest())
    if size is not None:
        train, test = (Split(_shrink(split.images, size), split.labels) for split in (train, test))
    return Images(train, test, whole.classes, whole.mean, whole.deviation, whole.names, origin=whole.digest())


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
