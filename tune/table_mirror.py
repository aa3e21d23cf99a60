"""A table in MLflow: an experiment, a parent run for each arm, a child for each seed; and the records beside them.

Like a record's own mirror, everything is found by tags: sent twice, it is there once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mergenet.config import digest
from mergenet.training.files import read_json
from tune.ablate import Job
from tune.cells import TablePlan
from tune.files import milliseconds, params
from tune.records import LONGEST, sync
from tune.store import Away, alone, artifacts_beside, connect, find_experiment, find_run, reaching, without_password


class TableMirror:
    """Brings MLflow up to the runs of a table as they end. MLflow that is away is said once, and loses nothing.

    Args:
        runs: folder of all records.
        say: takes a line for the user.
    """

    def __init__(self, table: TablePlan, runs: Path, uri: str, say: Callable[[str], None]) -> None:
        self._table = table
        self._runs = runs
        self._uri = uri
        self._say = say
        self._said = False

    def send(self, job: Job) -> None:
        """The record of a run, and the figures of its cells."""
        try:
            sync(job.spec.folder, self._uri)
            with reaching(), alone(self._runs / ".mlflow-table.lock"):
                self._send_cells(job)
        except Away as error:
            if not self._said:
                self._say(
                    f"MLflow at {without_password(self._uri)} is away ({error}); `mergenet sync` sends records later"
                )
            self._said = True

    def _send_cells(self, job: Job) -> None:
        client = connect(self._uri)
        experiment = find_experiment(client, job.spec.experiment.name, artifacts_beside(self._uri))
        for arm, seed in dict.fromkeys((arm, seed) for arm, _, seed in job.cells):
            parent = self._parent(client, experiment, arm, job)
            record = job.spec.folder.name  # another one, of a changed arm or another protocol, is another child
            tags = {**self._tags(arm), "mergenet.cell": f"{arm} s{seed} {record}", "mergenet.record": record}
            tags |= {MLFLOW_PARENT_RUN_ID: parent, "mergenet.seed": str(seed)}
            child = find_run(
                client,
                experiment,
                "mergenet.cell",
                tags,
                milliseconds(job.spec.folder / "manifest.json"),
                f"{arm} s{seed}",
            )
            ended = milliseconds(job.spec.folder / "result.json")
            points = [Metric(name, value, ended, 0) for name, value in self._figures(arm, seed, job).items()]
            client.log_batch(child.info.run_id, metrics=points, synchronous=True)
            client.set_terminated(child.info.run_id, "FINISHED", ended)

    def _parent(self, client: MlflowClient, experiment: str, arm: str, job: Job) -> str:
        """The run of an arm as it stands, with its own experiment as params: MLflow does not let them change."""
        experiment_of_arm = self._table.arms[arm].experiment.dump()
        tags = {**self._tags(arm), "mergenet.arm.parent": f"{arm} {digest(experiment_of_arm)[:8]}"}
        begun = milliseconds(job.spec.folder / "manifest.json")
        run = find_run(client, experiment, "mergenet.arm.parent", tags, begun, arm)
        wanted = params(experiment_of_arm)
        new = [Param(key, value[:LONGEST]) for key, value in wanted.items() if key not in run.data.params]
        client.log_batch(run.info.run_id, params=new, synchronous=True)
        client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)

    def _tags(self, arm: str) -> dict[str, str]:
        return {"mergenet.table": self._table.table.name, "mergenet.scale": self._table.scale, "mergenet.arm": arm}

    def _figures(self, arm: str, seed: int, job: Job) -> Mapping[str, float]:
        """The test figures of the learners of an arm, as `learner.metric`."""
        cells = {key: name for name, key in read_json(job.spec.folder / "manifest.json")["cells"].items()}
        ended = read_json(job.spec.folder / "result.json")["learners"]
        return {
            f"{learner}.{metric}": value
            for learner, key in self._table.arms[arm].keys[seed].items()
            if key in cells
            for metric, value in ended[cells[key]].get("test", {}).items()
        }
