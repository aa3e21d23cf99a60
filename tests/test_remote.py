"""Records in an object store: a run there ends as one here does, and what was brought there is never lost or mixed."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from cluster import launch, storage
from mergenet import read_run, resume
from mergenet.config import InputError
from mergenet.experiment import Experiment
from mergenet.training import ranks, remote
from mergenet.training.copies import bring, fetch, fetch_all, record_here, result_of, runs_here
from mergenet.training.files import copied_from, shown
from mergenet.training.place import OWNER, WRITER, Copy, Mark, TakenOver, at_hand, hand_on
from mergenet.training.remote import Away, Remote
from mergenet.training.reporter import Silent
from mergenet.training.run import execute, record_end
from mergenet.training.spec import RunSpec
from tests.compare import assert_runs_equal
from tests.conftest import SMALL, Outcome
from tests.ranks import on_ranks
from tests.refused import refusal
from tests.store import BUCKET, Store, environment
from tests.sweeps import planned
from tests.tables import plan
from tests.test_resume import StopAt
from tests.test_sweep import Noting
from tune.ablate import Places, find_missing, ready
from tune.search.begin import open_ledger
from tune.search.ledger import Ledger, Trial, asked, read_log, refused
from tune.search.memory import Memory
from tune.search.searcher import Search
from tune.search.trial import AWAY, REASON, STATE
from tune.search.watch import Patience, Watch

MakeExperiment = Callable[..., Experiment]
OFTEN: dict[str, Any] = {"training": {"epochs": 2}, "checkpoint": {"every": 2}}


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.stop()


@pytest.fixture(autouse=True)
def found(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How this process finds the store, and where its copies and its working folders lie."""
    for name, value in environment(store.host, store.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "aside").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "aside"))


@pytest.fixture
def uri(request: pytest.FixtureRequest) -> str:
    """A folder of runs in the store, for one test."""
    return f"s3://{BUCKET}/{re.sub('[^a-z0-9]+', '-', request.node.name)}/runs"


def spec_of(experiment: Experiment, uri: str) -> RunSpec:
    """A run whose record is kept at `uri`."""
    folder = runs_here(uri) / experiment.name / "0123abcd-s0"
    return RunSpec(experiment, 0, {}, folder, remote=copied_from(folder))


def fetched(spec: RunSpec) -> Path:
    """The record's copy, with all that there is of it."""
    fetch(spec.folder, states=True)
    return spec.folder


# --- files in a store --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_files_go_there_and_come_back(uri: str, tmp_path: Path, kind: str) -> None:
    there = Remote(uri if kind == "s3" else (tmp_path / "there").as_uri())
    assert there.files() == {} and there.read("a/b") is None and not there.get("a/b", tmp_path / "b")
    there.write("a/b", b"one")
    (tmp_path / "c").write_bytes(b"three")
    there.at("a").put("c", tmp_path / "c")
    assert {name: info.size for name, info in there.files().items()} == {"a/b": 3, "a/c": 5}
    assert there.get("a/c", tmp_path / "new" / "copy") and (tmp_path / "new" / "copy").read_bytes() == b"three"
    assert there.at("a").above() == there and there.read("a/b") == b"one"
    there.remove("a/b")
    there.remove("a/b")
    assert set(there.files()) == {"a/c"} and not (tmp_path / "b").exists()
    there.remove("a")
    assert there.files() == {}


def test_preflight_writes_reads_and_removes_there(uri: str) -> None:
    assert storage.write(uri, "probe", "content") == []
    assert storage.is_seen(uri, "probe", "content", 0.0) and not storage.is_seen(uri, "probe", "other", 0.3)
    assert not storage.is_seen(uri, "none", "content", 0.0)
    storage.remove(uri, "probe")
    storage.remove(uri, "probe")
    assert Remote(uri).files() == {}


def test_options_of_a_uri_hold_for_what_lies_below() -> None:
    there = Remote("s3://lab/runs/?region=eu-west-1")
    assert there.at("a/b").uri == "s3://lab/runs/a/b?region=eu-west-1"
    assert there.at("a").above().uri == "s3://lab/runs?region=eu-west-1"


def test_a_store_that_is_away_is_asked_again(uri: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 1.0)
    Remote(uri).write("a", b"one")
    with store.away(), pytest.raises(Away) as caught:
        remote.patiently(lambda: Remote(uri).read("a"))
    assert len(str(caught.value).splitlines()) == 1
    assert Remote(uri).read("a") == b"one"


def test_a_store_is_asked_until_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", slept.append)
    monkeypatch.setattr(remote.time, "monotonic", lambda: sum(slept))
    answers = iter([Away("once"), Away("twice"), "here"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, Away):
            raise answer
        return answer

    def away() -> None:
        raise Away("always")

    assert remote.patiently(ask) == "here" and slept == [0.5, 1.0]
    with pytest.raises(Away, match="always"):
        remote.patiently(away)
    assert 0.8 * remote.PATIENCE_S < sum(slept) <= remote.PATIENCE_S


# --- copies ------------------------------------------------------------------------------------------------------


def record_at(uri: str) -> Remote:
    """A record in the store as far as copies care: two checkpoints, of which one has not been pushed to its end."""
    record = Remote(uri).at("small/0123abcd-s0")
    names = ["manifest.json", "metrics.jsonl", ".writer", "checkpoints/tick-1/state.pt", "checkpoints/tick-1/sha256"]
    for name in [*names, "checkpoints/tick-2/state.pt"]:
        record.write(name, name.encode())
    return record


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_copy_has_the_states_of_whole_checkpoints_once_they_are_asked_for(uri: str) -> None:
    record_at(uri)
    folder = record_here(f"{uri}/small/0123abcd-s0")
    small = {"manifest.json", "metrics.jsonl", "checkpoints/tick-1/sha256"}
    assert files(folder) == small
    fetch(folder, states=True)
    assert files(folder) == small | {"checkpoints/tick-1/state.pt"}
    assert shown(folder) == f"{uri}/small/0123abcd-s0" and shown(folder / "a") == f"{uri}/small/0123abcd-s0/a"


def test_a_copy_follows_and_keeps_what_is_made_of_it_here(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record, folder = record_at(uri), runs_here(uri) / "small" / "0123abcd-s0"
    fetch(folder, states=True)
    for name in (".mlflow.lock", "export/target/model.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("made here")
    got: list[str] = []
    get = Remote.get
    monkeypatch.setattr(Remote, "get", lambda self, name, path: got.append(name) or get(self, name, path))
    fetch(folder, states=True)
    assert got == [], "what is the same is not fetched again"
    record.write("metrics.jsonl", b"longer than it was before")
    for name in ("checkpoints/tick-1/state.pt", "checkpoints/tick-1/sha256"):
        record.remove(name)
    fetch(folder)
    assert got == ["metrics.jsonl"]
    assert files(folder) == {"manifest.json", "metrics.jsonl", ".mlflow.lock", "export/target/model.safetensors"}
    assert not (folder / "checkpoints" / "tick-1").exists()


def test_all_records_of_a_store_are_copied_and_those_that_went_go(uri: str) -> None:
    record = record_at(uri)
    Remote(uri).at("tiny/sweep-89abcdef").write("sweep.json", b"{}")
    runs = fetch_all(runs_here(uri))
    assert {path.relative_to(runs).as_posix() for path in runs.glob("*/*/*.json")} == {
        "small/0123abcd-s0/manifest.json",
        "tiny/sweep-89abcdef/sweep.json",
    }
    for name in record.files():
        record.remove(name)
    fetch_all(runs)
    assert [path.name for path in runs.glob("*/*/*.json")] == ["sweep.json"]


def test_a_folder_that_is_no_copy_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "manifest.json").write_text("{}")
    fetch(tmp_path / "a" / "b", states=True)
    assert fetch_all(tmp_path) == runs_here(tmp_path) == tmp_path and record_here(tmp_path / "a") == tmp_path / "a"
    assert copied_from(tmp_path / "a" / "b") is None and files(tmp_path) == {"a/b/manifest.json"}


RUNS = "write a folder, or s3://BUCKET/FOLDER"
RECORD = "write a folder, or s3://BUCKET/FOLDER/NAME/HASH-sSEED"
NOWHERE = "cannot be read: there is no bucket 'nowhere'"
KEY = "leave its key out, and set AWS_ACCESS_KEY_ID"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "digits-cross-structure", "--runs", "ftp://lab/runs"], RUNS),
        (["train", "digits-cross-structure", "--runs", "file:///lab/runs"], RUNS),
        (["train", "digits-cross-structure", "--runs", "s3://lab/"], RUNS),
        (["train", "digits-cross-structure", "--runs", "s3:///runs"], RUNS),
        (["train", "digits-cross-structure", "--runs", "s3:/lab/runs"], RUNS),
        (["export", "s3:/lab/runs/small/0123abcd-s0"], RECORD),
        (["train", "digits-cross-structure", "--runs", "s3://[lab/runs"], "no URI; write s3://BUCKET/FOLDER"),
        (["train", "digits-cross-structure", "--runs", "s3://id:secret@lab/runs"], KEY),
        (["train", "digits-cross-structure", "--runs", "s3://id:sec/ret@lab/runs"], KEY),
        (
            ["train", "digits-cross-structure", "--runs", "s3://nowhere/runs"],
            "cannot be read: there is no bucket 'nowhere'",
        ),
        (["report", "table8", "--runs", "s3://nowhere/runs"], NOWHERE),
        (["sweep", "digits-pairing", "--runs", "s3://nowhere/runs"], NOWHERE),
        (["ui", "--runs", "s3://lab/none"], "s3://lab/none holds no mlflow.db yet"),
        (["train", "--resume", "s3://lab"], RECORD),
        (["export", "s3://lab/runs/small"], RECORD),
        (["sync", "s3://lab/runs/small/0123abcd-s0"], "s3://lab/runs/small/0123abcd-s0/experiment.json: no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_uri_that_will_not_do_is_refused(call: Callable[..., Outcome], words: list[str], said: str) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "") and said in err and len(err.splitlines()) == 1
    assert "sec" not in err and not list(Path(tempfile.gettempdir()).iterdir())
    assert not Path("s3:").exists()


def test_a_store_that_is_away_at_the_start_is_said_at_once(
    call: Callable[..., Outcome], uri: str, store: Store
) -> None:
    with store.away():
        code, out, err = call("train", "digits-cross-structure", "--runs", uri)
    assert (code, out) == (2, "") and f"{uri}/digits-cross-structure" in err and "cannot be read" in err


# --- a run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in a folder."""
    from mergenet.config import merge, parse

    folder = tmp_path_factory.mktemp("undisturbed") / "0123abcd-s0"
    execute(RunSpec(parse(Experiment, merge(Experiment, SMALL, OFTEN)), 0, {}, folder), Silent())
    return folder


def test_a_run_is_recorded_there_as_it_would_be_here(small: MakeExperiment, uri: str, undisturbed: Path) -> None:
    spec = spec_of(small(OFTEN), uri)
    execute(spec, Silent())
    assert not spec.folder.exists(), "nothing of it lies here before it is fetched"
    assert_runs_equal(fetched(spec), undisturbed)
    kept = {path for path in files(undisturbed) if not path.startswith(".")}
    assert set(Remote(uri).at("small/0123abcd-s0").files()) == kept | {".writer"}
    run = read_run(f"{uri}/small/0123abcd-s0")
    assert run.result == result_of(spec.folder, spec.remote) and run.model() is not None


class Looks(Silent):
    """Notes what is in the store whenever the run tells of a validation or a tick."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self.figures: list[int] = []
        self.checkpoints: dict[int, set[str]] = {}

    def validated(self, epoch: int, measured: Mapping[str, Mapping[str, float]]) -> None:
        content = self._remote.read("metrics.jsonl") or b""
        self.figures.append(max(json.loads(line)["tick"] for line in content.splitlines()))

    def tick(self, done: int) -> None:
        self.checkpoints[done] = {name.split("/")[1] for name in self._remote.files() if name.endswith("sha256")}


def test_a_figure_and_a_checkpoint_are_there_before_the_run_goes_on(small: MakeExperiment, uri: str) -> None:
    spec = spec_of(small(OFTEN), uri)
    seen = Looks(Remote(str(spec.remote)))
    execute(spec, seen)
    assert seen.figures == [5, 10]
    for tick, names in seen.checkpoints.items():
        expected = [even for even in range(2, tick + 1, 2)][-2:]
        assert names == {f"tick-{even:08d}" for even in expected}


@pytest.mark.parametrize("stop", [1, 5])
def test_a_run_that_stopped_goes_on_from_there(
    small: MakeExperiment, uri: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """On a machine that knows nothing of it; before the first checkpoint and after the second of five."""
    spec = spec_of(small(OFTEN), uri)
    with pytest.raises(KeyboardInterrupt):
        execute(spec, StopAt(stop))
    interrupted = result_of(spec.folder, spec.remote)
    assert interrupted is not None and interrupted["status"] == "interrupted"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    run = resume(f"{uri}/small/0123abcd-s0", quiet=True)
    assert [entry["tick"] for entry in run.manifest["resumed"]] == [stop - stop % 2]
    fetch(run.folder, states=True)
    assert_runs_equal(run.folder, undisturbed)
    assert not list((tmp_path / "aside").iterdir()), "working folders go with their runs"


class PutsDown(Silent):
    """Takes the store away after a tick and brings it back after another; hears what is said."""

    def __init__(self, store: Store, after: int, until: int | None) -> None:
        self.said: list[str] = []
        self._away, self._after, self._until = store.away(), after, until

    def tick(self, done: int) -> None:
        if done == self._after:
            self._away.__enter__()
        if done == self._until:
            self.back()

    def back(self) -> None:
        self._away.__exit__(None, None, None)

    def say(self, text: str) -> None:
        self.said.append(text)


def test_a_store_that_is_away_for_a_while_holds_up_no_run(
    small: MakeExperiment, uri: str, undisturbed: Path, store: Store
) -> None:
    spec, heard = spec_of(small(OFTEN), uri), PutsDown(store, after=3, until=7)
    execute(spec, heard)
    assert [text for text in heard.said if "is away" in text] == [
        text for text in heard.said if text.startswith(f"{spec.remote} is away (") and "brought there later" in text
    ]
    assert sum("is away" in text for text in heard.said) == 1
    assert_runs_equal(fetched(spec), undisturbed)


def test_a_run_whose_store_stays_away_says_where_its_record_lies(
    small: MakeExperiment, uri: str, undisturbed: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 1.0)
    spec, heard = spec_of(small(OFTEN), uri), PutsDown(store, after=9, until=None)
    with pytest.raises(Away) as caught:
        execute(spec, heard)
    heard.back()
    place = re.search("the record is whole in (.*)", str(caught.value))
    assert place is not None
    assert_runs_equal(Path(place[1]), undisturbed)


def test_two_ranks_resume_with_the_checkpoint_of_the_first(
    small: MakeExperiment, tmp_path: Path, undisturbed: Path
) -> None:
    """Each has a folder of its own; only the first reads the record."""
    there = (tmp_path / "there").as_uri()
    spec = RunSpec(small(OFTEN), 0, {}, tmp_path / "run", remote=there)
    with pytest.raises(Exception, match="KeyboardInterrupt"):
        on_ranks(2, execute, tmp_path / "first", spec, StopAt(5))
    on_ranks(2, execute, tmp_path / "second", spec, Silent())
    whole = RunSpec(small(OFTEN), 0, {}, tmp_path / "whole")
    on_ranks(2, execute, tmp_path / "third", whole, Silent())
    bring(Remote(there), tmp_path / "copy", states=True)
    assert_runs_equal(tmp_path / "copy", whole.folder)


# --- of two that write ---------------------------------------------------------------------------------------------


def test_the_later_of_two_writers_has_the_record(uri: str) -> None:
    """The first brings nothing any more, and is told so at its end if it was not before."""
    there = Remote(uri).at("small/0123abcd-s0")
    with pytest.raises(TakenOver, match="another process writes it now"):
        overtaken(there)
    assert there.read("metrics.jsonl") == b"the first\nthe second\n" and there.read("result.json") is None
    assert not list(Path(tempfile.gettempdir()).iterdir())


def overtaken(there: Remote) -> None:
    folder = Path("small/0123abcd-s0")
    with at_hand(folder, there.uri, "one", print) as first:
        first.take_over()
        (first.folder / "metrics.jsonl").write_text("the first\n")
        first.push()
        with at_hand(folder, there.uri, "two", print) as second:
            second.take_over()
            assert (second.folder / "metrics.jsonl").read_text() == "the first\n"
            (second.folder / "metrics.jsonl").write_text("the first\nthe second\n")
        (first.folder / "result.json").write_text("{}")


def test_a_writer_looks_before_every_file(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Copy(tmp_path / "run", Remote(uri).at("small/0123abcd-s0"), "one")
    place.take_over()
    for name in ("manifest.json", "metrics.jsonl"):
        (place.folder / name).write_text("new")
    real = Remote.put

    def robbed_after(self: Remote, name: str, path: Path) -> None:
        real(self, name, path)
        if name != WRITER:
            Mark(place.remote, "two").leave()

    monkeypatch.setattr(Remote, "put", robbed_after)
    with pytest.raises(TakenOver):
        place.push()
    assert set(place.remote.files()) == {"manifest.json", WRITER}


class Robbed(Silent):
    """Another command takes the record after three ticks."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def tick(self, done: int) -> None:
        if done == 3:
            Mark(self._remote, "another").leave()


def test_all_ranks_of_a_run_that_was_taken_over_end(small: MakeExperiment, tmp_path: Path) -> None:
    """Each with the line, within seconds: none waits for the first, and none is started again for it."""
    there = Remote((tmp_path / "there").as_uri())
    spec = RunSpec(small(OFTEN), 0, {}, tmp_path / "run", remote=there.uri)
    assert (
        on_ranks(2, refused_on_rank, tmp_path / "ranks", spec, Robbed(there))
        == [f"{there.uri}: another process writes it now"] * 2
    )
    assert there.read("result.json") is None


def refused_on_rank(spec: RunSpec, reporter: Robbed) -> str:
    return refusal(lambda: execute(spec, reporter))


def agree_on_away() -> str:
    try:
        with ranks.agreeing():
            if ranks.rank() == 0:
                raise Away("it does not answer")
    except Away as away:
        return str(away)
    return "nothing was said"


def test_a_store_that_is_away_for_one_rank_is_so_for_all(tmp_path: Path) -> None:
    assert on_ranks(2, agree_on_away, tmp_path) == ["it does not answer"] * 2


def test_what_a_worker_could_not_bring_comes_back_to_the_driver() -> None:
    with pytest.raises(Away, match="the record is whole in"):
        launch._raise_refused({"away": "the record is whole in /tmp/a"})
    with pytest.raises(InputError, match="another process"):
        launch._raise_refused({"refused": "another process writes it now"})
    launch._raise_refused({})


def test_a_folder_that_may_not_be_looked_into_is_no_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuses(self: Path, **_: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuses)
    assert copied_from(tmp_path) is None


def test_how_a_run_ended_is_not_said_for_another_command(small: MakeExperiment, uri: str) -> None:
    spec = spec_of(small(OFTEN), uri)
    Mark(Remote(str(spec.remote)), "another").leave()
    record_end(spec, {"status": "interrupted", "reason": "by a test"})
    assert result_of(spec.folder, spec.remote) is None
    Mark(Remote(str(spec.remote)), OWNER).leave()
    record_end(spec, {"status": "interrupted", "reason": "by a test"})
    assert result_of(spec.folder, spec.remote) == {"status": "interrupted", "reason": "by a test"}


def test_how_a_trial_ended_is_said_by_whoever_drives_its_sweep(small: MakeExperiment, uri: str) -> None:
    spec = spec_of(small(OFTEN), uri)
    Mark(Remote(str(spec.remote)), "a driver that died").leave()
    record_end(spec, {"status": "stopped", "reason": "by a test"}, whoever_writes=True)
    assert result_of(spec.folder, spec.remote) == {"status": "stopped", "reason": "by a test"}


def test_a_push_brings_what_changed_and_takes_away_what_went(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Copy(tmp_path / "run", record_at(uri), "one")
    place.take_over()
    put: list[str] = []
    real = Remote.put
    monkeypatch.setattr(Remote, "put", lambda self, name, path: put.append(name) or real(self, name, path))
    place.push()
    assert put == []
    names = ["result.json", "checkpoints/tick-3/sha256", "checkpoints/tick-3/state.pt", "metrics.jsonl", ".lock"]
    for name in [*names, "optuna.journal"]:
        (place.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (place.folder / name).write_text("new, and longer")
    for name in ("state.pt", "sha256"):
        (place.folder / "checkpoints" / "tick-1" / name).unlink()
    place.push()
    assert put == ["checkpoints/tick-3/state.pt", "metrics.jsonl", "checkpoints/tick-3/sha256", "result.json"]
    from pyarrow.fs import FileSelector

    system, root = place.remote._place()
    folders = {info.base_name for info in system.get_file_info(FileSelector(f"{root}/checkpoints", recursive=True))}
    assert "tick-1" not in folders, "no empty folders stay, which listings would go through"
    checkpoints = {name for name in place.remote.files() if name.startswith("checkpoints")}
    assert checkpoints == {"checkpoints/tick-3/state.pt", "checkpoints/tick-3/sha256"}, "what was never whole goes too"


def test_how_a_run_ended_is_written_for_workers_that_were_killed_and_never_over_what_they_said(
    small: MakeExperiment, uri: str
) -> None:
    spec = spec_of(small(OFTEN), uri)
    record_at(uri).remove(WRITER)
    record_end(spec, {"status": "interrupted", "reason": "by a test"})
    record_end(spec, {"status": "failed", "reason": "too late"})
    found = result_of(spec.folder, spec.remote)
    assert found is not None and found["reason"] == "by a test"
    assert Remote(str(spec.remote)).read("checkpoints/tick-1/state.pt") is not None


# --- tables and sweeps -------------------------------------------------------------------------------------------


def test_a_table_hands_weights_on_through_the_store(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run begins with weights of another that was trained on another machine, and its seal holds."""
    for machine in ("one", "another"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        runs = fetch_all(runs_here(uri))
        places = Places(runs, tmp_path / "results")
        ablation = find_missing(plan(seeds=(0,)), places)
        folders = {key: one.folder for key, one in ablation.evidence.items() if one.folder is not None}
        (job,) = ready(ablation.jobs, places, folders)
        spec = RunSpec.from_plain(job.spec.as_plain())
        if machine == "another":
            assert spec.origins, "the second one begins with what the first has trained"
            for name in spec.origins:
                Path(str(spec.experiment.learners[name].weights)).unlink()  # here; the worker is on a third machine
        execute(spec, Silent())
    ablation = find_missing(plan(seeds=(0,)), Places(fetch_all(runs_here(uri)), tmp_path / "results"))
    assert ablation.jobs == ()
    for evidence in ablation.evidence.values():
        evidence.check()


def test_weights_that_cannot_be_handed_on_are_not_there_for_anybody(
    uri: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 1.0)
    file = runs_here(uri) / "weights" / "0123.safetensors"
    (tmp_path / "made").write_bytes(b"weights")
    with store.away(), pytest.raises(Away):
        hand_on(tmp_path / "made", file)
    hand_on(tmp_path / "made", file)
    assert Remote(uri).read("weights/0123.safetensors") == b"weights"


def test_weights_that_the_store_has_lost_are_not_here_either(uri: str, tmp_path: Path) -> None:
    runs = runs_here(uri)
    (tmp_path / "made").write_bytes(b"weights")
    for name in ("kept", "lost"):
        hand_on(tmp_path / "made", runs / "weights" / name)
        (runs / "weights").mkdir(exist_ok=True)
        (runs / "weights" / name).write_bytes(b"weights")
    Remote(uri).remove("weights/lost")
    fetch_all(runs)
    assert [path.name for path in (runs / "weights").iterdir()] == ["kept"]


@pytest.mark.parametrize("kind", ["taken over", "away"])
def test_a_sweep_that_cannot_note_what_happened_begins_nothing_more(uri: str, tmp_path: Path, kind: str) -> None:
    """What a searcher raises Tune takes for a trial's failure, and starts that trial again."""
    (tmp_path / "runs").symlink_to(runs_here(uri))
    sweep = planned(tmp_path)
    ledger, told = open_ledger(sweep, resume=False), list[Trial]()
    search = Search(sweep, ledger, Memory(sweep.sweep, sweep.space, ledger.events), {}, told.append, print)
    assert search.suggest("first") is not None
    if kind == "taken over":
        Mark(Remote(f"{uri}/tiny/{sweep.folder.name}"), "another").leave()
        search.on_trial_complete("first", {STATE: "failed", REASON: "by a test"})
        assert isinstance(search.problem, TakenOver)
    else:
        search.on_trial_complete("first", {STATE: AWAY, REASON: "the store is away"})
        assert isinstance(search.problem, Away) and str(search.problem) == "the store is away"
    assert search.suggest("second") == Searcher.FINISHED and told == []
    assert [trial.state for trial in read_log(sweep.folder).trials()] == ["running"]
    assert Watch(None, Patience(1), Noting(), lambda: search.problem is not None).stop_all()


def test_a_sweep_is_in_the_store_before_it_goes_on_whoever_reads_it_here(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who read bring older files into the copy; another machine sees each event; the first writer is told."""
    (tmp_path / "runs").symlink_to(runs_here(uri))
    ledger = open_ledger(planned(tmp_path), resume=False)
    point = {"transfers.main.cycle": 1}
    for number in range(3):
        ledger.note(asked(Trial(number, point, point, f"{number}-s0")))
        (ledger.folder / "trials.jsonl").write_text("of before\n")
        fetch_all(runs_here(uri))
        (ledger.folder / "trials.jsonl").write_text("of before\n")
        ledger.note(refused(point, "the same"))
    assert len(read_log(ledger.folder).events) == 6

    (tmp_path / "runs").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    (tmp_path / "runs").symlink_to(runs_here(uri))
    assert "has 3 trials that did not end: go on with --resume s3://" in refusal(
        lambda: open_ledger(planned(tmp_path), resume=False)
    )
    late = Ledger(ledger.folder)
    ledger.note(refused(point, "the first still writes"))
    assert "another process is writing this sweep" in refusal(lambda: late.describe({}))
    late.close()
    second = open_ledger(planned(tmp_path), resume=True)
    assert len(second.events) == 7
    with pytest.raises(TakenOver):
        ledger.note(refused(point, "too late"))
    second.note(refused(point, "the second writes"))
    (second.folder / "confirm-0.yaml").write_text("made from it here")
    events = read_log(record_here(f"{uri}/tiny/{second.folder.name}")).events
    assert [event.get("reason") for event in events[-2:]] == ["the first still writes", "the second writes"]
    assert (second.folder / "confirm-0.yaml").exists()
