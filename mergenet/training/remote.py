"""Files in an object store, as S3, whole ones by name: all that a store of this kind can do."""

import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from mergenet.training.files import below, replacing

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

PATIENCE_S = 60.0

Value = TypeVar("Value")


class Away(RuntimeError):
    """The store cannot be reached, or refuses; the text is one line that says why."""


@dataclass(frozen=True)
class Remote:
    """A folder in an object store.

    Attributes:
        uri: that pyarrow knows; its options after `?` hold for all that lies below.
    """

    uri: str

    def at(self, name: str) -> "Remote":
        """What lies below under this name."""
        return Remote(below(self.uri, name))

    def above(self) -> "Remote":
        """What this lies in."""
        parts = urlsplit(self.uri)
        return Remote(parts._replace(path=parts.path.rstrip("/").rpartition("/")[0]).geturl())

    def files(self) -> dict[str, "FileInfo"]:
        """Name, with those of the folders it lies in -> size and time of every file; none where there is no folder.

        Raises:
            Away: the store cannot be reached, or has no such bucket.
        """
        from pyarrow.fs import FileSelector

        with reaching():
            system, root = self._place()
            found = system.get_file_info(FileSelector(root, recursive=True, allow_not_found=True))
            if not found:
                _check_bucket(system, root)
        return {info.path.removeprefix(f"{root}/"): info for info in found if info.is_file}

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        with reaching():
            system, root = self._place()
            with suppress(FileNotFoundError), system.open_input_stream(f"{root}/{name}") as file:
                content: bytes = file.read()
                return content
        return None

    def write(self, name: str, content: bytes) -> None:
        """Makes a file, or replaces it; by a whole one, for a stream that is interrupted leaves an empty one."""
        with NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            self.put(name, Path(file.name))

    def get(self, name: str, path: Path) -> bool:
        """Copies a file to `path`, whose folder is made; whether it was there."""
        from pyarrow.fs import LocalFileSystem, copy_files

        path.parent.mkdir(parents=True, exist_ok=True)
        with reaching():
            system, root = self._place()
            with suppress(FileNotFoundError), replacing(path) as aside:
                copy_files(f"{root}/{name}", str(aside), system, LocalFileSystem())
                return True
        return False

    def put(self, name: str, path: Path) -> None:
        """Copies `path` there."""
        from pyarrow.fs import LocalFileSystem, copy_files

        with reaching():
            system, there = self._to_write(name)
            copy_files(str(path), there, LocalFileSystem(), system)

    def remove(self, name: str) -> None:
        """Removes a file or a folder, if it is there."""
        from pyarrow.fs import FileType

        with reaching(), suppress(FileNotFoundError):
            system, root = self._place()
            path = f"{root}/{name}"
            if system.get_file_info(path).type == FileType.Directory:
                system.delete_dir(path)
            else:
                system.delete_file(path)

    def _place(self) -> "tuple[FileSystem, str]":
        parts = urlsplit(self.uri)
        system, root = _system(parts._replace(path="/" if parts.scheme == "file" else "").geturl())
        return system, f"{root.rstrip('/')}/{parts.path.strip('/')}"

    def _to_write(self, name: str) -> "tuple[FileSystem, str]":
        system, root = self._place()
        path = f"{root}/{name}"
        if system.type_name == "local":  # elsewhere there are no folders
            system.create_dir(path.rpartition("/")[0])
        return system, path


def _check_bucket(system: "FileSystem", path: str) -> None:
    from pyarrow.fs import FileType

    bucket = path.partition("/")[0]
    if bucket and system.get_file_info(bucket).type == FileType.NotFound:
        raise FileNotFoundError(f"there is no bucket '{bucket}'")


@lru_cache(maxsize=8)
def _system(uri: str) -> "tuple[FileSystem, str]":
    """One client for all that lies in a bucket: each has connections and threads of its own."""
    from pyarrow.fs import FileSystem

    system, root = FileSystem.from_uri(uri)
    return system, root


@contextmanager
def reaching() -> Iterator[None]:
    """Turns what a store raises into `Away`."""
    try:
        yield
    except (OSError, ValueError, NotImplementedError) as error:  # Arrow's errors are kinds of these
        raise Away(textwrap.shorten(str(error), 240, placeholder=" ...")) from error


def patiently(call: Callable[[], Value]) -> Value:
    """What `call` gives; a store that is away is asked again, for `PATIENCE_S` at most.

    Raises:
        Away: it still is.
    """
    end, pause = time.monotonic() + PATIENCE_S, 0.5
    while True:
        try:
            return call()
        except Away:
            if time.monotonic() + pause > end:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 8.0)
