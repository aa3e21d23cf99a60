"""Where MLflow is, and a client of it that says nothing by itself and gives up soon."""

import fcntl
import os
import re
import sqlite3
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mergenet.config import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
PATIENCE_S = 30.0  # for another process of ours that sends the same record, or makes the same store
LOCKED_S = 2.0  # MLflow itself waits 20 s for a database that is locked, and 100 s for one that cannot be opened

QUIET = {
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""Environment of a process of ours that speaks to MLflow; what the user has set stands."""


def keep_quiet() -> None:
    """Gives this process the environment of `QUIET`; to be called before MLflow is imported."""
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})


class Away(RuntimeError):
    """MLflow cannot be reached, or does not take what it is sent; the text is one line that says why."""


def default_uri(runs: Path) -> str:
    """The SQLite store that lies beside the records in `runs`."""
    return f"sqlite:///{runs.absolute() / 'mlflow.db'}"


def require_mlflow() -> None:
    """Raises:
    InputError: MLflow is not installed.
    """
    if find_spec("mlflow") is None:
        raise InputError("MLflow is not installed: pip install 'mlflow>=3.17'")


def check_uri(uri: str) -> None:
    """Raises:
    InputError: MLflow has no store for such a URI.
    """
    scheme = re.split(r"[+:]", uri)[0]
    if scheme not in SCHEMES or (scheme == "sqlite" and database_of(uri) is None):
        raise InputError(f"MLflow at '{without_password(uri)}': write http://HOST:PORT or sqlite:///PATH")


def database_of(uri: str) -> Path | None:
    """The file of an SQLite store; None for every other."""
    path = uri.removeprefix("sqlite:///")
    return Path(path).absolute() if path not in (uri, "", ":memory:") else None


def artifacts_beside(uri: str) -> str | None:
    """Where the artifacts of an SQLite store lie: left to MLflow, they would litter the current folder."""
    database = database_of(uri)
    return (database.parent / "mlflow-artifacts").as_uri() if database else None


def connect(uri: str) -> "MlflowClient":
    """A client of the store, which is made where it is a file that is not there yet.

    Raises:
        Away: it does not answer, or is locked, broken, or not ours to write.
    """
    with reaching():
        from mlflow import MlflowClient

        database = database_of(uri)
        if database is not None:
            _ready(database)
        return MlflowClient(uri)


def answers(uri: str) -> None:
    """Asks the store a question, so that a database of an older MLflow is found out too.

    Raises:
        Away: it has no answer.
    """
    client = connect(uri)
    with reaching():
        client.search_experiments(max_results=1)


def _ready(database: Path) -> None:
    """Sees that the file can be written now; makes it aside and renames it, so that a death leaves no half store."""
    from mlflow import MlflowClient

    if set("%?#") & set(str(database)):
        raise Away("an SQLite store cannot lie in a path with %, ? or #")
    database.parent.mkdir(parents=True, exist_ok=True)
    with alone(database.with_name(f".{database.name}.lock")):  # two migrations of one file break it
        if not database.exists():
            aside = database.with_name(f".{database.name}.new")
            aside.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{aside}")
            aside.replace(database)
    with closing(sqlite3.connect(database, timeout=LOCKED_S)) as connection:
        connection.execute("BEGIN IMMEDIATE")


def find_experiment(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    """The number of MLflow's experiment of this name, which is made where there is none."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":  # in the page; its name is still taken
        client.restore_experiment(found.experiment_id)
    try:
        return str(found.experiment_id if found else client.create_experiment(name, artifacts))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # a run beside this one was quicker to make it
        if found is None:
            raise
        return str(found.experiment_id)


def find_run(client: "MlflowClient", experiment: str, by: str, tags: Mapping[str, str], begun: int, name: str) -> "Run":
    """The MLflow run whose tag `by` is as in `tags`, which is made where there is none.

    Args:
        begun: milliseconds since 1970.
    """
    runs = client.search_runs([experiment], f"tags.`{by}` = '{tags[by]}'", max_results=1)
    if runs:
        return client.get_run(runs[0].info.run_id)
    return client.create_run(experiment, begun, dict(tags), name)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """One process at a time in here, for one file; who has waited for long gives up.

    Raises:
        Away: another process was in here all the time.
    """
    with lock.open("a") as file:
        end = time.monotonic() + PATIENCE_S
        while not _locked(file):
            if time.monotonic() > end:
                raise Away(f"another process holds {lock.name}")
            time.sleep(0.05)
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def without_password(uri: str) -> str:
    """`uri` as it may be shown."""
    return re.sub(r"(://[^/:@]+):[^/@]*@", r"\1:***@", uri)


@contextmanager
def reaching() -> Iterator[None]:
    """Turns what MLflow raises into `Away`."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:  # those of requests are OSErrors
        raise Away(reason(error)) from error


def reason(error: BaseException) -> str:
    """The one thing a user wants to know of an error's pages."""
    text = str(error)
    found = re.search(r"\[Errno -?\d+\] ([^:'\")]+)|(timed out)", text)
    if found:
        return found[1] or found[2]
    return textwrap.shorten((text.splitlines() or [""])[0] or type(error).__name__, 160, placeholder=" ...")
