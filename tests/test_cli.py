"""The front door: what it prints, what it refuses in one line, and what it leaves alone."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from mergenet.config import as_yaml
from mergenet.experiment import Experiment, recipes
from mergenet.models import MODELS, find_model
from mergenet.training.files import read_json
from mergenet.training.record import Record
from mergenet.training.reporter import Terminal
from tests.conftest import SMALL, Outcome

Mergenet = Callable[..., Outcome]

SMALL_RUN = ["train", "small.yaml", "--device", "cpu"]


@pytest.fixture
def mergenet(
    call: Mergenet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Callable[..., Experiment]
) -> Mergenet:
    """Calls the command line in a folder with `small.yaml` alone, 100 columns wide."""
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "small.yaml").write_text(as_yaml(small().dump()))
    return call


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where `trained` keeps the one run that the tests share."""
    return {"runs": tmp_path_factory.mktemp("cli") / "runs"}


@pytest.fixture
def trained(mergenet: Mergenet, finished_runs: dict[str, Path], tmp_path: Path) -> Path:
    """The folder of a finished run under `runs`, trained once for the module."""
    if not finished_runs["runs"].exists():
        code, _, err = mergenet(*SMALL_RUN, "--runs", str(finished_runs["runs"]))
        assert code == 0, err
    shutil.copytree(finished_runs["runs"], tmp_path / "runs")
    (folder,) = (tmp_path / "runs" / "small").iterdir()
    return folder.relative_to(tmp_path)


def stamps(folder: Path) -> dict[str, int]:
    """When each file under `folder` was last written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# --- refused -----------------------------------------------------------------------------------------------------

BAD: list[tuple[str, str]] = [
    ("trian", "No such command 'trian'"),
    ("train", "train: name a recipe (cifar100-amalgamation, "),
    ("train digit-cross-structure", "no recipe 'digit-cross-structure'; nearest is 'digits-cross-structure'"),
    ("train none.yaml", "none.yaml: cannot be read"),
    ("train small.yaml training.epocs=1", "training.epocs: unknown key; nearest is 'epochs'"),
    ("train small.yaml checkpoint.every", "override 'checkpoint.every': write it as path=value"),
    ("train small.yaml checkpoint.every=x", "checkpoint.every: input should be a valid integer, got 'x'"),
    ("train small.yaml check\npoint=1", "check point: unknown key; nearest is 'checkpoint'"),
    ("train small.yaml checkpoint={", "override 'checkpoint={' line 1: not YAML"),
    ("train small.yaml checkpoint.every=0", "checkpoint.every: input should be greater than 0"),
    ("train small.yaml clock=teacher", "clock: 'teacher' is no learner"),
    ("train small.yaml transfers.main.from=sorce.fc", "transfers.main.from: no learner 'sorce'; nearest is 'source'"),
    ("train small.yaml transfers.main.to=target.irb99", "transfers.main.to: mobilenet_v2-narrow: no port 'irb99'"),
    ("train small.yaml transfers.main.encoding.svd.rank=99", "transfers.main.encoding: rank 99 is above 10"),
    ("train small.yaml transfers.main.encoding=sdv", "transfers.main.encoding: unknown choice 'sdv'; nearest is 'svd'"),
    ("train small.yaml learners.target.model=resnet", "learners.target.model: no model 'resnet'"),
    ("train small.yaml learners.target.training.batch_size=9999", "learners.target.training.batch_size: 9999 is above"),
    (
        "train small.yaml learners.target.task.classification.data=mnist",
        "data mnist: needs its folder, --data mnist=",
    ),
    ("train cifar100-cross-structure", "data cifar100: needs its folder, --data cifar100=PATH"),
    ("train cifar100-cross-structure --data cifar100=none", "data cifar100: no folder none"),
    ("train small.yaml --data cifar100", "--data cifar100: write it as NAME=PATH"),
    ("train small.yaml --data digits=x", "data digits: comes with scikit-learn and takes no path"),
    ("train small.yaml --data mnist=x", "--data mnist: this experiment reads digits and not mnist"),
    ("train small.yaml --workers 0", "Invalid value for '--workers'"),
    ("train small.yaml --workers 3", "learners.source.training.batch_size: 256 does not divide by 3 workers"),
    ("train small.yaml --seed -1", "Invalid value for '--seed'"),
    ("train small.yaml --device tpu", "Invalid value for '--device'"),
    ("train small.yaml --epochs 3", "No such option"),
    ("train --resume none", "none/manifest.json: no such file"),
    (
        "train small.yaml --resume none --workers 1",
        "--resume goes on with the recorded run as it is; leave a recipe out",
    ),
    ("train --resume none --workers 1 --seed 1", "--resume goes on with the recorded run as it is; leave --seed out"),
    ("train --resume none --workers 1 --threads 1", "--resume goes on with the recorded run as it is; leave --threads"),
]


@pytest.mark.parametrize(("line", "start"), BAD)
def test_a_bad_command_line_is_one_line_and_writes_nothing(
    mergenet: Mergenet, tmp_path: Path, line: str, start: str
) -> None:
    code, out, err = mergenet(*line.split(" "), *(["--runs", "runs"] if line.startswith("train") else []))
    assert (code, out) == (2, "")
    assert err.startswith(f"mergenet: {start}") and err.endswith("\n") and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_a_runs_folder_that_is_a_file_is_refused_in_one_line(mergenet: Mergenet, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    code, out, err = mergenet(*SMALL_RUN, "--runs", "taken")
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("mergenet: ") and "taken" in err


def test_a_record_without_what_a_manifest_holds_is_refused_in_one_line(mergenet: Mergenet, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    code, _, err = mergenet("train", "--resume", "run")
    assert code == 2 and err.startswith("mergenet: run/manifest.json: ") and err.count("\n") == 1


def test_without_a_command_the_help_is_shown_as_help(mergenet: Mergenet) -> None:
    _, out, err = mergenet()
    shown = out + err
    assert "train" in shown and shown.count("\n") > 3 and not shown.startswith("mergenet: ")


# --- the dry run -------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_ports_and_shapes_and_writes_nothing(mergenet: Mergenet, tmp_path: Path) -> None:
    code, out, err = mergenet(*SMALL_RUN, "--dry-run", "--seed", "3")
    assert (code, err) == (0, "")
    for part in (
        "resnet18-narrow",
        "source.classifier",
        "-> target.irb16",
        "10 x 128",
        "56 x 336",
        "4 x 128",
        "4 x 336",
        "5 ticks on 1 x cpu, seed 3",
        "would be recorded in runs/small/",
    ):
        assert part in out
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_a_dry_run_says_what_is_frozen_and_what_is_off(mergenet: Mergenet, tmp_path: Path) -> None:
    save_file(find_model("resnet18-narrow").build(10).state_dict(), "w.safetensors")
    frozen = {"model": "resnet18-narrow", "frozen": True, "weights": "w.safetensors"}
    off = {"from": "source.layer1.0.conv1", "to": "target.irb12", "enabled": False}
    learners, transfers = {**SMALL["learners"], "source": frozen}, {**SMALL["transfers"], "second": off}
    (tmp_path / "frozen.yaml").write_text(json.dumps({**SMALL, "learners": learners, "transfers": transfers}))
    _, out, err = mergenet("train", "frozen.yaml", "--device", "cpu", "--dry-run")
    rows = [line.split() for line in out.splitlines()]
    assert err == "" and ["source", "resnet18-narrow", "1,280", "-", "frozen", "-"] in rows
    assert [row[-1] for row in rows if row[:1] in (["main"], ["second"])] == ["2", "off"]


def test_a_dry_run_shows_values_that_read_back_as_the_experiment(mergenet: Mergenet, tmp_path: Path) -> None:
    _, out, _ = mergenet(*SMALL_RUN, "--dry-run", "checkpoint.every=7")
    shown = out[: out.index("\n\n")]
    (tmp_path / "shown.yaml").write_text(shown)
    _, again, _ = mergenet("train", "shown.yaml", "--device", "cpu", "--dry-run")
    assert again == out and "checkpoint: {every: 7}" in shown


def test_every_recipe_can_be_looked_at(
    mergenet: Mergenet, cifar100_small: Path, complete: Callable[[str], list[str]]
) -> None:
    for recipe in recipes():
        data = ["--data", f"cifar100={cifar100_small}"] if recipe.startswith("cifar100") else []
        code, out, _ = mergenet("train", recipe, *complete(recipe), *data, "--dry-run")
        assert code == 0 and recipe in out


# --- a run -------------------------------------------------------------------------------------------------------


def test_a_run_prints_its_table_and_where_its_record_lies(mergenet: Mergenet, tmp_path: Path) -> None:
    code, out, err = mergenet(*SMALL_RUN, "--seed", "1")
    (folder,) = (tmp_path / "runs" / "small").iterdir()
    assert code == 0 and folder.name.endswith("-s1")
    assert f"Record: runs/small/{folder.name}\n" in out
    assert "epoch 1, validation: source" in err
    result = read_json(folder / "result.json")
    for name, figures in result["learners"].items():
        row = next(line for line in out.splitlines() if line.strip().startswith(name))
        assert f"{figures['validation']['top1']:.2f}" in row and f"{figures['test']['top1']:.2f}" in row


def test_the_next_steps_a_run_names_can_be_taken(mergenet: Mergenet, trained: Path) -> None:
    _, out, _ = mergenet(*SMALL_RUN)
    commands = [line.partition(" mergenet ")[2] for line in out.splitlines() if line.startswith("  mergenet ")]
    assert len(commands) >= 3
    for command in commands:
        code, _, err = mergenet(*command.split(), *([] if "--dry-run" in command else ["--dry-run"]))
        assert code == 0, err


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path: Path, mergenet: Mergenet) -> None:
    """`mergenet train ... 2>&1 | head -1`."""
    words = [sys.executable, "-m", "mergenet", *SMALL_RUN, "training.epochs=3"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None and process.stdout.readline().startswith("epoch 1")
        process.stdout.close()
        assert process.wait(timeout=120) == 0
    (folder,) = (tmp_path / "runs" / "small").iterdir()
    assert json.loads((folder / "result.json").read_text())["status"] == "finished"


def test_who_stops_before_the_first_checkpoint_is_told_and_begins_anew(
    mergenet: Mergenet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(reporter: Terminal, done: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "tick", stop)
        code, _, err = mergenet(*SMALL_RUN)
    (folder,) = (tmp_path / "runs" / "small").iterdir()
    assert code == 130 and "interrupted before the first checkpoint (every 500 ticks); begin anew with:" in err
    code, _, err = mergenet("train", "--resume", str(folder))
    assert code == 0 and "there is no checkpoint yet: starting from the first tick\n" in err


def test_a_run_that_finished_is_shown_and_not_trained_again(mergenet: Mergenet, trained: Path) -> None:
    before = stamps(trained)
    for arguments in (SMALL_RUN, ["train", "--resume", str(trained), "--device", "cpu"]):
        code, out, err = mergenet(*arguments)
        assert code == 0 and f"Record: {trained}\n" in out
        assert err == f"This run finished before; to train it again, remove {trained}\n"
    assert stamps(trained) == before


def test_runs_may_come_from_the_environment(
    mergenet: Mergenet, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("MERGENET_RUNS", "elsewhere")
    code, _, err = mergenet(*SMALL_RUN)
    assert code == 0 and err.startswith("This run finished before; to train it again, remove elsewhere/small/")


def test_a_finished_run_with_other_threads_is_refused(mergenet: Mergenet, trained: Path) -> None:
    code, out, err = mergenet(*SMALL_RUN, "--threads", "2")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"mergenet: {trained} holds this run finished with ")


@pytest.mark.parametrize("result", [None, '{"status": "failed"}', '{"status": "interrupted"}'])
def test_an_unfinished_run_is_refused_with_how_to_go_on(mergenet: Mergenet, trained: Path, result: str | None) -> None:
    (trained / "result.json").unlink()
    if result:
        (trained / "result.json").write_text(result)
    before = stamps(trained)
    code, out, err = mergenet(*SMALL_RUN)
    assert (code, out) == (2, "")
    assert err == f"mergenet: {trained} holds this run unfinished: go on with --resume {trained}, or remove it\n"
    assert stamps(trained) == before


def test_the_same_command_goes_on_with_what_it_began_where_it_is_told_to(mergenet: Mergenet, trained: Path) -> None:
    """What a scheduler starts again is the command as it was."""
    expected = read_json(trained / "result.json")["learners"]
    (trained / "result.json").unlink()
    code, _, err = mergenet(*SMALL_RUN, "--continue")
    assert code == 0 and "epoch 1" not in err, "it does not begin anew"
    assert read_json(trained / "result.json")["learners"] == expected
    code, _, err = mergenet(*SMALL_RUN, "--continue")
    assert code == 0 and "finished before" in err
    shutil.rmtree(trained)
    code, _, err = mergenet(*SMALL_RUN, "--continue")
    assert code == 0 and "epoch 1" in err, "there is nothing yet"


def test_a_run_that_lost_its_end_goes_on_from_its_checkpoint(mergenet: Mergenet, trained: Path) -> None:
    """All ticks are in the checkpoint: what is left is the test split and the result."""
    expected = read_json(trained / "result.json")["learners"]
    (trained / "result.json").unlink()
    code, out, err = mergenet("train", "--resume", str(trained), "--device", "cpu")
    assert code == 0 and f"Record: {trained}\n" in out and "epoch 1" not in err
    assert "Next:" not in out, "the words of a resume do not name another run"
    assert read_json(trained / "result.json")["learners"] == expected


def test_resume_refuses_a_run_whose_experiment_was_changed(mergenet: Mergenet, trained: Path) -> None:
    path = trained / "experiment.json"
    path.write_text(path.read_text().replace('"cycle": 2', '"cycle": 3'))
    (trained / "result.json").unlink()
    code, out, err = mergenet("train", "--resume", str(trained), "--device", "cpu")
    assert (code, out) == (2, "")
    line = "experiment, data, weights or numerics differ from those the run began with"
    assert err == f"mergenet: --resume {trained}: {line}\n"


def test_resume_refuses_workers_over_which_a_batch_cannot_be_cut(mergenet: Mergenet, trained: Path) -> None:
    code, _, err = mergenet("train", "--resume", str(trained), "--device", "cpu", "--workers", "3")
    assert code == 2 and err.startswith(f"mergenet: --resume {trained}: batches (")


@pytest.mark.parametrize(
    ("error", "code", "start"),
    [
        (RuntimeError("the reason\nand more"), 1, "the run failed: RuntimeError: the reason; runs/small/"),
        (
            KeyboardInterrupt(),
            130,
            "interrupted before the first checkpoint (every 500 ticks); begin anew with: mergenet",
        ),
    ],
)
def test_a_run_that_stops_is_one_line_and_an_exit_code(
    mergenet: Mergenet, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, start: str
) -> None:
    from mergenet.training import run

    def stop(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(run, "advance", stop)
    found, out, err = mergenet(*SMALL_RUN)
    assert (found, out, err.count("\n")) == (code, "", 1) and err.startswith(f"mergenet: {start}")


# --- processes ---------------------------------------------------------------------------------------------------


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


HEAVY = "{'torch', 'torchvision', 'ray', 'optuna', 'mlflow', 'sklearn', 'pyarrow'}"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ["mergenet", *{arguments!r}]
from mergenet.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("heavy:", sorted({HEAVY} & set(sys.modules)))
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mergenet" in done.stdout and done.stdout.endswith("heavy: []\n")


def test_a_run_never_imports_ray_optuna_or_mlflow(tmp_path: Path) -> None:
    code = """
import sys
import mergenet.training.run, mergenet.cli.show
print(sorted({"ray", "optuna", "mlflow"} & set(sys.modules)))
"""
    done = python("-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = python("-m", "mergenet", "train", "digits-cross-structure", "trainig.epochs=1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mergenet: trainig: unknown key; nearest is 'training'\n"
    assert not list(tmp_path.iterdir())


# --- models ------------------------------------------------------------------------------------------------------


def test_models_lists_every_model_with_its_ports(mergenet: Mergenet) -> None:
    code, out, _ = mergenet("models")
    assert code == 0
    assert all(name in out for name in MODELS)
    assert "classifier, irb1, ..., irb17" in out


def test_models_of_a_name_lists_every_port_with_its_shape(mergenet: Mergenet) -> None:
    code, out, _ = mergenet("models", "mobilenet_v2", "--classes", "1000")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert ["irb16", "features.16.conv.2", "160", "x", "960"] in lines
    assert ["classifier", "classifier.1", "1000", "x", "1280"] in lines
    assert ["features.0.0", "32", "x", "27"] in lines
    assert sum("features.16.conv.2" in line for line in lines) == 1


def test_an_unknown_model_is_refused_with_the_nearest(mergenet: Mergenet) -> None:
    code, out, err = mergenet("models", "mobilenet_v3")
    assert (code, out, err) == (2, "", "mergenet: no model 'mobilenet_v3'; nearest is 'mobilenet_v2'\n")


# --- a run that is there in another form -------------------------------------------------------------------------


def test_a_run_made_with_other_threads_says_with_which(mergenet: Mergenet, trained: Path) -> None:
    code, _, err = mergenet(*SMALL_RUN, "--threads", "2")
    assert code == 2
    assert f"{trained} holds this run finished with --threads 1, and this asks for 2: add --threads 1 to see it" in err


@pytest.mark.parametrize(
    ("key", "made", "line"),
    [
        ("world_size", 2, "--workers 2, and this asks for 1: add --workers 2 to see it"),
        ("device", "cuda", "--device cuda, and this asks for cpu: add --device cuda to see it"),
    ],
)
def test_a_run_made_with_other_workers_or_another_device_is_not_shown_as_this_one(
    mergenet: Mergenet, trained: Path, key: str, made: object, line: str
) -> None:
    manifest = read_json(trained / "manifest.json")
    (trained / "manifest.json").write_text(json.dumps({**manifest, key: made}))
    code, out, err = mergenet(*SMALL_RUN)
    assert (code, out) == (2, "") and f"{trained} holds this run finished with {line}" in err


def test_a_run_goes_on_where_it_began(mergenet: Mergenet, trained: Path) -> None:
    code, _, err = mergenet("train", "--resume", str(trained), "--device", "cuda")
    assert (code, err) == (2, "mergenet: --device cuda: the run began on cpu; leave it out\n")


def test_a_run_that_another_process_writes_is_not_called_unfinished(mergenet: Mergenet, trained: Path) -> None:
    (trained / "result.json").unlink()
    record = Record(trained)
    code, _, err = mergenet(*SMALL_RUN)
    record.close()
    assert (code, err) == (2, f"mergenet: {trained}: another process is writing this run\n")


def test_data_that_the_experiment_does_not_read_is_refused(mergenet: Mergenet) -> None:
    code, _, err = mergenet(*SMALL_RUN, "--data", "cifar100=somewhere")
    assert (code, err) == (2, "mergenet: --data cifar100: this experiment reads digits and not cifar100\n")


def test_a_transfer_that_never_took_place_says_so(mergenet: Mergenet) -> None:
    code, out, _ = mergenet(*SMALL_RUN, "transfers.main.cycle=1000")
    assert code == 0
    assert "never" in out
