"""Files by their name, out of a folder or out of an archive that is never extracted."""

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

from mergenet.config import InputError

ARCHIVES = (".tar.gz", ".tgz", ".tar")


class Files(Protocol):
    """Where files are read from."""

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises FileNotFoundError."""

    def where(self, name: str) -> str:
        """How errors name a file."""


class _Folder(Files):
    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def where(self, name: str) -> str:
        return str(self.path / name)


class _Archive(Files):
    """The files of one folder in a tar archive; links in it lead nowhere."""

    def __init__(self, path: Path, archive: tarfile.TarFile, folder: str) -> None:
        self.path, self.archive, self.folder = path, archive, folder
        self.members = {
            PurePosixPath(member.name).name: member
            for member in archive
            if member.isfile() and PurePosixPath(member.name).parent.name == folder
        }

    def read(self, name: str) -> bytes:
        if name not in self.members:
            raise FileNotFoundError(name)
        file = self.archive.extractfile(self.members[name])
        assert file is not None
        return file.read()

    def where(self, name: str) -> str:
        return f"{self.path}: {self.folder}/{name}"


@contextmanager
def open_files(source: Path, folder: str) -> Iterator[Files]:
    """The files in `folder` of an archive, or those in a folder `source`.

    Raises:
        InputError: the archive cannot be read.
    """
    if source.is_dir():
        yield _Folder(source)
        return
    with reading(str(source)), tarfile.open(source) as archive:
        yield _Archive(source, archive, folder)


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Names what was being read when it could not be."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{where} is missing") from None
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{where} cannot be read (cut short?): {error}") from None


def is_archive(source: Path) -> bool:
    """Whether `source` is a file with an archive's name."""
    return source.is_file() and source.name.endswith(ARCHIVES)


def folders_in(source: Path) -> Iterator[str]:
    """Names of the folders in an archive that hold something, as they come."""
    with reading(str(source)), tarfile.open(source) as archive:
        for member in archive:
            yield PurePosixPath(member.name).parent.name
