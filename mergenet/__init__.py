"""Models of different architecture, task and modality teach each other through their weights.

One run lives in this package. It needs torch and never imports Ray, Optuna or MLflow: where a run
happens is the business of `cluster`, many runs that of `tune`.

From Python, `load_experiment` gives an experiment and `run` trains it (see `mergenet.api`). In a training loop of
your own, `Transfer` is all it takes (see `mergenet.library`).
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergenet.api import Run, export_model, load_experiment, read_run, resume, run
    from mergenet.library import Transfer, Transfers

__version__ = version("mergenet")
__all__ = [
    "Run",
    "Transfer",
    "Transfers",
    "__version__",
    "export_model",
    "load_experiment",
    "read_run",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is asked for, so that `mergenet --help` answers at once."""
    if name not in __all__:
        raise AttributeError(f"module 'mergenet' has no attribute '{name}'")
    if name in ("Transfer", "Transfers"):
        from mergenet import library

        return getattr(library, name)
    from mergenet import api

    return getattr(api, name)
