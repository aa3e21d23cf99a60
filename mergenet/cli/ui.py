"""`mergenet ui`: MLflow's page of the records, on this machine alone."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import click

from mergenet.cli.words import runs_option
from mergenet.config import InputError

HOST = "127.0.0.1"
STARTS_WITHIN_S = 120.0


@click.command(short_help="Shows the records in MLflow's page.")
@runs_option
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(runs: str, port: int) -> None:
    """Shows the records in MLflow's page, which only this machine can open; Ctrl-C ends it."""
    from mergenet.training.copies import runs_here
    from tune.store import default_uri, require_mlflow

    require_mlflow()
    folder = runs_here(runs).absolute()
    if not (folder / "mlflow.db").exists():
        raise InputError(f"{runs} holds no mlflow.db yet; `mergenet sync --runs {runs}` makes it from the records")
    _check_free(port)
    with suppress(KeyboardInterrupt), tempfile.TemporaryFile("w+") as log:
        with _server(default_uri(folder), folder, port, log) as server:
            _wait_for(server, port, log)
            click.echo(f"MLflow shows {runs} at http://{HOST}:{port}; Ctrl-C ends it")
            server.wait()
        raise click.ClickException(f"MLflow's page has ended: {_last_line(log)}")


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InputError(f"--port {port}: {error.strerror}; choose another one") from None


@contextmanager
def _server(uri: str, folder: Path, port: int, log: IO[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """One worker, without the processes of MLflow's own jobs; it ends with us."""
    from tune.store import QUIET

    artifacts = (folder / "mlflow-artifacts").as_uri()
    server = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "mlflow", "server", "--backend-store-uri", uri),
            *("--default-artifact-root", artifacts, "--host", HOST, "--port", str(port), "--workers", "1"),
        ],
        stdout=log,
        stderr=log,
        env={**QUIET, **os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,  # Ctrl-C is for us
    )
    try:
        yield server
    finally:
        _end(server)


def _end(server: "subprocess.Popen[bytes]") -> None:
    """The server and its worker, which are a process group of their own."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signum)
        with suppress(subprocess.TimeoutExpired):
            server.wait(10.0)


def _wait_for(server: "subprocess.Popen[bytes]", port: int, log: IO[str]) -> None:
    """Returns when it answers."""
    end = time.monotonic() + STARTS_WITHIN_S
    while server.poll() is None and time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.2)
    raise click.ClickException(f"MLflow's page did not start: {_last_line(log)}")


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    lines = log.read().split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
