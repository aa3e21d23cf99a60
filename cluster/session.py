"""The one way in to Ray: a cluster of this process's own on this machine, or one that is there; quiet."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from mergenet.config import InputError

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def check_fits(workers: int, device: str) -> None:
    """Ray waits for ever for what no machine has, so it is refused here.

    Raises:
        InputError: more workers than processors (or GPUs), counted without starting Ray.
    """
    there, what = available(device), "GPUs" if device == "cuda" else "processors"
    if workers > there:
        raise InputError(f"--workers {workers}: this machine has {there} {what}, and each worker needs one")


def available(device: str) -> int:
    """GPUs, or processors this process may use, on this machine; counted without starting Ray."""
    import torch

    if device == "cuda":
        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def session(dashboard: bool = False, address: str | None = None) -> Iterator[None]:
    """Ray inside; one that is running already in this process is used and left running.

    Args:
        address: HOST:PORT of a cluster that this machine is a node of, which is left running; None starts one.
        dashboard: with Ray's State API, which takes it ten seconds more to start. Who starts trainers inside of trials
            needs it: without it the place of one that was stopped is never given free.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    on_terminate = signal.getsignal(signal.SIGTERM)
    # Ray's own count of processors may be smaller than what check_fits let through
    own = {"num_cpus": available("cpu"), "include_dashboard": dashboard} if address is None else {}
    ray.init(
        address=address or "local", log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **own
    )
    if threading.current_thread() is threading.main_thread():  # Ray's own prints a stack and aborts
        signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        ray.shutdown()
