"""Shared weights, as in network augmentation (Cai et al. 2022): a small layer's weight is a slice of a larger one's.

Pure functions, differentiable: a loss of the small model trains the larger one's weight through them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mergenet.config import InputError
from mergenet.method.distill.common import shape_of


def channel_order(weight: Tensor, dim: int) -> Tensor:
    """The numbers of the channels along `dim` of a weight (out, in, ...), the one of the largest L1 norm first.

    The official code (mit-han-lab/tinyml, `netaug/models/netaug/utils.py`) orders the channels within a block by the
    inputs (`dim` 1) of its last convolution, anew every epoch; the layers before it must follow the same order.
    """
    if not 0 <= dim < weight.ndim:
        raise InputError(f"dim {dim}: a weight {shape_of(weight)} has {weight.ndim}, counted from 0")
    return weight.detach().abs().transpose(0, dim).flatten(1).sum(1).argsort(descending=True, stable=True)


def slice_of(
    large: Tensor, shape: Sequence[int], outputs: Tensor | None = None, inputs: Tensor | None = None
) -> Tensor:
    """The weight of a small layer as the first channels of a larger layer's, in the given order or as they stand.

    Args:
        large: (out, in) of a Linear or (out, in, height, width) of a convolution.
        shape: the small weight's: no more outputs and inputs, and the same kernel.
        outputs: an order of the large weight's outputs, from `channel_order`.
        inputs: an order of its inputs.

    Returns:
        A tensor of `shape`. Its gradient is that of the entries of `large` it was taken from.

    Raises:
        InputError: a shape that is not within the large weight's, an order of another length.
    """
    shape = tuple(shape)
    if len(shape) != large.ndim or len(shape) < 2 or shape[0] > large.shape[0] or shape[1] > large.shape[1]:
        raise InputError(f"shape {shape} is no slice of {shape_of(large)}; outputs and inputs may not be more")
    if shape[2:] != large.shape[2:]:
        raise InputError(f"shape {shape} has another kernel than {shape_of(large)}; they must be equal")
    for dim, order in enumerate((outputs, inputs)):
        if order is None:
            large = large.narrow(dim, 0, shape[dim])
        elif order.shape != large.shape[dim : dim + 1]:
            raise InputError(f"an order {shape_of(order)} for {large.shape[dim]} channels; it must name each of them")
        else:
            large = torch.index_select(large, dim, order[: shape[dim]])
    return large
