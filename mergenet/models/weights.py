"""Weights from a file, or torchvision's own by their names: read without running code, each when it is asked for."""

import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mergenet.config import InputError, nearest
from mergenet.models import find_model, published_names
from mergenet.models.hub import published_weights, sha256_of

PICKLED = (".pt", ".pth", ".bin")
SUFFIXES = (".safetensors", *PICKLED)

# Names in torchvision's older files, and what its classes call them now: as torchvision's own loaders read them.
RENAMED = [
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
]
AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}  # heads the models here do without


@dataclass(frozen=True)
class Weights:
    """The weights in a file, each loaded when it is asked for.

    Attributes:
        path: of the file.
        shapes: of every tensor, by its name in the model.
        classifier: dotted name of the model's classifier, whose number of classes may be another.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    classifier: str | None
    read: Callable[[str], Tensor]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256_of(self.path)

    def tensor(self, name: str) -> Tensor:
        """A copy of the tensor `name`.

        Raises:
            InputError: no such tensor, with the nearest.
        """
        if name not in self.shapes:
            raise InputError(f"weights {self.path}: no '{name}'; {nearest(name, self.shapes)}")
        return self.read(name)

    def load_into(self, module: nn.Module) -> list[str]:
        """Copies the weights into `module`; gives the names that stay as they were, for want of a classifier that fits.

        Raises:
            InputError: a tensor that is missing, unexpected or of another shape, before anything is copied.
        """
        state, kept = module.state_dict(), self.check_fits(module)
        with torch.no_grad():
            for name in state.keys() & self.shapes.keys() - set(kept):
                state[name].copy_(self.read(name))
        return kept

    def check_fits(self, module: nn.Module) -> list[str]:
        """Compares names and shapes with those of `module`; gives the names of a classifier of other classes.

        Raises:
            InputError: a tensor that is missing, unexpected or of another shape.
        """
        state = module.state_dict()
        kept = self._unfitting_classifier(state)
        wanted = {name: tuple(value.shape) for name, value in state.items() if name not in kept}
        self._check(wanted, ignored=kept)
        return kept

    def _unfitting_classifier(self, state: Mapping[str, Tensor]) -> list[str]:
        """Names of the classifier's weight and bias when they differ from the file's in the number of classes alone."""
        names = [name for name in (f"{self.classifier}.weight", f"{self.classifier}.bias") if name in state]
        there = [(tuple(state[name].shape), self.shapes[name]) for name in names if name in self.shapes]
        same_inputs = all(own[1:] == other[1:] for own, other in there)
        return names if same_inputs and any(own != other for own, other in there) else []

    def _check(self, wanted: Mapping[str, tuple[int, ...]], ignored: list[str]) -> None:
        for name, shape in wanted.items():
            # files older than BatchNorm's counter lack it, and nothing here depends on it
            if name not in self.shapes and not name.endswith(".num_batches_tracked"):
                raise InputError(f"weights {self.path}: '{name}' is missing; {nearest(name, self.shapes)}")
            if self.shapes.get(name, shape) != shape:
                raise InputError(f"weights {self.path}: '{name}' is {self.shapes[name]}, the model's is {shape}")
        for name in self.shapes:
            if name not in wanted and name not in ignored:
                raise InputError(f"weights {self.path}: the model has no '{name}'; {nearest(name, wanted)}")


def read_weights(model_name: str, weights: str) -> Weights:
    """Weights for the model `model_name`.

    Args:
        weights: a file (`.safetensors`, or a state dict that torch saved, plain or under `state_dict` or `model`), or
            torchvision's own name of weights for that model.

    Raises:
        InputError: no such file or name, a file that is broken or holds anything but tensors, a download that failed.
    """
    is_file = weights.endswith(SUFFIXES) or "/" in weights or Path(weights).exists()
    path = _file(weights) if is_file else published_weights(model_name, weights)
    shapes, read = _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickled(path)
    renamed = RENAMED if model_name in published_names() else []
    names = {_plain_name(name, shapes, renamed): name for name in shapes}
    auxiliary = AUXILIARY.get(model_name, ())
    return Weights(
        path,
        {plain: shapes[name] for plain, name in names.items() if not plain.startswith(auxiliary)},
        find_model(model_name).ports.get("classifier"),
        lambda plain: read(names[plain]),
    )


def _plain_name(name: str, names: Mapping[str, tuple[int, ...]], renamed: list[tuple[re.Pattern[str], str]]) -> str:
    """What the model calls the tensor `name`: without the prefix of DDP, and by torchvision's present names."""
    if all(other.startswith("module.") for other in names):
        name = name.removeprefix("module.")
    for pattern, now in renamed:
        name = pattern.sub(now, name)
    return name


# --- files -------------------------------------------------------------------------------------------------------

Opened = tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]


def _file(weights: str) -> Path:
    path = Path(weights)
    if not path.is_file():
        raise InputError(f"weights {weights}: no such file")
    if path.suffix not in SUFFIXES:
        raise InputError(f"weights {weights}: a file of weights ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    return path


def _open_safetensors(path: Path) -> Opened:
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {path}: cannot be read (cut short?): {error}") from None

    def read(name: str) -> Tensor:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    return shapes, read


def _open_pickled(path: Path) -> Opened:
    """A state dict that torch saved; its tensors stay on the disk until they are copied, unless it is of old."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of formats that are refused in the next line
            values = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch.load raises whatever its bytes lead it to
        reason = "it holds more than tensors, or is cut short" if "weights_only" in str(error) else "cut short?"
        raise InputError(f"weights {path}: cannot be read ({reason})") from None
    for key in ("state_dict", "model"):
        if isinstance(values, dict) and isinstance(values.get(key), dict):
            values = values[key]
    if not isinstance(values, dict) or not values:
        raise InputError(f"weights {path}: holds no state dict")
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise InputError(f"weights {path}: holds no state dict: '{name}' is no tensor")
    return {name: tuple(value.shape) for name, value in values.items()}, lambda name: values[name].clone()
