"""A run that goes on with another number of workers: the same batches and rates, a defined state, and a mark."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mergenet import randomness
from mergenet.config import InputError, as_yaml, merge, parse
from mergenet.experiment import Experiment
from mergenet.jobs import prepare_resume
from mergenet.models import MODELS, Model
from mergenet.training import loop, ranks
from mergenet.training import run as running
from mergenet.training.checkpoint import checkpoints
from mergenet.training.files import read_json, read_result, world_sizes
from mergenet.training.graph import Graph
from mergenet.training.record import read_manifest
from mergenet.training.reporter import Silent
from mergenet.training.run import execute
from mergenet.training.sizes import among, divides, exactly, sizes_among
from mergenet.training.spec import RunSpec
from tests.compare import assert_runs_equal, final_state, metrics
from tests.conftest import SMALL, Outcome
from tests.ranks import on_ranks
from tests.refused import refusal
from tests.smooth import SMOOTH, build_smooth

# --- runs of several worlds --------------------------------------------------------------------------------------


class Exact(nn.Module):
    """The smooth network in float64, where another order of sums is next to nothing."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.smooth = build_smooth(classes).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.smooth(images.double())


OWN = {"smooth": SMOOTH, "exact": Model(Exact, {"classifier": "smooth.5"}, {})}


def of(model: str, **transfer: Any) -> Experiment:
    """Ten ticks in two epochs, a checkpoint at every third, transfers at 2, 4, 6 and 8."""
    adapted = {"to": "target.2", "optimizer": {"adamw": {"lr": 1e-2}}, **transfer}
    change: dict[str, Any] = {
        "name": model,
        "learners": {"source": {"model": model}, "target": {"model": model, "copy": 1}},
        "transfers": {"main": adapted},
        "training": {"epochs": 2},
        "checkpoint": {"every": 3},
    }
    if model == "real":  # with BatchNorm, and dropout in the model and the adapter
        change["learners"] = {}
        change["transfers"] = {"main": {"adapter": {"lpka": {"form": "paper", "dropout": 0.3}}}}
    return parse(Experiment, merge(Experiment, SMALL, change))


RUNS = {"smooth": of("smooth"), "exact": of("exact", to="target.smooth.2", enabled=False), "real": of("real")}


def train(plans: list[tuple[str, Path, int | None]]) -> list[list[dict[str, Any]]]:
    """Trains each of RUNS by its name, in its folder, until before a tick; what each tick was given, on this rank."""
    MODELS.update(OWN)
    seen: list[list[dict[str, Any]]] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, folder, until in plans:
            told: list[dict[str, Any]] = []
            patch.setattr(running, "advance", watched(told, until))
            try:
                execute(RunSpec(RUNS[name], 0, {}, folder), Silent())
            except KeyboardInterrupt:
                assert until is not None
            seen.append(told)
    return seen


def watched(told: list[dict[str, Any]], until: int | None) -> Callable[[Graph], None]:
    def advance(graph: Graph) -> None:
        if graph.done == until:
            raise KeyboardInterrupt  # on every rank, so that a group outlives it
        target = graph.learners["target"]
        batch = target.stream.batch(target.done)
        now = {"tick": graph.done, "images": batch.images.clone(), "labels": batch.labels.clone()}
        now["buffers"] = {name: buffer.clone() for name, buffer in target.model.named_buffers()}
        loop.advance(graph)
        told.append({**now, "seed": torch.initial_seed(), "rate": target.optimizer.param_groups[0]["lr"]})

    return advance


STOP, LAST = 4, 3  # the tick before which runs are stopped, and their last checkpoint then


class Worlds:
    """Each of RUNS undisturbed by one worker; begun by two and taken up by one, and by four; begun by one, then two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = list(RUNS)
        self.whole = train([(name, self / "whole" / name, None) for name in names])
        train([(name, self / "one" / name, STOP) for name in names])
        stopped = [(name, self / "stopped" / name, STOP) for name in names]
        grown = [(name, self / "one" / name, None) for name in names]
        both = on_ranks(2, train, self / "2", [*stopped, *grown])
        self.of_two, self.grown = [rank[: len(names)] for rank in both], [rank[len(names) :] for rank in both]
        for world in ("to one", "to four", "stopped again"):
            shutil.copytree(self / "stopped", self / world)
        self.of_one = train([(name, self / "to one" / name, None) for name in names])
        four = [(name, self / "to four" / name, None) for name in names]
        again = [("real", self / "stopped again" / "real", until) for until in (8, None)]
        self.of_four = on_ranks(4, train, self / "4", [*four, *again])

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    before = dict(MODELS)
    torch.set_num_threads(1)
    yield Worlds(tmp_path_factory.mktemp("worlds"))
    MODELS.clear()
    MODELS.update(before)


CHANGED = {"to one": [2, 1], "to four": [2, 4], "one": [1, 2]}


def weights_of(folder: Path) -> dict[str, Tensor]:
    state = final_state(folder)
    return {
        f"{name}.{key}": value
        for name, learner in state["learners"].items()
        for key, value in learner["model"].items()
        if isinstance(value, Tensor)
    } | {f"main.{key}": value for key, value in state["transfers"].get("main", {}).get("adapter", {}).items()}


@pytest.mark.parametrize("changed", CHANGED)
@pytest.mark.parametrize(("name", "near"), [("smooth", (1e-3, 1e-5)), ("exact", (1e-10, 1e-12))])
def test_where_samples_do_not_meet_it_ends_as_one_whose_workers_never_changed(
    worlds: Worlds, changed: str, name: str, near: tuple[float, float]
) -> None:
    """To rounding, which is of another order of sums: tightly in float64."""
    whole, other = worlds / "whole" / name, worlds / changed / name
    for key, value in weights_of(whole).items():
        torch.testing.assert_close(weights_of(other)[key], value, rtol=near[0], atol=near[1], msg=key)
    ours, theirs = final_state(other), final_state(whole)
    for learner, state in ours["learners"].items():
        assert state["done"] == theirs["learners"][learner]["done"] == 10
        groups = (one["learners"][learner]["optimizer"]["param_groups"] for one in (ours, theirs))
        assert next(groups) == next(groups), "the rate is of the batch as it was"


@pytest.mark.parametrize("changed", CHANGED)
def test_figures_of_an_epoch_in_which_the_workers_changed_are_those_of_all_its_ticks(
    worlds: Worlds, changed: str
) -> None:
    """A mean that weighed ticks by the workers that were there would be another."""
    ours, theirs = (
        {(line["learner"], line["tick"], line["split"], line["metric"]): line["value"] for line in metrics(folder)}
        for folder in (worlds / changed / "smooth", worlds / "whole" / "smooth")
    )
    written = [value for key, value in theirs.items() if key[3] == "main.written"]
    assert len(written) == 2 and abs(written[0] - written[1]) > 0.01 * written[0]
    train = [key for key in theirs if key[2] == "train"]
    assert ours.keys() == theirs.keys() and len(train) == 8
    assert {key: ours[key] for key in train} == pytest.approx({key: theirs[key] for key in train}, rel=1e-3)


def test_every_step_has_the_same_samples_and_rate_whoever_takes_it(worlds: Worlds) -> None:
    for place, _ in enumerate(RUNS):
        whole = {now["tick"]: now for now in worlds.whole[place]}
        stopped = [rank[place] for rank in worlds.of_two]
        for all_ranks, ticks in (
            (stopped, range(STOP)),
            ([worlds.of_one[place]], range(LAST, 10)),
            ([rank[place] for rank in worlds.of_four], range(LAST, 10)),
            ([rank[place] for rank in worlds.grown], range(LAST, 10)),
        ):
            assert [now["tick"] for now in all_ranks[0]] == list(ticks)
            for together in zip(*all_ranks, strict=True):
                now = whole[together[0]["tick"]]
                for what in ("images", "labels"):
                    assert torch.equal(torch.cat([each[what] for each in together]), now[what])
                assert {each["rate"] for each in together} == {now["rate"]}


def test_random_numbers_of_a_forward_are_keyed_by_the_rank_there_is_and_not_by_what_was(worlds: Worlds) -> None:
    """As many streams as ranks, none of them a number that is drawn on from, so growing and shrinking need nothing."""
    place, target = list(RUNS).index("real"), RUNS["real"].learners["target"]
    for all_ranks in (worlds.of_two, [worlds.of_one], worlds.of_four, worlds.grown):
        for rank, told in enumerate(all_ranks):
            for now in told[place]:
                key = ("forward", 0, target.model, target.copy_number, now["tick"], 0, rank)
                assert now["seed"] == randomness.key(*key)


def test_all_ranks_go_on_from_the_running_statistics_that_were_kept(worlds: Worlds) -> None:
    """Those of the first rank, which evaluation and exports have always had."""
    place = list(RUNS).index("real")
    kept = torch.load(checkpoints(worlds / "stopped" / "real" / "checkpoints")[-1] / "state.pt", weights_only=True)
    kept = kept["learners"]["target"]["model"]
    assert [path.name for path in checkpoints(worlds / "stopped" / "real" / "checkpoints")] == [f"tick-{LAST:08d}"]
    for told in ([worlds.of_one], worlds.of_four):
        for rank in told:
            assert rank[place][0]["tick"] == LAST
            assert len(rank[place][0]["buffers"]) > 10
            for name, buffer in rank[place][0]["buffers"].items():
                assert torch.equal(buffer, kept[name]), name


def test_with_its_new_workers_it_stops_and_resumes_bit_for_bit_as_ever(worlds: Worlds) -> None:
    assert_runs_equal(worlds / "to four" / "real", worlds / "stopped again" / "real")


@pytest.mark.parametrize("changed", CHANGED)
def test_the_record_says_by_how_many_workers_it_was_trained(worlds: Worlds, changed: str) -> None:
    for name in RUNS:
        folder = worlds / changed / name
        manifest, result = read_manifest(folder), read_json(folder / "result.json")
        assert manifest["world_size"] == CHANGED[changed][0]
        assert manifest["resumed"] == [{"tick": LAST, "world_size": CHANGED[changed][1], "changed": {}}]
        assert world_sizes(manifest) == result["world_sizes"] == CHANGED[changed]
    assert read_json(worlds / "whole" / "real" / "result.json")["world_sizes"] == [1]
    assert read_json(worlds / "stopped again" / "real" / "result.json")["world_sizes"] == [2, 4]


# --- what counts as a change -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("began", "resumed", "sizes"),
    [
        (2, [], [2]),
        (2, [(3, 2), (6, 2)], [2]),
        (2, [(3, 1)], [2, 1]),
        (2, [(3, 1), (6, 1), (9, 4), (12, 1)], [2, 1, 4, 1]),
        (2, [(0, 1)], [1]),  # nothing was kept of what two had done
        (2, [(3, 1), (3, 2)], [2]),  # one began, and came to no checkpoint
        (2, [(3, 1), (3, 4)], [2, 4]),
        (2, [(6, 1), (3, 2)], [2]),  # a broken checkpoint: the one before it is taken up
        (2, [(3, None)], [2]),  # a record from before the number could change
    ],
)
def test_ticks_are_of_who_trained_them_last(began: int, resumed: list[Any], sizes: list[int]) -> None:
    entries = [{"tick": tick, "changed": {}} | ({"world_size": size} if size else {}) for tick, size in resumed]
    assert world_sizes({"world_size": began, "resumed": entries}) == sizes


def test_a_run_that_begins_anew_with_other_workers_is_theirs_alone(
    small: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had come to no checkpoint: what others had done of it is gone."""
    told: list[str] = []

    class Listening(Silent):
        def say(self, text: str) -> None:
            told.append(text)

    spec = RunSpec(small(), 0, {}, tmp_path / "run")
    monkeypatch.setattr(running, "advance", watched([], 2))
    with pytest.raises(KeyboardInterrupt):
        execute(spec, Silent())
    manifest = spec.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"world_size": 1', '"world_size": 2'))
    monkeypatch.setattr(running, "advance", loop.advance)
    execute(spec, Listening())
    assert read_json(manifest)["resumed"] == [{"tick": 0, "world_size": 1, "changed": {}}]
    assert read_json(spec.folder / "result.json")["world_sizes"] == [1]
    assert not any("workers" in line for line in told)


def test_replicas_are_guarded_from_where_these_ranks_began(
    small: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks that are new have read the checkpoint from a folder of their own node, maybe."""
    looked: list[int] = []
    spec = RunSpec(small({"training": {"epochs": 4}, "checkpoint": {"every": 8}}), 0, {}, tmp_path / "run")
    monkeypatch.setattr(running, "advance", watched([], 9))
    with pytest.raises(KeyboardInterrupt):
        execute(spec, Silent())
    monkeypatch.setattr(running, "advance", loop.advance)
    monkeypatch.setattr(ranks, "check_replicas", lambda weights: looked.append(len(weights)))
    execute(spec, Silent())
    assert len(looked) == 10 + 2, "after each of ten ticks, and at two checkpoints"


# --- which numbers there may be ----------------------------------------------------------------------------------


def test_only_numbers_that_divide_every_batch_are_among_those_of_a_range(small: Callable[..., Experiment]) -> None:
    experiment = small({"training": {"batch_size": 96}, "learners": {"source": {"training": {"batch_size": 64}}}})
    assert [size for size in range(1, 20) if divides(experiment, size)] == [1, 2, 4, 8, 16]
    assert sizes_among(experiment, range(1, 7), "--workers 1-6") == (1, 2, 4)
    assert sizes_among(experiment, exactly(8), "x") == (8,)
    in_parts = small({"training": {"batch_size": 96, "accumulation": 8}})
    assert sizes_among(in_parts, range(2, 9), "x") == (2, 3, 4, 6), "of 8 none: 96 samples are no 64 parts"
    assert (among([2]), among([1, 2]), among([1, 2, 4])) == ("2", "1 or 2", "1, 2 or 4")


@pytest.mark.parametrize(
    ("workers", "text"),
    [
        (exactly(3), "x: batches (source 256, target 256) divide not by 3 workers; by 1, 2 or 4 they do"),
        (
            range(3, 6),
            "x: batches (source 256, target 256) divide only by 4 of 3 to 5 workers; by 1, 2, 4 or 8 they do",
        ),
        (range(5, 8), "x: batches (source 256, target 256) divide not by 5, 6 or 7 workers; by 1, 2, 4 or 8 they do"),
    ],
)
def test_numbers_that_do_not_divide_are_refused_with_those_that_do(
    small: Callable[..., Experiment], workers: range, text: str
) -> None:
    assert refusal(lambda: sizes_among(small(), workers, "x")) == text


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(worlds: Worlds, tmp_path: Path) -> Path:
    """A run that two workers began."""
    return shutil.copytree(worlds / "stopped" / "real", tmp_path / "runs" / "real" / "stopped")


def test_the_command_goes_on_with_fewer_and_its_last_words_say_so(call: Callable[..., Outcome], stopped: Path) -> None:
    code, out, err = call("train", "--resume", str(stopped), "--workers", "1")
    assert code == 0, err
    assert "trained by 2 then 1 workers now: its record says so, and tables mark it" in err
    assert "Trained by 2 then 1 workers, so unlike any run of a fixed number: tables and sweeps mark it." in out
    assert read_json(stopped / "result.json")["world_sizes"] == [2, 1]
    code, out, _ = call("train", "--resume", str(stopped), "--workers", "1")
    assert code == 0 and "Trained by 2 then 1 workers" in out, "and says so when it is shown again"


def test_without_a_number_it_goes_on_with_as_many_as_it_had_last(
    worlds: Worlds, stopped: Path, small: Callable[..., Experiment]
) -> None:
    assert prepare_resume(stopped, {}, "cpu", None, False).sizes == (2,)
    assert prepare_resume(worlds / "to four" / "real", {}, "cpu", None, False).sizes == (4,)
    assert prepare_resume(stopped, {}, "cpu", range(1, 5), False).sizes == (1, 2, 4)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--workers", "3"],
            r"--resume \S+: batches \(source 256, target 256\) divide not by 3 workers; by 1, 2 or 4 they do",
        ),
        (
            ["--workers", "5-7"],
            r"--resume \S+: batches \(.*\) divide not by 5, 6 or 7 workers; by 1, 2, 4 or 8 they do",
        ),
        (["--workers", "4-2"], r"Invalid value for '--workers': '4-2': write a number from 1 on, or MIN-MAX, as 2-4"),
        (["--workers", "0"], r"Invalid value for '--workers': '0': write a number from 1 on, or MIN-MAX, as 2-4"),
        (["--workers", "2-"], r"Invalid value for '--workers': '2-': write a number from 1 on, or MIN-MAX, as 2-4"),
        (["--workers", "two"], r"Invalid value for '--workers': 'two': write a number from 1 on, or MIN-MAX, as 2-4"),
    ],
)
def test_a_number_that_cannot_be_is_refused_in_a_line(
    call: Callable[..., Outcome], stopped: Path, words: list[str], line: str
) -> None:
    before = (stopped / "manifest.json").read_bytes()
    code, out, err = call("train", "--resume", str(stopped), *words)
    assert (code, out) == (2, "") and re.fullmatch(rf"mergenet: {line}\n", err), err
    assert (stopped / "manifest.json").read_bytes() == before
    assert (read_result(stopped) or {})["status"] == "interrupted"


def test_ranks_that_torchrun_started_are_as_many_as_it_goes_on_with(
    call: Callable[..., Outcome], stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(ranks, "world", lambda: 3)
    monkeypatch.setattr(ranks.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(ranks.dist, "get_rank", lambda: 0)
    code, _, err = call("train", "--resume", str(stopped))
    assert code == 2 and "divide not by 3 workers; by 1, 2 or 4 they do" in err
    code, _, err = call("train", "--resume", str(stopped), "--workers", "1-2")
    assert (code, err) == (2, "mergenet: --workers 1-2: torchrun has started 3 processes; leave it out\n")


def test_a_new_run_may_have_a_range_and_says_which_numbers_of_it(call: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(as_yaml(merge(Experiment, SMALL, {})))
    code, out, err = call("train", "small.yaml", "--workers", "1-5", "--dry-run")
    assert (code, err) == (0, "") and "5 ticks on 1, 2 or 4 x cpu" in out
    code, out, err = call("train", "small.yaml", "--workers", "5-7", "--dry-run")
    assert (code, out) == (2, "")
    assert err.startswith("mergenet: --workers 5-7: batches (source 256, target 256) divide not by 5, 6 or 7 workers;")


def test_a_range_is_refused_where_one_of_its_numbers_leaves_too_little_of_a_batch(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    """BatchNorm of one sample: as a run on so many is refused."""
    tiny = {"task": {"classification": {"size": 4}}}
    change = {"training": {"batch_size": 4}, "learners": {"source": tiny, "target": tiny}}
    (tmp_path / "small.yaml").write_text(as_yaml(merge(Experiment, SMALL, change)))
    code, _, err = call("train", "small.yaml", "--workers", "1-2", "--dry-run")
    assert (code, err) == (0, "")
    code, _, err = call("train", "small.yaml", "--workers", "2-4", "--dry-run")
    assert code == 2 and "does not take 1 images" in err


def test_a_finished_run_is_shown_to_who_asks_for_a_range_it_began_in(
    call: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text(as_yaml(merge(Experiment, SMALL, {})))
    assert call("train", "small.yaml")[0] == 0
    code, _, err = call("train", "small.yaml", "--workers", "1-2")
    assert code == 0 and "This run finished before" in err
    code, _, err = call("train", "small.yaml", "--workers", "2-4")
    assert code == 2
    assert "holds this run finished with --workers 1, and this asks for 2 or 4: add --workers 1 to see it" in err


def test_trials_of_a_sweep_keep_one_number(call: Callable[..., Outcome]) -> None:
    code, out, err = call("sweep", "digits-pairing", "--workers-per-trial", "1-2", "--dry-run")
    assert (code, out) == (2, "")
    assert err == (
        "mergenet: Invalid value for '--workers-per-trial': '1-2': trials that are to be compared have one number of "
        "workers; say how many\n"
    )


def test_from_python_the_numbers_are_the_same(stopped: Path, small: Callable[..., Experiment], tmp_path: Path) -> None:
    from mergenet import resume, run

    assert "workers=(2, 1)" in refusal(lambda: run(small(), runs=tmp_path, workers=(2, 1)))
    assert "divide not by 3 workers" in refusal(lambda: resume(stopped, workers=3, quiet=True))
    with pytest.raises(InputError, match=r"workers=0: a number from 1 on, or \(MIN, MAX\)"):
        run(small(), runs=tmp_path, workers=0)
    assert resume(stopped, workers=1, quiet=True).manifest["resumed"][0]["world_size"] == 1
