"""What a run leaves behind: whole checkpoints, metrics up to a tick, and how it ended."""

import errno
import fcntl
import json
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from cluster import launch, side_by_side
from mergenet.config import InputError, merge, parse
from mergenet.data.images import Images
from mergenet.experiment import Experiment
from mergenet.identity import Contents, cell_keys, run_hash
from mergenet.models import MODELS, Model, find_model
from mergenet.training import checkpoint as checkpoint_module
from mergenet.training import files
from mergenet.training import run as run_module
from mergenet.training.checkpoint import checkpoints, load_checkpoint, recover_newest, save_checkpoint
from mergenet.training.files import await_finished, is_being_written, read_json, read_result
from mergenet.training.graph import Graph
from mergenet.training.loop import advance
from mergenet.training.record import Record, read_experiment, run_folder
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.spec import RunSpec
from tests.conftest import SMALL
from tests.smooth import SMOOTH

Make = Callable[..., Experiment]


def state_of(tick: int) -> dict[str, Any]:
    weights = {"a": torch.arange(6.0).reshape(2, 3) + tick, "b": torch.tensor([tick], dtype=torch.int64)}
    return {"done": tick, "weights": weights, "best": None, "nested": {"list": [1, 2.5, "three"]}}


# --- checkpoints -------------------------------------------------------------------------------------------------


def test_a_checkpoint_gives_back_what_it_was_given(tmp_path: Path) -> None:
    state = state_of(3)
    save_checkpoint(tmp_path, 3, state)
    found, broken = recover_newest(tmp_path)
    assert found == tmp_path / "tick-00000003" and broken == []
    loaded = load_checkpoint(found)
    weights = loaded.pop("weights")
    assert loaded == {key: value for key, value in state.items() if key != "weights"}
    assert weights.keys() == state["weights"].keys()
    for name, weight in state["weights"].items():
        assert torch.equal(weights[name], weight) and weights[name].dtype == weight.dtype


def test_there_is_none_before_the_first(tmp_path: Path) -> None:
    assert recover_newest(tmp_path / "checkpoints") == (None, [])


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    for tick in (8, 9, 10, 100):
        save_checkpoint(tmp_path, tick, state_of(tick))
    assert [path.name for path in checkpoints(tmp_path)] == ["tick-00000010", "tick-00000100"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tick-00000010", "tick-00000100"]


def test_a_checkpoint_of_the_same_tick_replaces_the_old_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, state_of(1))
    save_checkpoint(tmp_path, 5, state_of(2))
    assert [path.name for path in checkpoints(tmp_path)] == ["tick-00000005"]
    assert load_checkpoint(tmp_path / "tick-00000005")["done"] == 2


def cut(path: Path) -> None:
    file = path / "state.pt"
    file.write_bytes(file.read_bytes()[:-10])


def flip(path: Path) -> None:
    file = path / "state.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


BREAKS: list[Any] = [
    (cut, "its checksum does not match"),
    (flip, "its checksum does not match"),
    (lambda path: (path / "state.pt").write_bytes(b""), "its checksum does not match"),
    (lambda path: (path / "sha256").write_text("0" * 64), "its checksum does not match"),
    (lambda path: (path / "sha256").write_text(""), "its checksum does not match"),
    (lambda path: (path / "sha256").write_bytes(b"\xff\xfe"), "its checksum does not match"),
    (lambda path: (path / "sha256").unlink(), "a file is missing"),
    (lambda path: (path / "state.pt").unlink(), "a file is missing"),
]


@pytest.mark.parametrize(("breaks", "problem"), BREAKS)
def test_a_broken_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, breaks: Callable[[Path], Any], problem: str
) -> None:
    for tick in (1, 2):
        save_checkpoint(tmp_path, tick, state_of(tick))
    newest = tmp_path / "tick-00000002"
    breaks(newest)
    found, broken = recover_newest(tmp_path)
    assert found == tmp_path / "tick-00000001" and load_checkpoint(found)["done"] == 1
    assert broken == [f"checkpoint {newest} is broken ({problem}), using the one before it"]


def test_when_all_are_broken_no_other_is_promised(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state_of(1))
    cut(tmp_path / "tick-00000001")
    found, broken = recover_newest(tmp_path)
    assert found is None and len(broken) == 1
    assert "tick-00000001 is broken" in broken[0] and "the one before it" not in broken[0]


@pytest.mark.parametrize("stop_at", ["save", "_sha256", "_to_disk"])
def test_a_checkpoint_stopped_half_way_is_never_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: str
) -> None:
    """Whatever a process was doing when it died, what is there before stays, and the next one is written."""
    save_checkpoint(tmp_path, 1, state_of(1))

    def stop(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch if stop_at == "save" else checkpoint_module, stop_at, stop)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, 2, state_of(2))
    assert recover_newest(tmp_path) == (tmp_path / "tick-00000001", [])
    assert [path.name for path in checkpoints(tmp_path)] == ["tick-00000001"]
    save_checkpoint(tmp_path, 2, state_of(2))
    assert recover_newest(tmp_path) == (tmp_path / "tick-00000002", [])


class Stranger:
    """Something that only running code could bring back."""


def test_a_checkpoint_that_would_run_code_is_refused_in_one_line(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"stranger": Stranger()})
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_checkpoint(tmp_path / "tick-00000001")
    assert len(str(caught.value).splitlines()) == 1


# --- the record --------------------------------------------------------------------------------------------------


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_second_opener_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    first = Record(tmp_path / "run")
    with pytest.raises(InputError, match="another process is writing this run"):
        Record(tmp_path / "run")
    first.close()
    Record(tmp_path / "run").close()


def test_who_looks_at_a_record_neither_makes_its_lock_nor_needs_to_write_it(tmp_path: Path) -> None:
    assert not is_being_written(tmp_path) and not list(tmp_path.iterdir())
    record = Record(tmp_path)
    assert is_being_written(tmp_path) and is_being_written(tmp_path)
    record.close()
    assert not is_being_written(tmp_path)


def test_a_lock_of_somebody_else_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(InputError, match="cannot be written: Is a directory"):
        Record(tmp_path)
    assert not is_being_written(tmp_path)


@pytest.mark.parametrize("kind", ["of a trainer", "of a table"])
def test_a_worker_waits_for_one_that_was_given_up_to_let_go(small: Make, tmp_path: Path, kind: str) -> None:
    folder, news = tmp_path / "runs" / "small" / "a-s0", SimpleNamespace(put=lambda news: None)
    spec, held = RunSpec(small(), 0, {}, folder), Record(folder)
    released = threading.Timer(1.0, held.close)
    released.start()
    if kind == "of a trainer":
        assert launch._work({"spec": spec.as_plain(), "news": news}) == {}
    else:
        assert side_by_side._work(spec.as_plain(), news) is None
    released.join()
    assert read_json(folder / "result.json")["status"] == "finished"


def test_a_file_system_that_does_not_lock_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(InputError, match="cannot be locked: Function not implemented"):
        Record(tmp_path)


def test_who_only_looks_keeps_no_writer_out(tmp_path: Path) -> None:
    Record(tmp_path).close()
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        looked = threading.Timer(0.1, file.close)
        looked.start()
        Record(tmp_path).close()
        looked.join()


def test_a_result_that_shows_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a folder that nodes mount; what is seen there first may be of before."""
    (tmp_path / "result.json").write_text('{"status": "interrupted"}')
    late = threading.Timer(1.0, (tmp_path / "result.json").write_text, ['{"status": "finished"}'])
    late.start()
    assert await_finished(tmp_path) == {"status": "finished"}
    late.join()
    monkeypatch.setattr(files, "SEEN_WITHIN_S", 0.0)
    assert await_finished(tmp_path / "none") is None


def test_a_metric_is_one_line_with_the_documented_keys(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    record.log("target", 5, 1, "validation", {"loss": 0.5, "top1": 90.0})
    record.close()
    assert lines_of(tmp_path / "run") == [
        {
            "run": "run",
            "learner": "target",
            "tick": 5,
            "epoch": 1,
            "split": "validation",
            "metric": name,
            "value": value,
        }
        for name, value in (("loss", 0.5), ("top1", 90.0))
    ]


@pytest.mark.parametrize("half", ["", '{"run": "run", "learner": "target", "tick": 7, "val', "{", "\x00\x00"])
@pytest.mark.parametrize(("tick", "kept"), [(7, [5, 6, 7]), (6, [5, 6]), (0, [])])
def test_metrics_are_cut_back_to_a_tick_with_a_half_written_line(
    tmp_path: Path, tick: int, kept: list[int], half: str
) -> None:
    record = Record(tmp_path)
    for done in (5, 6, 7):
        record.log("target", done, done, "train", {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(half)
    record.go_on_from(tick, 9)
    assert [line["tick"] for line in lines_of(tmp_path)] == kept
    record.log("target", 8, 8, "train", {"loss": 1.0})
    assert [line["tick"] for line in lines_of(tmp_path)] == [*kept, 8]
    record.close()


def test_going_on_forgets_how_the_run_ended(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.finish({"status": "failed"})
    assert record.has_result() and read_result(tmp_path) == {"status": "failed"}
    record.go_on_from(0, 9)
    assert not record.has_result() and read_result(tmp_path) is None
    record.close()


@pytest.mark.parametrize("content", [None, "", "{", "[1]", "\x00"])
def test_a_broken_or_missing_file_of_a_record_is_named_in_one_line(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value).splitlines()) == 1


def test_a_runs_folder_is_named_by_its_hash_and_seed(tmp_path: Path) -> None:
    assert run_folder(tmp_path, "name", "0123456789abcdef", 3) == tmp_path / "name" / "01234567-s3"


# --- runs --------------------------------------------------------------------------------------------------------


def spec_of(experiment: Experiment, folder: Path, seed: int = 0) -> RunSpec:
    return RunSpec(experiment, seed, {}, folder)


PLAIN_TWIN = {"plain": {"model": "mobilenet_v2-narrow", "task": {"classification": {"data": "digits"}}}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Experiment]:
    """The folder of a finished run of source, target and the target once more without a transfer."""
    torch.set_num_threads(1)
    experiment = parse(Experiment, merge(Experiment, SMALL, {"learners": PLAIN_TWIN}))
    folder = tmp_path_factory.mktemp("finished") / "run"
    execute(spec_of(experiment, folder), Silent())
    return folder, experiment


def test_a_run_leaves_its_record_and_nothing_else(finished: tuple[Path, Experiment]) -> None:
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "checkpoints",
        "experiment.json",
        "manifest.json",
        "metrics.jsonl",
        "result.json",
    }
    assert [path.name for path in checkpoints(folder / "checkpoints")] == ["tick-00000005"]


def test_the_recorded_experiment_is_the_one_that_ran(finished: tuple[Path, Experiment]) -> None:
    folder, experiment = finished
    assert read_experiment(folder).dump() == experiment.dump()


def test_the_manifest_names_run_cells_data_and_surroundings(finished: tuple[Path, Experiment], digits: Images) -> None:
    folder, experiment = finished
    manifest = read_json(folder / "manifest.json")
    contents = Contents({"digits": digits.digest()}, {"digits": [10, digits.mean, digits.deviation]})
    assert manifest["hash"] == run_hash(experiment, contents)
    assert manifest["cells"] == cell_keys(experiment, 0, dict.fromkeys(experiment.learners, 5), contents, 5)
    form = {"classes": 10, "shape": [3, 8, 8], "mean": [0.3053] * 3, "deviation": [0.3761] * 3}
    names = [str(digit) for digit in range(10)]
    assert manifest["data"] == {"digits": {"digest": digits.digest(), "path": None, "names": names, **form}}
    assert (manifest["seed"], manifest["threads"], manifest["world_size"]) == (0, 1, 1)
    assert manifest["versions"]["torch"] == version("torch")
    assert {"python", "commit", "hardware"} <= manifest.keys()


def test_equal_models_begin_with_equal_weights_and_all_with_the_same_batch(finished: tuple[Path, Experiment]) -> None:
    pairing = read_json(finished[0] / "manifest.json")["pairing"]
    assert pairing["target"]["initial_weights"] == pairing["plain"]["initial_weights"]
    assert pairing["source"]["initial_weights"] != pairing["target"]["initial_weights"]
    assert len({hashes["first_batch"] for hashes in pairing.values()}) == 1


def test_metrics_have_the_documented_keys_for_every_learner_and_split(finished: tuple[Path, Experiment]) -> None:
    folder, experiment = finished
    lines = lines_of(folder)
    assert all(list(line) == ["run", "learner", "tick", "epoch", "split", "metric", "value"] for line in lines)
    assert {line["run"] for line in lines} == {"run"} and {line["tick"] for line in lines} == {5}
    found = {(line["learner"], line["split"], line["metric"]) for line in lines}
    expected = {(name, "train", "loss") for name in experiment.learners}
    expected |= {
        (name, split, metric)
        for name in experiment.learners
        for split in ("validation", "test")
        for metric in ("loss", "top1", "top5")
    }
    assert found == expected | {("target", "train", "main.written"), ("target", "train", "main.moved")}
    assert len(found) == len(lines)


def test_the_result_is_finished_with_the_figures_of_the_metrics(finished: tuple[Path, Experiment]) -> None:
    folder, experiment = finished
    result = read_json(folder / "result.json")
    assert (result["status"], result["ticks"]) == ("finished", 5) and result["seconds"] > 0
    assert set(result["learners"]) == set(experiment.learners)
    for line in lines_of(folder):
        if line["split"] != "train":
            assert result["learners"][line["learner"]][line["split"]][line["metric"]] == line["value"]
    for figures in result["learners"].values():
        assert (figures["steps"], figures["diverged_at"]) == (5, None)


def test_a_finished_record_can_be_opened_again(finished: tuple[Path, Experiment]) -> None:
    Record(finished[0]).close()


def stop_at(tick: int, error: BaseException) -> Callable[[Graph], None]:
    def stopping(graph: Graph) -> None:
        if graph.done == tick:
            raise error
        advance(graph)

    return stopping


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RuntimeError("the reason\nin two lines"), "failed", "RuntimeError: the reason\nin two lines"),
        (KeyboardInterrupt(), "interrupted", "stopped by Ctrl-C or a request to terminate"),
    ],
)
def test_a_run_that_stops_says_why_and_can_be_opened(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: str, reason: str
) -> None:
    monkeypatch.setattr(run_module, "advance", stop_at(3, error))
    with pytest.raises(type(error)):
        execute(spec_of(small({"checkpoint": {"every": 2}}), tmp_path), Silent())
    result = read_json(tmp_path / "result.json")
    assert (result["status"], result["reason"]) == (status, reason)
    if status == "failed":
        assert result["traceback"].startswith("Traceback") and "in stopping" in result["traceback"]
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["tick-00000002"]
    Record(tmp_path).close()


RATE = {"training": {"optimizer": {"sgd": {"lr": 1e30}}}}


def test_a_diverging_target_is_marked_and_its_source_finishes_untouched(
    small: Make, tmp_path: Path, finished: tuple[Path, Experiment]
) -> None:
    execute(spec_of(small({"learners": {"target": RATE}}), tmp_path), Silent())
    result = read_json(tmp_path / "result.json")
    target, source = result["learners"]["target"], result["learners"]["source"]
    assert result["status"] == "finished"
    assert target == {"steps": 1, "diverged_at": 1}
    assert source == read_json(finished[0] / "result.json")["learners"]["source"]
    assert not [line for line in lines_of(tmp_path) if line["learner"] == "target" and line["split"] != "train"]


def test_a_diverging_source_leaves_its_target_to_itself(small: Make, tmp_path: Path) -> None:
    """With a transfer before every step, what the source's last update broke is not written into the target."""
    execute(spec_of(small({"learners": {"source": RATE}, "transfers": {"main": {"cycle": 1}}}), tmp_path), Silent())
    learners = read_json(tmp_path / "result.json")["learners"]
    assert learners["source"]["diverged_at"] == 1
    assert learners["target"]["diverged_at"] is None and "test" in learners["target"]


def test_a_target_that_its_last_step_broke_is_marked_as_diverged(small: Make, tmp_path: Path) -> None:
    """One step of 1,000 images: no later step is there to notice."""
    change = {"learners": {"target": RATE}, "training": {"batch_size": 1000}}
    execute(spec_of(small(change), tmp_path), Silent())
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text() + (tmp_path / "result.json").read_text()
    assert read_json(tmp_path / "result.json")["learners"]["target"]["diverged_at"] is not None


def test_the_best_weights_meet_the_test_split_when_asked(small: Make, tmp_path: Path, digits: Images) -> None:
    change = {"training": {"epochs": 3, "batch_size": 128}, "evaluation": {"weights": "best"}}
    execute(spec_of(small(change), tmp_path), Silent())
    learners = read_json(tmp_path / "result.json")["learners"]
    state = load_checkpoint(checkpoints(tmp_path / "checkpoints")[-1])
    assert any(figures["best_tick"] != 30 for figures in learners.values()), "the last weights are the best: no test"
    for name, model in (("source", "resnet18-narrow"), ("target", "mobilenet_v2-narrow")):
        curve = {
            line["tick"]: line["value"]
            for line in lines_of(tmp_path)
            if (line["learner"], line["split"], line["metric"]) == (name, "validation", "top1")
        }
        assert sorted(curve) == [10, 20, 30]
        assert learners[name]["best_tick"] == max(curve, key=lambda tick: (curve[tick], -tick))
        best = find_model(model).build(10).eval()
        best.load_state_dict(state["learners"][name]["best"]["weights"])
        with torch.inference_mode():
            logits = best(digits.normalise(digits.test.images))
            loss = functional.cross_entropy(logits, digits.test.labels)
        assert learners[name]["test"]["loss"] == pytest.approx(float(loss), rel=1e-5)


class Versioned(nn.Sequential):
    """Like torchvision's MNASNet it takes no state without the version that torch notes beside one."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: dict[str, Any], *rest: Any) -> None:
        if metadata.get("version") != 2:
            raise ValueError("a state of no version")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_the_best_weights_of_a_model_that_asks_for_versions_meet_the_test_split(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "versioned", Model(lambda classes: Versioned(SMOOTH.build(classes))))
    change = {
        "learners": {"target": {"model": "versioned"}},
        "transfers": {"main": {"enabled": False, "to": "target.0.2"}},
    }
    execute(spec_of(small({**change, "evaluation": {"weights": "best"}}), tmp_path), Silent())
    assert "test" in read_json(tmp_path / "result.json")["learners"]["target"]


def test_a_spec_travels_as_plain_json(small: Make, tmp_path: Path) -> None:
    spec = RunSpec(small(), 3, {"cifar100": "/data"}, tmp_path, "cpu", 2)
    plain = json.loads(json.dumps(spec.as_plain()))
    assert RunSpec.from_plain(plain).as_plain() == spec.as_plain()


def test_broken_checkpoints_are_set_aside_and_do_not_crowd_out_new_ones(tmp_path: Path) -> None:
    """Of the newest two both are broken: what the run writes next has lower ticks and must stay."""
    for tick in (300, 400):
        save_checkpoint(tmp_path, tick, state_of(tick))
        cut(tmp_path / f"tick-{tick:08d}")
    (tmp_path / ".tick-00000500.999").mkdir()
    assert recover_newest(tmp_path)[0] is None
    save_checkpoint(tmp_path, 100, state_of(100))
    assert recover_newest(tmp_path) == (tmp_path / "tick-00000100", [])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["broken-tick-00000300", "broken-tick-00000400", "tick-00000100"]


@pytest.mark.parametrize(("test", "ticks"), [("end", [10]), ("always", [5, 10])])
def test_a_run_stopped_in_its_final_test_has_each_test_row_once(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test: str, ticks: list[int]
) -> None:
    spec = spec_of(small({"training": {"epochs": 2}, "evaluation": {"test": test}}), tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("mergenet.training.record.Record.finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            execute(spec, Silent())
    execute(spec, Silent())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rows = [(line["tick"], line["learner"], line["metric"]) for line in lines if line["split"] == "test"]
    assert len(rows) == len(set(rows)) == 6 * len(ticks) and {row[0] for row in rows} == set(ticks)


def interrupt(*arguments: Any) -> None:
    raise KeyboardInterrupt


def test_the_last_epoch_is_validated_though_every_does_not_divide_it(small: Make, tmp_path: Path) -> None:
    execute(spec_of(small({"training": {"epochs": 3}, "evaluation": {"every": 2}}), tmp_path), Silent())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["epoch"] for line in lines if line["split"] == "validation"} == {2, 3}


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        Record(tmp_path / "file" / "run")
