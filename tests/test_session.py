"""The way in to a cluster: addresses, what there is room for, and what is looked at before it is trusted."""

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.util.queue import Empty

from cluster import launch, nodes, session, trust
from cluster.finding import Finding, bad, good
from cluster.nodes import Node
from cluster.preflight import Check, Wanted
from mergenet.config import InputError
from mergenet.training.reporter import Silent
from tests.conftest import Outcome
from tests.refused import refusal

RUN = ["train", "digits-cross-structure"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("head", "--address head: write HOST:PORT"),
        ("auto", "--address auto: write HOST:PORT"),
        ("http://127.0.0.1:8265", "write HOST:PORT, as `ray start --head` says it"),
        ("127.0.0.1:99999", "write HOST:PORT"),
        ("127.0.0.1:1", "nothing answers at 127.0.0.1:1: Connection refused"),
    ],
)
@pytest.mark.parametrize("words", [RUN, ["sweep", "digits-pairing"], ["ablate", "table8"]], ids=lambda words: words[0])
def test_an_address_where_no_cluster_is_is_refused_before_anything_begins(
    call: Callable[..., Outcome], tmp_path: Path, words: list[str], address: str, said: str
) -> None:
    code, out, err = call(*words, "--address", address)
    assert (code, out) == (2, "") and said in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_job_is_told_its_cluster_by_ray(call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    code, _, err = call(*RUN)
    assert code == 2 and "nothing answers at 127.0.0.1:1" in err


def test_torchrun_and_a_cluster_are_not_both_asked(
    call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = call(*RUN, "--address", "127.0.0.1:1")
    assert code == 2 and "this process is one of torchrun's; leave one out" in err


# --- room --------------------------------------------------------------------------------------------------------


@pytest.fixture
def three_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's words of three nodes, of 3, 3 and 1 processors and one GPU, and of one that is gone."""
    there = [{"CPU": 3.0}, {"CPU": 3.0, "GPU": 1.0}, {"CPU": 1.0}]
    nodes = [{"Alive": True, "Resources": resources} for resources in there]
    monkeypatch.setattr(session.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(session.ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 64.0}}])
    monkeypatch.setattr(session.ray, "cluster_resources", lambda: {"CPU": 7.0, "GPU": 1.0})


@pytest.mark.usefixtures("three_nodes")
def test_threads_of_one_process_are_on_one_node() -> None:
    assert [session.room("cpu", threads) for threads in (1, 2, 3, 4)] == [7, 2, 2, 0]
    assert session.room("cuda", 4) == 1
    assert session.resolve("auto") == "cuda" and session.resolve("cpu") == "cpu"


@pytest.mark.usefixtures("three_nodes")
def test_more_workers_than_the_cluster_has_places_are_refused() -> None:
    session.check_fits(7, "cpu")
    said = refusal(lambda: session.check_fits(8, "cpu"))
    assert said == "--workers 8: the cluster has 7 processors, and each worker needs one"
    assert "the cluster has 1 GPUs" in refusal(lambda: session.check_fits(2, "cuda"))


@pytest.mark.usefixtures("three_nodes")
def test_of_what_is_there_others_may_have_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.ray, "available_resources", lambda: {"CPU": 1.5})
    assert launch._missing(7, "cpu", begun=False) == "none has begun; 1.5 of 7 processors are free"
    assert launch._missing(1, "cuda", begun=False) == "none has begun; 0 of 1 GPUs are free"
    assert launch._missing(7, "cpu", begun=True) is None, "it holds them itself"
    assert launch._missing(8, "cpu", begun=True) == "the cluster has 7 processors, and each worker needs one"


@pytest.mark.parametrize("missing", ["the cluster has 1 processors, and each worker needs one", None])
@pytest.mark.parametrize("has_begun", [False, True])
def test_a_run_that_waits_for_a_place_says_so(
    monkeypatch: pytest.MonkeyPatch, missing: str | None, has_begun: bool
) -> None:
    """A quiet run that has all that it needs says nothing; one whose workers have begun holds what is not free."""
    monkeypatch.setattr(launch, "SILENCE_S", -1.0)
    ended, asked, said = threading.Event(), list[float](), list[str]()

    class Quiet:
        def get(self, timeout: float) -> Any:
            asked.append(timeout)
            if has_begun and len(asked) == 1:
                return (launch.BEGUN,)
            if len(asked) == 2 + has_begun:
                ended.set()
            raise Empty

    class Listening(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    launch._relay(Quiet(), Listening(), lambda begun: missing and f"{missing} {begun}", ended)
    assert said == ([f"waiting for workers: {missing} {has_begun}"] if missing else [])


def test_a_driver_that_has_gone_wants_no_more_and_one_that_is_away_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    answers: list[Exception | None] = [ActorUnavailableError("the network", None), None, ActorDiedError()]
    heard: list[str] = []

    class Driver:
        def put(self, news: str) -> None:
            if (answer := answers.pop(0)) is not None:
                raise answer
            heard.append(news)

    nodes.tell(Driver(), "a tick")
    assert heard == ["a tick"]
    with pytest.raises(KeyboardInterrupt):
        nodes.tell(Driver(), "another")
    answers += [ActorUnavailableError("the network", None)] * nodes.TRIES
    with pytest.raises(KeyboardInterrupt):
        nodes.tell(Driver(), "another")
    assert answers == []


# --- what is left as it was --------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True], ids=["a Ray of its own", "one that runs"])
def test_ctrl_c_does_afterwards_what_it_did_before(monkeypatch: pytest.MonkeyPatch, running: bool) -> None:
    """A trainer of Ray's leaves a handler behind that starts a Ray anew, and Tune one that says nothing."""
    monkeypatch.setattr(session.ray, "is_initialized", lambda: running)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    monkeypatch.setattr(session, "_init", lambda *there, **own: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with session.session():
        assert signal.getsignal(signal.SIGTERM) == before[1], "Ray's own prints a stack and aborts"
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_dashboard_that_jobs_go_to_is_not_asked_about_another_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a trial lives, for one: the place of a stopped one would never be given free."""
    elsewhere = {"RAY_API_SERVER_ADDRESS": "http://elsewhere:8265", "RAY_ADDRESS": "elsewhere:6379"}
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    monkeypatch.setattr(session, "_init", lambda *there, **own: None)
    with session.session():
        assert not elsewhere.keys() & os.environ.keys()
    assert {name: os.environ[name] for name in elsewhere} == elsewhere
    monkeypatch.setattr(session.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="head:6379"))
    session._tells_its_cluster()()
    assert os.environ["RAY_ADDRESS"] == "head:6379" and "RAY_API_SERVER_ADDRESS" not in os.environ


def test_nothing_is_collected_while_ray_goes_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that writes a journal would collect what the sweep left behind, and Ray end the process for it."""
    collecting: list[bool] = []

    class Reference:
        def __del__(self) -> None:
            collecting.append(True)

    def shutdown() -> None:
        collecting.append(gc.isenabled())

    reference = Reference()
    reference.__dict__["itself"] = reference
    del reference
    monkeypatch.setattr(session.ray, "shutdown", shutdown)
    session._leave()
    assert collecting == [True, False], "what can go has gone before"
    assert gc.isenabled()


# --- trust -------------------------------------------------------------------------------------------------------


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Trusts a cluster of so many nodes of which these checks are bad; the checks that were made."""

    def trusted(nodes: int, *broken: str, trainers: bool = False) -> list[str]:
        made: list[str] = []

        def checks(wanted: Wanted) -> Iterator[Check]:
            assert (wanted.storage, wanted.data) == ("/mnt/runs", {"cifar100": "/mnt/cifar100"})
            for name in ("versions", "State API", "hosts", "token", "storage", "data", "all-reduce"):
                yield Check(name, lambda name=name: found(name), "mend it", 5.0)  # type: ignore[misc]

        def found(name: str) -> Finding:
            made.append(name)
            return bad("it is broken") if name in broken else good("as it should be")

        monkeypatch.setattr(trust, "alive", lambda: [Node(str(n), str(n), "10.0.0.1") for n in range(nodes)])
        monkeypatch.setattr(trust, "checks_of", checks)
        trust.check_cluster(Path("/mnt/runs"), {"cifar100": "/mnt/cifar100"}, trainers)
        return made

    return trusted


def test_one_node_is_trusted_and_several_are_looked_at(looked_at: Callable[..., list[str]]) -> None:
    assert looked_at(1, "storage") == []
    assert looked_at(1, "storage", trainers=True) == ["State API"]
    assert looked_at(2) == ["versions", "storage", "data"]
    assert looked_at(2, trainers=True) == ["versions", "State API", "storage", "data"]
    assert looked_at(2, "hosts", "token", "all-reduce", "State API") == ["versions", "storage", "data"]


@pytest.mark.parametrize("broken", ["versions", "storage", "data", "State API"])
def test_what_would_spoil_a_run_is_said_with_its_remedy(looked_at: Callable[..., list[str]], broken: str) -> None:
    with pytest.raises(InputError, match=f"the cluster is not fit, {broken}: it is broken; mend it"):
        looked_at(3, broken, trainers=True)
