"""Commands of this program as jobs of a cluster that this machine need not be a part of, by Ray Jobs."""

import asyncio
import logging
import shlex
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cluster.nodes import in_one_line
from cluster.wheel import unpack_wheel
from mergenet.config import InputError

COMMAND = "mergenet"
"""Key of a job's metadata: what was asked for."""
START_S = 60.0


@dataclass(frozen=True)
class Job:
    """A job of the cluster.

    Attributes:
        status: Ray's word: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        begun, ended: None for not yet.
        code: that its driver ended with, where Ray knows.
    """

    name: str
    status: str
    command: str
    begun: datetime | None
    ended: datetime | None
    code: int | None
    message: str

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class Jobs:
    """The jobs of one cluster.

    Args:
        address: of its dashboard, as http://HEAD:8265.

    Raises:
        InputError: nothing answers there, or it does not take the token.
    """

    def __init__(self, address: str) -> None:
        from ray.job_submission import JobSubmissionClient

        self._address = address if "://" in address else f"http://{address}"
        if not self._address.startswith(("http://", "https://")):
            raise InputError(f"--address {address}: write the dashboard's, as http://HEAD:8265")
        for part in ("dashboard_sdk", "job.sdk"):  # they tell of every upload and closed connection
            logging.getLogger(f"ray.dashboard.modules.{part}").setLevel(logging.WARNING)
        with self._asking():
            self._client = JobSubmissionClient(self._address)

    def submit(self, words: Sequence[str], python: str, env: Mapping[str, str], send: Sequence[Path]) -> str:
        """Starts a command of this program on the cluster, with this very code; returns the job's name.

        Args:
            words: of the command, without the program's name.
            python: the cluster's, with all that this program depends on.
            env: variables for it and its workers.
            send: files and folders that it is to find by the same words; they lie in the present folder.

        Raises:
            InputError: the cluster refuses, or a file cannot be read.
        """
        with TemporaryDirectory(prefix="mergenet-job-") as aside:
            parcel = _packed(Path(aside) / "job", send)
            with self._asking():
                return self._submit(
                    entrypoint=shlex.join([python, "-m", "mergenet", *words]),
                    runtime_env={"working_dir": parcel, "env_vars": {"PYTHONUNBUFFERED": "1", **env}},
                    metadata={COMMAND: shlex.join(words)},
                )

    def _submit(self, **job: Any) -> str:
        """Sends it; a cluster that has just started takes no jobs for a few seconds."""
        end = time.monotonic() + START_S
        while True:
            try:
                name: str = self._client.submit_job(**job)
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(1.0)
            else:
                return name

    def all(self) -> list[Job]:
        """All jobs, the newest first."""
        with self._asking():
            jobs = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(jobs, key=lambda job: job.begun or datetime.now(UTC), reverse=True)

    def job(self, name: str) -> Job:
        """One job.

        Raises:
            InputError: there is none of this name.
        """
        with self._asking(name):
            return _job(self._client.get_job_info(name))

    def logs(self, name: str) -> str:
        """What it has printed so far."""
        with self._asking(name):
            said: str = self._client.get_job_logs(name)
        return said

    def follow(self, name: str) -> Iterator[str]:
        """What it prints, from the beginning and as it comes, until it is over."""
        with self._asking(name), asyncio.Runner() as runner:
            lines = self._client.tail_job_logs(name)
            while (text := runner.run(_next(lines))) is not None:
                yield text

    def stop(self, name: str) -> None:
        """Asks it to end well; Ray ends it after a few seconds where it does not."""
        with self._asking(name):
            self._client.stop_job(name)

    @contextmanager
    def _asking(self, name: str | None = None) -> Iterator[None]:
        """What the cluster answers with in place of an answer, in one line."""
        from aiohttp import ClientError
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise InputError(f"the cluster at {self._address} does not take this token (RAY_AUTH_TOKEN)") from None
        except (OSError, ClientError) as error:
            why = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise InputError(f"no Ray dashboard answers at {self._address}: {why[0]}") from None
        except RuntimeError as error:
            if name is not None and "does not exist" in str(error):
                raise InputError(f"the cluster has no job {name}; `mergenet cluster status` lists them") from None
            raise InputError(f"the cluster at {self._address} refuses: {' '.join(str(error).split())[:300]}") from None


async def _next(lines: AsyncIterator[str]) -> str | None:
    return await anext(lines, None)


def _packed(folder: Path, send: Sequence[Path]) -> str:
    """A zip of this project, as it is installed, and of what is sent beside it."""
    unpack_wheel(folder)
    for path in send:
        try:
            _copy(path, folder / path)
        except (OSError, shutil.Error) as error:
            raise InputError(f"--send {path}: {in_one_line(error)}") from None
    return shutil.make_archive(str(folder), "zip", folder)


def _copy(path: Path, there: Path) -> None:
    there.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, there, ignore=shutil.ignore_patterns("__pycache__", ".git"), dirs_exist_ok=True)
    else:
        shutil.copy(path, there)


def _job(details: Any) -> Job:
    return Job(
        name=details.submission_id,
        status=str(details.status),
        command=(details.metadata or {}).get(COMMAND, details.entrypoint),
        begun=_moment(details.start_time),
        ended=_moment(details.end_time),
        code=details.driver_exit_code,
        message=" ".join((details.message or "").split()),
    )


def _moment(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
