"""A model of the user's own, named `package.module:function`: a function from the number of classes to a module.

Attributes of the function name ports (`ports`: name -> dotted parameter) and layers (`layers`: name -> dotted module);
`classifier` is found by itself.
Looking such a name up runs the user's code: whoever does asks `names_code` first, and the user's leave.
"""

import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from mergenet.config import InputError, nearest
from mergenet.models.model import Model

PASSED = {__file__, importlib.__file__, "<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"}
"""Files that an error in the user's comes through, and that say nothing of it."""


def names_code(name: str) -> bool:
    """Whether looking up the model `name` would run a user's code."""
    return ":" in name


@dataclass(frozen=True)
class Own:
    """A user's function, its failures said in one line."""

    name: str
    function: Callable[..., Any]

    def arguments(self, classes: int) -> dict[str, Any]:
        """What the function is called with, by the name of its first parameter."""
        return {next(iter(inspect.signature(self.function).parameters)): classes}

    def __call__(self, classes: int) -> nn.Module:
        """The module.

        Raises:
            InputError: the function fails, or gives something else.
        """
        try:
            module = self.function(classes)
        except Exception as error:
            raise InputError(f"model '{self.name}': {_describe(error)}") from error
        if not isinstance(module, nn.Module):
            raise InputError(f"model '{self.name}': gave {_a(module)} and not a torch.nn.Module")
        return module


def own(name: str) -> Model:
    """The row of the user's `package.module:function`.

    Raises:
        InputError: no such module or function, one that does not take the number of classes, `ports` that are no map.
    """
    return _row(name, _find(name))


@cache
def _row(name: str, function: Callable[..., Any]) -> Model:
    return Model(Own(name, function), _names(name, function, "ports"), _names(name, function, "layers"))


def _names(name: str, function: Callable[..., Any], what: str) -> dict[str, str]:
    """What the function's attribute `what` names."""
    named = getattr(function, what, {})
    if not isinstance(named, dict) or not all(isinstance(text, str) for pair in named.items() for text in pair):
        kind = "parameters" if what == "ports" else "modules"
        raise InputError(f"model '{name}': its {what} are a map from names to dotted {kind}, got {named!r}")
    return named


def code_digest(name: str) -> str:
    """SHA-256 of the source file that holds the function of `package.module:function`, as it was when it was imported.

    Raises:
        InputError: as `own` does, where there is no source file, and where it has changed since it was imported.
    """
    function = _find(name)
    try:
        imported, now = _first_digest(function), _digest_now(function)
    except (TypeError, OSError):
        raise InputError(f"model '{name}': has no source file, and so no digest; write it as a function") from None
    if imported != now:
        file = source_file(function).name
        raise InputError(f"model '{name}': {file} has changed since this Python imported it; start Python anew")
    return now


def _digest_now(function: Callable[..., Any]) -> str:
    return hashlib.sha256(source_file(function).read_bytes()).hexdigest()


@cache
def _first_digest(function: Callable[..., Any]) -> str:
    """What the file was when the function was first looked up, right after its import."""
    return _digest_now(function)


def source_file(function: Callable[..., Any]) -> Path:
    """The file that holds a function or class.

    Raises:
        TypeError: it is built in, or an object that was made by a call.
        OSError: it was typed in and never lay in a file.
    """
    return Path(inspect.getsourcefile(inspect.unwrap(function)) or "")


# --- finding it --------------------------------------------------------------------------------------------------


def _find(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise InputError(f"model '{name}': write it as package.module:function")
    module = _import(name, module_name)
    if not hasattr(module, attribute):
        functions = [word for word, value in vars(module).items() if callable(value) and not word.startswith("_")]
        raise InputError(f"model '{name}': {module_name} has no '{attribute}'; {nearest(attribute, functions)}")
    function = getattr(module, attribute)
    if not callable(function):
        raise InputError(f"model '{name}': {_a(function)} is no function of the number of classes")
    try:
        inspect.signature(function).bind(0)
    except (TypeError, ValueError):
        raise InputError(f"model '{name}': must take one argument, the number of classes") from None
    with suppress(TypeError, OSError):
        _first_digest(function)
    return function


def _import(name: str, module_name: str) -> Any:
    make_folder_importable()
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent and f"{module_name}.".startswith(f"{absent}."):
            raise InputError(f"model '{name}': no module '{absent}' in {Path.cwd()} or installed") from None
        raise InputError(f"model '{name}': cannot be imported: {_describe(error)}") from error


def make_folder_importable() -> None:
    """Lets modules of the current folder be imported, after all that is installed: a console script does not."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()


def _a(value: Any) -> str:
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _describe(error: BaseException) -> str:
    """An exception in one line, with the last line of a file it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename not in PASSED]
    first_line = (str(error).splitlines() or [""])[0]
    where = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first_line}{where}"
