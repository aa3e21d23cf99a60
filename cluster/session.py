"""The one way in to Ray: a cluster of this process's own on this machine, or one that is there; quiet."""

import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO, Any, Literal

import ray

from mergenet.config import InputError

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
CONNECT_S = 5.0


class NotJoined(InputError):
    """A cluster that could not be joined: why, in one line.

    Args:
        answers: whether anything does at its address.
    """

    def __init__(self, why: str, answers: bool) -> None:
        super().__init__(why)
        self.answers = answers


@contextmanager
def session(dashboard: bool = False, address: str | None = None) -> Iterator[None]:
    """Ray inside; one that is running already in this process is used and left running.

    Args:
        address: HOST:PORT of a cluster that this machine is a node of, which is left running; None starts one.
        dashboard: with Ray's State API, which takes it ten seconds more to start. Who starts trainers inside of trials
            needs it: without it the place of one that was stopped is never given free.

    Raises:
        NotJoined: nothing answers at `address`, or it does not take this process in.
        InputError: an address that is none.
    """
    with _signals_kept(signal.SIGINT, signal.SIGTERM):  # from what Ray's trainers and Tune leave behind
        if ray.is_initialized():
            yield
            return
        with _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):  # Ray asks there, whichever cluster it is asked about
            _enter(dashboard, address)
            try:
                yield
            finally:
                _leave()


def _enter(dashboard: bool, address: str | None) -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _signals_kept(signal.SIGTERM):  # Ray's own handler prints a stack and aborts
        if address is None:
            # Ray's own count of processors may be smaller than what check_fits let through
            _init("local", num_cpus=available("cpu"), include_dashboard=dashboard)
        else:
            _join(address)


@contextmanager
def _signals_kept(*numbers: signal.Signals) -> Iterator[None]:
    """What these signals do afterwards is what they did before, where this thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that Python cannot name stays where it is
                signal.signal(number, handler)


@contextmanager
def _without(*variables: str) -> Iterator[None]:
    """The environment without them, inside."""
    there = {name: os.environ.pop(name) for name in variables if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(there)


def _leave() -> None:
    """Leaves Ray, which ends the process without a word if another thread gives up a reference while it goes down.

    So nothing may be collected meanwhile, in whichever thread that would be. What is collected later is harmless.
    """
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collecting:
            gc.enable()


def _init(address: str, **own: Any) -> None:
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=True,
        runtime_env={"worker_process_setup_hook": _tells_its_cluster()},
        **own,
    )


def _tells_its_cluster() -> Callable[[], None]:
    """What each process of Ray's does first: note which cluster it belongs to.

    Ray asks itself whether a trainer lives by looking for whichever cluster runs on the machine, or that the
    environment names. Where there are two it finds none, and the place of a stopped trial is never given free.
    """

    def tell() -> None:  # from inside, so that it travels whole: a node may lack this module, and is to say so itself
        import os

        import ray

        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        os.environ.pop("RAY_API_SERVER_ADDRESS", None)

    return tell


# --- a cluster that is there -------------------------------------------------------------------------------------


def _join(address: str) -> None:
    at = host_and_port(address)
    try:
        socket.create_connection(at, timeout=CONNECT_S).close()  # Ray itself waits for minutes
    except OSError as error:
        raise NotJoined(f"nothing answers at {address}: {error.strerror or error}", answers=False) from None
    with TemporaryFile("w+") as said:
        try:
            with _standard_error_to(said):
                _init(address)
        except Exception as error:
            raise NotJoined(_why_not(said, error), answers=True) from error


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of an address.

    Raises:
        InputError: it is none.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(
            f"--address {address}: write HOST:PORT, as `ray start --head` says it, on a machine of the cluster"
        )
    return host.strip("[]"), int(port)


@contextmanager
def _standard_error_to(said: IO[str]) -> Iterator[None]:
    """Ray says there, second after second and below Python, what it does not raise: that the token is wrong."""
    kept = os.dup(2)
    try:
        os.dup2(said.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _why_not(said: IO[str], error: Exception) -> str:
    said.seek(0)
    if "InvalidAuthToken" in said.read():
        return "the cluster does not take this token"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


# --- what there is room for --------------------------------------------------------------------------------------


def available(device: str) -> int:
    """GPUs, or processors: of the cluster inside of a `session`, else of this machine, without starting Ray."""
    import torch

    if ray.is_initialized():
        return int(ray.cluster_resources().get("GPU" if device == "cuda" else "CPU", 0))
    if device == "cuda":
        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def room(device: str, threads: int) -> int:
    """How many processes of so many threads fit at once; one that has a GPU has it to itself."""
    if device == "cuda":
        return available(device)
    if ray.is_initialized():  # threads of one process are on one node
        there = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        return sum(int(processors) // threads for processors in there)
    return available(device) // threads


def check_fits(workers: int, device: str) -> None:
    """Ray waits for ever for what no machine has, so it is refused here.

    Raises:
        InputError: more workers than processors (or GPUs).
    """
    if (missing := lacking(workers, device)) is not None:
        raise InputError(f"--workers {workers}: {missing}")


def lacking(workers: int, device: str) -> str | None:
    """Of what there is less than so many workers need, in words; None for nothing."""
    there, what = available(device), "GPUs" if device == "cuda" else "processors"
    return f"{where()} has {there} {what}, and each worker needs one" if workers > there else None


def free(device: str) -> str:
    """What nobody holds now, in words."""
    kind, what = ("GPU", "GPUs") if device == "cuda" else ("CPU", "processors")
    return f"{ray.available_resources().get(kind, 0):g} of {available(device)} {what} are free"


def where() -> str:
    """Where runs happen, in words."""
    return "the cluster" if ray.is_initialized() and len(ray.nodes()) > 1 else "this machine"


def resolve(device: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """`auto` as cuda where the cluster has a GPU, else as cpu."""
    if device == "auto":
        return "cuda" if available("cuda") else "cpu"
    return device
