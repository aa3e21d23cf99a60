"""A trained learner alone: plain weights, how to build its model without this package, and a card of what it is."""

import inspect
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from mergenet.config import InputError
from mergenet.models import Model, code_digest, find_model, names_code
from mergenet.models.own import Own
from mergenet.models.published import Published
from mergenet.training.card import write_card
from mergenet.training.copies import record_here
from mergenet.training.files import read_json
from mergenet.training.trained import Trained, build_trained, read_trained

WEIGHTS, CONFIG, CARD, PROGRAM, BUILDER = "model.safetensors", "config.json", "README.md", "model.pt2", "model.py"
FORMAT = "mergenet export 1"


@dataclass(frozen=True)
class Construction:
    """How to build a model: `function` of `module`, which is one to import, or a file beside the weights."""

    module: str
    function: str
    arguments: Mapping[str, Any]


def export_model(
    run: str | Path,
    out: str | Path | None = None,
    learner: str | None = None,
    program: bool = True,
    allow_code: bool = False,
) -> Path:
    """Writes a trained learner of a finished run as a folder that needs torch and torchvision alone.

    Args:
        run: the run's folder, or its URI.
        out: the folder to write, `RUN/export/LEARNER` if left out; an export that is there already is replaced.
        learner: the clock's if left out.
        program: also a `torch.export` program.
        allow_code: whether a model of the user's own may run.

    Returns:
        The folder.

    Raises:
        InputError: a run that has not finished, a learner that is unknown, frozen or diverged, weights that are not
            there, a model that cannot be exported, a folder that holds something else.
    """
    run = record_here(run)
    trained = read_trained(run, learner, allow_code)
    out = Path(out or run / "export" / trained.name)
    model = find_model(trained.options.model)
    module = build_trained(trained)
    construction = _construction(trained.options.model, model, trained.images["classes"])
    with _replacing(out) as folder:
        (folder / WEIGHTS).write_bytes(save(dict(trained.weights), metadata={"format": "pt"}))
        if construction.module == BUILDER:
            shutil.copyfile(inspect.getfile(model.build), folder / BUILDER)
        config = _describe(trained, construction)
        if program:
            _write_program(module, trained.images["shape"], folder / PROGRAM)
            config["program"] = PROGRAM
        (folder / CONFIG).write_text(json.dumps(config, indent=2, allow_nan=False) + "\n")
        write_card(folder / CARD, trained.experiment, trained.result, trained.manifest, config)
    return out


# --- the model ---------------------------------------------------------------------------------------------------


def _construction(name: str, model: Model, classes: int) -> Construction:
    if isinstance(model.build, Published):
        return Construction("torchvision.models", model.build.name, model.build.arguments(classes))
    if isinstance(model.build, Own):
        module, _, function = name.partition(":")
        return Construction(module, function, model.build.arguments(classes))
    return Construction(BUILDER, model.build.__name__, {"classes": classes})


def _write_program(module: nn.Module, shape: Sequence[int], path: Path) -> None:
    """Traces `module` for any number of images; the program is kept if it agrees with the module on other numbers."""
    images = torch.randn(7, *shape, generator=torch.Generator().manual_seed(0))
    try:
        batch = torch.export.Dim("batch")
        program = torch.export.export(module, (images[:2],), dynamic_shapes=({0: batch},))
        _forget_places(program.graph_module)
        for part in (images[:1], images):
            with torch.inference_mode():
                torch.testing.assert_close(program.module()(part), module(part))
        torch.export.save(program, path)
    except Exception as error:  # whatever torch finds in a model that it cannot trace
        reason = (str(error).strip().splitlines() or [""])[0]
        kind = type(error).__name__
        raise InputError(f"export: no program of this model: {kind}: {reason}; leave it out by --no-program") from error


def _forget_places(program: nn.Module) -> None:
    """Takes the paths of source files, which torch notes at every step, out of a program and all of its parts."""
    for part in program.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)


def _describe(trained: Trained, construction: Construction) -> dict[str, Any]:
    """What `config.json` holds."""
    options = trained.options
    manifest, data, images = trained.manifest, options.trained_task.data, trained.images
    return {
        "format": FORMAT,
        "model": options.model,
        "build": asdict(construction),
        "program": None,
        "code_digest": code_digest(options.model) if names_code(options.model) else None,
        "classes": images["classes"],
        "class_names": images["names"] or None,
        "input": {key: images[key] for key in ("shape", "mean", "deviation")},
        "learner": trained.name,
        "weights": trained.experiment.evaluation.weights,
        "tick": trained.tick,
        "run": manifest["hash"],
        "cell": manifest["cells"][trained.name],
        "seed": manifest["seed"],
        "data": {data: manifest["data"][data]["digest"]},
        "versions": manifest["versions"],
    }


# --- the folder --------------------------------------------------------------------------------------------------


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A folder to write, which becomes `out` when all is written; an older export there goes.

    Raises:
        InputError: `out` holds anything but an export, or cannot be written.
    """
    if out.exists() and not _is_export(out):
        raise InputError(f"export {out}: is there and is no export; name another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as aside:
            fresh = Path(aside) / "fresh"
            fresh.mkdir()
            yield fresh
            if out.exists():
                out.rename(Path(aside) / "before")
            fresh.rename(out)
    except OSError as error:
        raise InputError(f"export {out}: cannot be written: {error.strerror}") from None


def _is_export(folder: Path) -> bool:
    try:
        return read_json(folder / CONFIG).get("format") == FORMAT
    except InputError:
        return False
