"""Reads the pickles of CIFAR without running what a pickle may ask to be run.

A pickle names functions and classes to call. Here each name it may use is bound to one of ours, which
takes notes of an array's bytes and nothing else; any other name is refused.
"""

import io
import math
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override


class _StandIn:
    """What a pickle cannot change, be it handed a state for the class itself."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a state for what has none")


class _Kind(_StandIn):
    """In place of numpy's dtype: only bytes are let through."""

    def __init__(self, code: Any = b"", *others: Any) -> None:
        if code not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of {code!r}, not of bytes")

    @override
    def __setstate__(self, state: Any) -> None:
        """The order of the bytes of a number, and such: a single byte has none."""


class _Array(_StandIn):
    """In place of numpy's array."""

    def __init__(self, *others: Any) -> None:
        self.pixels = np.empty(0, dtype=np.uint8)

    @override
    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, _, columns_first, content = state
        self._fill(content, shape, "F" if columns_first else "C")

    def _fill(self, content: Any, shape: Any, order: Any) -> None:
        if len(content) != math.prod(shape):
            raise pickle.UnpicklingError(f"{len(content)} bytes for an array of shape {shape}")
        self.pixels = np.frombuffer(content, dtype=np.uint8).reshape(shape, order=order)


class _Reconstruct(_StandIn):
    """In place of the function by which numpy's pickles begin an array."""

    def __new__(cls, *others: Any) -> Any:
        return _Array()


class _FromBuffer(_StandIn):
    """In place of the function by which numpy's newer pickles make an array."""

    def __new__(cls, content: Any, kind: Any, shape: Any, order: Any, *others: Any) -> Any:
        array = _Array()
        array._fill(content, shape, order)
        return array


class _Encode(_StandIn):
    """In place of the function by which Python 3 keeps bytes in old pickles, as text in Latin-1."""

    def __new__(cls, text: Any, encoding: Any) -> Any:
        return text.encode("latin1")


ALLOWED: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _Encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    @override
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which images do not need")
        return ALLOWED[module, name]


def unpickle(content: bytes) -> dict[str, Any]:
    """The map in a pickle, with arrays as `NDArray[uint8]` and everything else builtin.

    Raises:
        ValueError: no pickle, one cut short, or one that asks for more than an array of bytes.
    """
    try:
        values = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else str(key): _plain(value) for key, value in values.items()}
    except Exception as error:  # broken bytes lead the unpickler to raise whatever Python does
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _plain(value: Any) -> Any:
    if not isinstance(value, _Array):
        return value
    pixels: NDArray[np.uint8] = value.pixels
    return pixels
