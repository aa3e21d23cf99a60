"""A run's record, mirrored to MLflow.

The record is the truth. What is sent is worked out from its files and from what MLflow has already, so it can be
sent while the run goes on, after it, twice, or by two processes, and comes out the same: the MLflow run is found by
a tag, and a point's time follows from its tick, so that MLflow knows a point it has.
"""

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mergenet.training.files import copied_from, in_turn, is_being_written, read_json, read_result, world_sizes
from tune.files import Lines, check_record, hash_of, milliseconds, params, tags_of
from tune.store import alone, artifacts_beside, check_uri, connect, find_experiment, find_run, reaching, require_mlflow

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "failed": "FAILED",
    "stopped": "KILLED",
    "interrupted": "KILLED",
    "killed": "KILLED",
}
LOCK = ".mlflow.lock"
LONGEST = 6000  # characters of a param that MLflow keeps
DIGEST = 36  # characters of a data set's digest that MLflow keeps


@dataclass(frozen=True)
class Sent:
    """What a sync did: the MLflow run's id, how many points were new, and the record's status."""

    run_id: str
    points: int
    status: str


def sync(folder: Path, uri: str, model: Callable[[], Path | None] = lambda: None) -> Sent:
    """Brings MLflow up to a record that is being written, has ended, or was killed.

    Args:
        model: gives a folder to keep with a finished run as its artifact `model`; called where MLflow lacks it.

    Raises:
        InputError: no record, no such kind of store, or MLflow is not installed.
        Away: MLflow cannot be reached now.
    """
    require_mlflow()
    check_uri(uri)
    check_record(folder)
    with reaching(), alone(folder / LOCK):
        return bring_up(folder, uri, model)


def bring_up(folder: Path, uri: str, model: Callable[[], Path | None]) -> Sent:
    """`sync` for who is alone in the folder."""
    status = _status(folder)  # before the points: those of a run that has ended are all there
    mirror = Mirror(folder, uri)
    points = mirror.send()
    if status != "running":
        mirror.keep_record()
    if status == "finished":
        mirror.keep_model(model)
    mirror.mark(status)
    return Sent(mirror.run_id, points, status)


class Mirror:
    """The MLflow run of one record, made where there is none; for one process at a time."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder = folder
        self._experiment = read_json(folder / "experiment.json")
        self._manifest = read_json(folder / "manifest.json")
        self._lines = Lines(folder / "metrics.jsonl")
        self._client = connect(uri)
        self._run = self._find_run(artifacts_beside(uri))
        self._describe()
        self._ticks: dict[str, set[int]] = {}

    @property
    def run_id(self) -> str:
        """MLflow's name of the run."""
        return str(self._run.info.run_id)

    # --- what does not change ---

    def _find_run(self, artifacts: str | None) -> "Run":
        number, tags = (
            find_experiment(self._client, self._experiment["name"], artifacts),
            tags_of(self._manifest, self.folder),
        )
        begun = milliseconds(self.folder / "experiment.json")
        return find_run(self._client, number, "mergenet.run", tags, begun, self.folder.name)

    def _describe(self) -> None:
        from mlflow.entities import Dataset, DatasetInput, Param

        wanted = params(self._experiment)
        new = [Param(key, wanted[key][:LONGEST]) for key in wanted if key not in self._run.data.params]
        self._client.log_batch(self.run_id, params=new, synchronous=True)
        datasets = [
            Dataset(
                name,
                data["digest"][:DIGEST],
                source_type="local",
                source=json.dumps({"path": data["path"]}),
                profile=json.dumps({"digest": data["digest"]}),
            )
            for name, data in self._manifest["data"].items()
        ]
        if len(self._run.inputs.dataset_inputs if self._run.inputs else []) < len(datasets):
            self._client.log_inputs(self.run_id, [DatasetInput(dataset) for dataset in datasets])

    # --- what grows ---

    def send(self) -> int:
        """Sends the points that MLflow lacks; how many those were."""
        points = list(self._new_points())
        self._client.log_batch(self.run_id, metrics=points, synchronous=True)
        return len(points)

    def _new_points(self) -> Iterator["Metric"]:
        from mlflow.entities import Metric

        for line in self._lines.new():
            key, tick = f"{line['learner']}/{line['split']}/{line['metric']}", line["tick"]
            if line["value"] is not None and tick not in self._there(key):
                self._there(key).add(tick)
                yield Metric(key, line["value"], self._run.info.start_time + tick, tick)

    def _there(self, key: str) -> set[int]:
        """Ticks of a metric's points that MLflow has; it is asked once."""
        if key not in self._ticks:
            known = key in self._run.data.metrics
            history = self._client.get_metric_history(self.run_id, key) if known else []
            self._ticks[key] = {point.step for point in history}
        return self._ticks[key]

    def log_machine(self, figures: Mapping[str, float]) -> None:
        """Sends figures of this machine, under its name; their step is the seconds since the run began."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        second = (now - self._run.info.start_time) // 1000
        points = [Metric(f"system/{platform.node()}/{name}", value, now, second) for name, value in figures.items()]
        self._client.log_batch(self.run_id, metrics=points, synchronous=True)

    # --- how it ends ---

    def keep_record(self) -> None:
        """Sends the record's small files as artifacts, unless these very ones are there."""
        names = ("experiment.json", "manifest.json", "result.json")
        files = [path for name in names if (path := self.folder / name).exists()]
        mark = hash_of(files)
        if self._run.data.tags.get("mergenet.artifacts.record") != mark:
            for path in files:
                self._client.log_artifact(self.run_id, str(path))
            self._client.set_tag(self.run_id, "mergenet.artifacts.record", mark)

    def keep_model(self, model: Callable[[], Path | None]) -> None:
        """Sends the model of a finished run as an artifact, unless that of this very result is there."""
        mark = hash_of([self.folder / "result.json"])
        if self._run.data.tags.get("mergenet.artifacts.model") == mark:
            return
        folder = model()
        if folder is not None:
            self._client.log_artifacts(self.run_id, str(folder), "model")
            self._client.set_tag(self.run_id, "mergenet.artifacts.model", mark)

    def mark(self, status: str) -> None:
        """Says in MLflow that the run is running, or how it ended, and how many workers trained it so far."""
        self._client.set_tag(self.run_id, "mergenet.status", status)
        sizes = world_sizes(read_json(self.folder / "manifest.json"))
        self._client.set_tag(self.run_id, "mergenet.world_sizes", in_turn(sizes))
        if status == "running":
            self._client.update_run(self.run_id, STATUS[status])
        else:
            files = [self.folder / name for name in ("manifest.json", "metrics.jsonl", "result.json")]
            ended = max(milliseconds(path) for path in files if path.exists())
            self._client.set_terminated(self.run_id, STATUS[status], ended)


def _status(folder: Path) -> str:
    result = read_result(folder)
    if result is not None:
        return str(result["status"])
    # who has a copy cannot tell whether the run goes on elsewhere
    return "running" if copied_from(folder) or is_being_written(folder) else "killed"
