"""What the losses of distillation share: their precision, checks of what they are given, pieces of their formulas.

Shape legend: N samples, C classes, H x W positions of a feature map.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import reduce, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from mergenet.config import InputError

P = ParamSpec("P")
R = TypeVar("R")


# --- precision ---------------------------------------------------------------------------------------------------


def in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """`function` computed in float32 or wider, whatever precision its models run in.

    Floating tensors among its arguments (in sequences too) are brought to the widest type among them and float32;
    autocast is off within, for it would take the products of distances back to half precision.
    """

    @wraps(function)
    def precise(*args: Any, **kwargs: Any) -> R:
        tensors = list(_tensors([*args, *kwargs.values()]))
        floating = (tensor.dtype for tensor in tensors if tensor.is_floating_point())
        dtype = reduce(torch.promote_types, floating, torch.float32)
        with _without_autocast(tensors[0].device.type if tensors else "cpu"):
            return function(*_as(args, dtype), **{name: _as(value, dtype) for name, value in kwargs.items()})

    return precise


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    known = torch.amp.is_autocast_available(device)  # it is refused where it is not
    return torch.autocast(device, enabled=False) if known else nullcontext()


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _as(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    return [_as(item, dtype) for item in value] if isinstance(value, list | tuple) else value


# --- checks ------------------------------------------------------------------------------------------------------


def shape_of(tensor: Tensor) -> str:
    """The shape of a tensor, as an error line writes it."""
    return str(tuple(tensor.shape))


def check_logits(student: Tensor, *teachers: Tensor) -> None:
    """Refuses logits that are not (N, C) of at least one sample and two classes, or not all of one shape."""
    for logits in (student, *teachers):
        if logits.ndim != 2 or logits.shape[0] < 1 or logits.shape[1] < 2 or not logits.is_floating_point():
            raise InputError(
                f"logits are {shape_of(logits)} of {logits.dtype}; they must be floating, (batch, classes)"
            )
        if logits.shape != student.shape:
            raise InputError(f"logits are {shape_of(student)} and {shape_of(logits)}; student and teacher must agree")


def checked_labels(labels: Tensor, logits: Tensor) -> Tensor:
    """Class numbers (N,) as int64, for logits (N, C).

    On an accelerator their range is left to torch's own assertion: to look at it here would wait for the device.
    """
    samples, classes = logits.shape
    if labels.shape != (samples,) or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(
            f"labels are {shape_of(labels)} of {labels.dtype}; they must be class numbers, one a sample: ({samples},)"
        )
    if labels.device.type == "cpu" and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(
            f"labels go from {labels.min()} to {labels.max()}; with {classes} classes from 0 to {classes - 1}"
        )
    return labels.long()


def check_dtype(module: nn.Module, features: Tensor) -> None:
    """Refuses features of another precision than the module's own layers."""
    own = next(module.parameters()).dtype
    if own != features.dtype:
        raise InputError(
            f"the layers of {type(module).__name__} are {own}; for {features.dtype} they must be that, too"
        )


def resized(maps: Tensor, like: Tensor) -> Tensor:
    """Maps (N, D, H, W) at the height and width of others, bilinear where they differ."""
    if maps.ndim != 4 or like.ndim != 4 or maps.shape[2:] == like.shape[2:]:
        return maps
    if not maps.requires_grad:
        return functional.interpolate(maps, size=like.shape[2:], mode="bilinear", align_corners=False)
    # on a GPU the gradient of interpolate adds up in any order; that of products does not
    rows, columns = (_interpolation(old, new, maps) for old, new in zip(maps.shape[2:], like.shape[2:], strict=True))
    return rows @ maps @ columns.T


def _interpolation(old: int, new: int, like: Tensor) -> Tensor:
    """What takes `old` values to `new` ones by linear interpolation: (new, old)."""
    identity = torch.eye(old, dtype=like.dtype, device=like.device)
    return functional.interpolate(identity.unsqueeze(0), size=new, mode="linear", align_corners=False)[0].T


# --- pieces of formulas ------------------------------------------------------------------------------------------


def of_label(values: Tensor, labels: Tensor) -> Tensor:
    """What `values` (N, C) have at the label of each sample: (N,)."""
    return values.gather(1, labels.unsqueeze(1)).squeeze(1)


def of_others(values: Tensor, labels: Tensor) -> Tensor:
    """What `values` (N, C) have beside the label, in the order of classes: (N, C - 1)."""
    others = torch.arange(values.shape[1] - 1, device=values.device)
    return values.gather(1, others + (others >= labels.unsqueeze(1)))


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the teacher, of log-probabilities (N, K): each class's share (N, K).

    From logarithms, so that a probability too small to be written adds zero and not the NaN of 0 * log 0.
    """
    return teacher.exp() * (teacher - student)
