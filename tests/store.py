"""An object store on this machine: moto's S3, which keeps in memory what it is given.

python -m tests.store HOST PORT     serves until it is ended
python -m tests.store URI FOLDER    copies a record from a store
"""

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

from mergenet.training.copies import fetch, record_here

BUCKET = "lab"
KEYS = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "writer", "AWS_REGION": "us-east-1"}


def environment(host: str, port: int) -> dict[str, str]:
    """Variables by which a process finds the store."""
    return {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}


class Store:
    """A store that can be away for a while."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self._start(host, port)
        self.host, self.port = self._server.get_host_and_port()
        key, secret, region = KEYS.values()
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{self.host}:{self.port}",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name=region,
        )
        client.create_bucket(Bucket=BUCKET)

    def _start(self, host: str, port: int) -> None:
        self._server = ThreadedMotoServer(host, port, verbose=False)
        self._server.start()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Inside, it answers nobody; it forgets nothing."""
        self._server.stop()
        yield
        self._start(self.host, self.port)

    def stop(self) -> None:
        """Ends it."""
        self._server.stop()


def copy(uri: str, folder: Path) -> None:
    """Copies a record from a store, with the states of its checkpoints."""
    record = record_here(uri)
    fetch(record, states=True)
    shutil.copytree(record, folder)


if __name__ == "__main__":
    if "://" in sys.argv[1]:
        copy(sys.argv[1], Path(sys.argv[2]))
    else:
        store = Store(sys.argv[1], int(sys.argv[2]))
        signal.pause()
