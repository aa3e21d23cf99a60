"""From Python: the same runs as from the command line, their records as data frames."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from safetensors.torch import load_file, save_file

import mergenet
from mergenet import jobs, load_experiment, read_run, resume, run
from mergenet.config import InputError
from mergenet.data.images import Images
from mergenet.models import find_model
from mergenet.training import files, ranks
from mergenet.training.plan import make_plan
from mergenet.training.record import Record
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.sizes import exactly
from mergenet.training.spec import RunSpec
from tests.compare import assert_equal, assert_runs_equal, final_state
from tests.conftest import SMALL
from tests.ranks import on_ranks
from tests.refused import refusal
from tests.test_resume import StopAt

OWN = {"learners.source.model": "nets_of_mine:flat"}
OVERRIDES = {"training.epochs": 2, "transfers.main.cycle": 3}


def train(folder: Path, **options: Any) -> mergenet.Run:
    return run(load_experiment(SMALL), runs=folder, quiet=True, **options)


def test_a_map_a_file_and_overrides_of_either_kind_give_one_experiment(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(json.dumps(SMALL))
    texts = [f"{path}={value}" for path, value in OVERRIDES.items()]
    found = [
        load_experiment(what, how)
        for what in (SMALL, str(tmp_path / "small.yaml"), tmp_path / "small.yaml")
        for how in (OVERRIDES, texts)
    ]
    assert all(experiment == found[0] for experiment in found)
    assert found[0].transfers["main"].cycle == 3 and found[0].learners["source"].training.epochs == 2


def test_the_last_of_several_overrides_stands() -> None:
    in_turn = ["transfers.main.cycle=3", "transfers.main={cycle: 5, start: 0.5}", "transfers.main.start=0.25"]
    for overrides in (in_turn, {"transfers.main.cycle": 3, "transfers.main": {"cycle": 5, "start": 0.25}}):
        main = load_experiment(SMALL, overrides).transfers["main"]
        assert (main.cycle, main.start, main.target) == (5, 0.25, "target.irb16")
    assert load_experiment(SMALL, ["training.epochs=3", "training.epochs=5"]).learners["target"].training.epochs == 5


def test_values_of_a_map_of_overrides_are_taken_as_they_are() -> None:
    experiment = load_experiment(SMALL, {"transfers.main.encoding": {"svd": {"rank": 2}}, "name": "1e-3"})
    assert experiment.name == "1e-3"
    assert refusal(lambda: load_experiment(SMALL, {"training.epochs": "3"})).startswith("training.epochs: ")
    assert refusal(lambda: load_experiment(SMALL, {"transfers.mian.cycle": 3})).endswith("nearest is 'main'")


def test_a_run_is_the_run_that_execute_makes(tmp_path: Path) -> None:
    done = train(tmp_path / "runs", seed=3)
    execute(RunSpec(load_experiment(SMALL), 3, {}, tmp_path / "plain"), Silent())
    assert_runs_equal(done.folder, tmp_path / "plain")
    assert done.folder.parent == tmp_path / "runs" / "small" and done.folder.name.endswith("-s3")
    assert done.experiment.dump() == load_experiment(SMALL).dump() and done.manifest["seed"] == 3


def test_figures_are_every_recorded_line(tmp_path: Path) -> None:
    done = train(tmp_path)
    lines = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert isinstance(done.figures, pandas.DataFrame)
    assert done.figures.to_dict("records") == lines
    top1 = done.figures.query("learner == 'target' and split == 'test' and metric == 'top1'").value.item()
    assert done.result is not None and top1 == done.result["learners"]["target"]["test"]["top1"]


def test_a_run_that_has_not_begun_to_measure_has_an_empty_frame(tmp_path: Path) -> None:
    done = train(tmp_path)
    (done.folder / "metrics.jsonl").unlink()
    assert len(done.figures) == 0 and "value" in done.figures.columns


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    folder = train(tmp_path).folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert train(tmp_path).folder == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_an_unfinished_run_is_left_alone_and_resumed_as_it_began(tmp_path: Path) -> None:
    experiment = load_experiment(SMALL, {"checkpoint.every": 1})
    whole = run(experiment, seed=3, threads=2, runs=tmp_path / "whole", quiet=True)
    folder = tmp_path / "cut" / whole.folder.relative_to(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        execute(RunSpec(experiment, 3, {}, folder, threads=2), StopAt(3))
    with pytest.raises(InputError, match="holds this run unfinished: go on with --resume"):
        run(experiment, seed=3, threads=2, runs=tmp_path / "cut", quiet=True)
    cells = jobs.prepare_resume(folder, {}, "cpu", None, False).plan.cells
    torch.set_num_threads(1)
    assert resume(folder, quiet=True).folder == folder
    assert torch.get_num_threads() == 2 and cells == whole.manifest["cells"]
    assert_runs_equal(whole.folder, folder)


def test_a_trained_model_comes_back_with_its_weights(tmp_path: Path) -> None:
    done = train(tmp_path)
    model = done.model("target")
    for name, value in final_state(done.folder)["learners"]["target"]["model"].items():
        assert torch.equal(model.state_dict()[name], value), name
    assert not model.training
    with pytest.raises(InputError, match="nearest is 'target'"):
        done.model("taget")


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    assert refusal(lambda: read_run(tmp_path)).endswith("no such file; a run's folder holds one")


def test_data_that_is_nowhere_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    experiment = load_experiment("cifar100-self", {"training.epochs": 1})
    assert "cifar100" in refusal(lambda: run(experiment, runs=tmp_path / "runs", data={"cifar100": tmp_path / "none"}))
    assert not (tmp_path / "runs").exists()


def test_a_file_of_weights_is_found_from_everywhere_once_a_run_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Images
) -> None:
    """Workers may stand in another folder, and so may who resumes."""
    monkeypatch.chdir(tmp_path)
    save_file(find_model("resnet18-narrow").build(10).state_dict(), "w.safetensors")
    job = jobs.prepare(
        load_experiment(SMALL, {"learners.source.weights": "w.safetensors"}),
        {},
        Path("runs"),
        0,
        exactly(1),
        "cpu",
        1,
        False,
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert make_plan(job.spec.experiment, 0, {"digits": digits}, 1).hash == job.plan.hash


def test_a_model_that_is_code_runs_only_with_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_of_mine.py").write_text(
        "from torch import nn\n\nprint('ran')\n\n\n"
        "def flat(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    experiment = load_experiment(SMALL, OWN)
    line = "learners.source.model: nets_of_mine:flat is code of yours that would run here; allow it with --allow-code"
    assert refusal(lambda: run(experiment, runs="runs", quiet=True)).startswith(line)
    assert "nets_of_mine" not in sys.modules and not Path("runs").exists()
    done = run(experiment, runs="runs", quiet=True, allow_code=True)
    assert done.result is not None and done.result["transfers"]["main"]["updates"] == 2
    assert set(done.manifest["code"]) == {"source"}
    assert refusal(lambda: resume(done.folder, quiet=True)).startswith(line)
    own = Path("nets_of_mine.py")
    own.write_text(own.read_text() + "# changed\n")
    line = "model 'nets_of_mine:flat': nets_of_mine.py has changed since this Python imported it; start Python anew"
    assert refusal(lambda: run(experiment, runs="runs", quiet=True, allow_code=True)).endswith(line)
    code = f"""
from mergenet import load_experiment, run
done = run(load_experiment({SMALL!r}, {OWN!r}), runs='runs', quiet=True, allow_code=True)
print(done.manifest['cells']['target'])
"""
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    other = other.removeprefix("ran\n")
    assert len(other) == 64 and other != done.manifest["cells"]["target"], "the code counts"


def test_a_live_run_is_not_resumed_beside_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE_S", 0.0)
    folder = train(tmp_path).folder
    record = Record(folder)
    assert refusal(lambda: resume(folder, quiet=True)).endswith("another process is writing this run")
    record.close()


def test_who_goes_on_waits_for_the_lock_of_a_process_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server of files may keep it; and says so."""
    monkeypatch.setattr(files, "SAID_AFTER_S", 0.1)
    folder, said = train(tmp_path).folder, list[str]()
    record = Record(folder)
    released = threading.Timer(1.0, record.close)
    released.start()

    class Listening(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    job = jobs.prepare_resume(folder, {}, "cpu", None, allow_code=False)
    assert not jobs.train(job, "off", Listening()), "it had finished"
    released.join()
    assert said == [f"{folder}: another process is writing it; waiting 120 s for it to let go"]


def test_a_run_that_another_process_has_only_just_begun_is_left_to_it(tmp_path: Path) -> None:
    """It has not described itself yet."""
    done = train(tmp_path)
    shutil.rmtree(done.folder)
    record = Record(done.folder)
    assert refusal(lambda: train(tmp_path)).endswith("another process is writing this run")
    record.close()


def test_a_line_that_a_death_cut_short_is_left_out(tmp_path: Path) -> None:
    done = train(tmp_path)
    whole = len(done.figures)
    with (done.folder / "metrics.jsonl").open("a") as file:
        file.write('{"run": "x", "learner": "tar')
    assert len(done.figures) == whole > 10


# --- the mirror --------------------------------------------------------------------------------------------------

STORE = "http://localhost:5000"


@pytest.mark.parametrize(
    ("asked", "ours", "mlflows", "where"),
    [
        ("auto", None, None, "sqlite:///{runs}/mlflow.db"),
        ("auto", None, STORE, STORE),
        ("auto", "off", STORE, None),
        ("auto", "sqlite:///own.db", STORE, "sqlite:///own.db"),
        ("off", "sqlite:///own.db", STORE, None),
        ("sqlite:///told.db", "off", STORE, "sqlite:///told.db"),
    ],
)
def test_what_is_told_goes_before_our_variable_and_that_before_mlflows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: str,
    ours: str | None,
    mlflows: str | None,
    where: str | None,
) -> None:
    for variable, value in (("MERGENET_MLFLOW", ours), ("MLFLOW_TRACKING_URI", mlflows)):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    assert jobs.tracking_uri(asked, tmp_path) == (where and where.format(runs=tmp_path))


def test_without_mlflow_there_is_no_mirror_and_an_address_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MERGENET_MLFLOW")
    monkeypatch.setattr(jobs, "find_spec", lambda name: None)
    assert jobs.tracking_uri("auto", tmp_path) is None and jobs.tracking_uri("off", tmp_path) is None
    line = f"--mlflow {STORE}: MLflow is not installed: pip install mlflow, or say off"
    assert refusal(lambda: run(load_experiment(SMALL), runs=tmp_path / "runs", mlflow=STORE, quiet=True)) == line
    assert not (tmp_path / "runs").exists()


def test_a_mirrored_run_keeps_its_clock_learner_and_one_that_diverged_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MERGENET_MLFLOW", f"sqlite:///{tmp_path / 'mlflow.db'}")
    done = run(load_experiment(SMALL, {"clock": "source"}), runs=tmp_path / "runs", quiet=True)
    wild = {"name": "wild", "learners.target.training.optimizer.sgd.lr": 1e30}
    diverged = run(load_experiment(SMALL, wild), runs=tmp_path / "runs", quiet=True)
    assert diverged.result is not None and diverged.result["status"] == "finished"
    results = list((tmp_path / "mlflow-artifacts").rglob("result.json"))
    (kept,) = (tmp_path / "mlflow-artifacts").rglob("model.safetensors")
    assert len(results) == 2, "both were mirrored"
    assert_equal(load_file(kept), final_state(done.folder)["learners"]["source"]["model"])


class Noting(Silent):
    """Notes what is said to the user."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def mirrored_nowhere(runs: Path) -> list[str]:
    """What one rank says of MLflow, which is away."""
    os.environ["WORLD_SIZE"] = str(ranks.world())
    job = jobs.prepare(load_experiment(SMALL), {}, runs, 0, exactly(ranks.world()), "cpu", 1, False)
    noting = Noting()
    assert jobs.train(job, "http://127.0.0.1:9", noting)
    return [line for line in noting.lines if "MLflow" in line]


def test_only_the_first_rank_mirrors(tmp_path: Path) -> None:
    first, second = on_ranks(2, mirrored_nowhere, tmp_path / "ranks", tmp_path / "runs")
    assert second == [] and first and first[0].startswith("MLflow at http://127.0.0.1:9 is away")


# --- the package -----------------------------------------------------------------------------------------------------


def test_importing_mergenet_brings_neither_torch_nor_what_runs_many() -> None:
    heavy = "{'torch', 'ray', 'mlflow', 'optuna', 'pandas'}"
    code = f"import mergenet, sys; assert not {heavy} & set(sys.modules); mergenet.run; assert 'torch' in sys.modules"
    after = "; assert not {'ray', 'mlflow', 'optuna'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code + after], check=True)


def test_what_is_not_there_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'ran'"):
        getattr(mergenet, "ran")  # noqa: B009
