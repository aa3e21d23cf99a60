"""What MLflow has of a record, and what the record itself has."""

import json
from pathlib import Path
from typing import Any

from mergenet.training.files import read_json
from tune.store import connect

Point = tuple[str, int, float]


def recorded(folder: Path) -> list[Point]:
    """The points of the record's lines."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return sorted(
        (f"{line['learner']}/{line['split']}/{line['metric']}", line["tick"], line["value"])
        for line in lines
        if line["value"] is not None
    )


def mirror_of(folder: Path, uri: str) -> Any:
    """The one MLflow run of the record."""
    client, manifest = connect(uri), read_json(folder / "manifest.json")
    experiment = client.get_experiment_by_name("small")
    tag = f"{manifest['hash']}-s{manifest['seed']}-{manifest['world_size']}xcpu-t{manifest['threads']}"
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`mergenet.run` = '{tag}'")
    return client.get_run(run.info.run_id)


def sent(folder: Path, uri: str, prefix: tuple[str, ...] = ("source/", "target/")) -> list[Point]:
    """Every point of the record's metrics in MLflow, doubled ones twice."""
    client, run = connect(uri), mirror_of(folder, uri)
    keys = [key for key in run.data.metrics if key.startswith(prefix)]
    histories = [client.get_metric_history(run.info.run_id, key) for key in keys]
    return sorted((point.key, point.step, point.value) for history in histories for point in history)


def sent_if_there(folder: Path, uri: str) -> list[Point]:
    """`sent`, or nothing before the run is made."""
    experiment = connect(uri).get_experiment_by_name("small")
    if experiment is None or not connect(uri).search_runs([experiment.experiment_id]):
        return []
    return sent(folder, uri)
