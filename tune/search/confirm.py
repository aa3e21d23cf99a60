"""The best trial against no transfer, on seeds that chose nothing: a table like any other, written beside the sweep."""

from pathlib import Path

from mergenet.config import InputError, as_yaml
from mergenet.experiment import Experiment
from mergenet.training.files import replacing, shown
from tune.search.ledger import Log, Trial
from tune.table import Table

SCALE = "confirm"


def best_of(log: Log) -> Trial:
    """The finished trial with the best figure of the first objective that is measured; of equals the first.

    Raises:
        InputError: none has finished.
    """
    finished = [trial for trial in log.trials() if trial.values is not None]
    if not finished:
        raise InputError(f"{shown(log.folder)}: no trial has finished, so there is nothing to confirm")
    place = list(log.sweep.objectives).index(log.sweep.measured)
    sign = 1 if log.sweep.objectives[log.sweep.measured] == "higher" else -1
    return max(finished, key=lambda trial: sign * (trial.values or ())[place])


def write_confirmation(log: Log, trial: Trial) -> Path:
    """The table of a trial and no transfer, as a file in the sweep's folder that `mergenet ablate` takes."""
    path = log.folder / f"confirm-{trial.number}.yaml"
    with replacing(path) as aside:
        aside.write_text(as_yaml(confirmation(log, trial).dump()))
    return path


def confirmation(log: Log, trial: Trial) -> Table:
    """Two arms and one comparison; only this table reads the test split."""
    evaluation = {key: value for key, value in log.values["evaluation"].items() if key != "test"}
    experiment = {**log.values, "evaluation": evaluation}
    edges = Experiment.model_validate(log.values).enabled_edges()
    transfers = [path for path in edges if path.startswith("transfers.")]
    # without amalgamation a student would have nothing to learn by
    off = transfers or [path for path in edges if not path.startswith("amalgamate.")]
    measured = log.sweep.measured
    return Table.model_validate(
        {
            "name": f"{log.sweep.name}-{trial.number}",
            "title": f"{log.sweep.title} Trial {trial.number} on fresh seeds",
            "experiment": experiment,
            "baseline": "plain",
            "columns": {measured: {"title": measured, "better": log.sweep.objectives[measured]}},
            "arms": {
                "plain": {
                    "label": "no transfer" if transfers else f"without {', '.join(off) or 'what was searched'}",
                    "change": {f"{path}.enabled": False for path in off},
                },
                "best": {"label": f"trial {trial.number}", "change": dict(trial.changes)},
            },
            "scales": {SCALE: {}},
            "seeds": 6,
        }
    )
