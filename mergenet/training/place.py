"""Where a run writes its record: in the record's own folder, or in one whose content is brought to an object store.

A store does not append, rename or lock. So a run is trained in a folder of its worker's own, which is pushed after
every figure and every checkpoint. Of two that write one record the later is right: it leaves its mark in the store, and
who does not find his own there any more pushes nothing. Between looking and pushing is a moment that nothing closes.
"""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mergenet.config import InputError
from mergenet.training.copies import CHECKPOINTS, RESULT, bring, is_kept, kept_in, mark_of, refusing
from mergenet.training.files import CHECKSUM, copied_from
from mergenet.training.remote import Away, Remote, patiently

WRITER = ".writer"


class TakenOver(InputError):
    """Another process writes the record now."""


class Place:
    """Where a record is written; this kind is the record's own folder, and nothing has to be brought anywhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take_over(self, states: bool = True) -> None:
        """From now on this process writes the record."""

    def push(self) -> None:
        """Brings what has changed to where the record is kept."""

    def checkpoint(self, name: str) -> Path:
        """A checkpoint of the record, for a process that did not take over."""
        return self.folder / CHECKPOINTS / name

    def weights(self, file: str) -> str:
        """A file of weights that another run handed on, as it is found here."""
        return file


class Copy(Place):
    """A copy of the record, pushed to where it is kept."""

    def __init__(self, folder: Path, remote: Remote) -> None:
        super().__init__(folder)
        self.remote = remote
        self._token = secrets.token_hex(16).encode()
        self._pushed: dict[str, tuple[int, int] | None] = {}
        self.took_over = False

    def take_over(self, states: bool = True) -> None:
        """Fetches the record, and keeps others from pushing it.

        Raises:
            Away: the store cannot be reached.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        patiently(lambda: self.remote.write(WRITER, self._token))
        patiently(lambda: bring(self.remote, self.folder, states))
        self._pushed = self._marks()
        if states:  # what was not worth fetching, of a checkpoint that was never whole, goes with the next push
            self._pushed |= dict.fromkeys(filter(is_kept, patiently(self.remote.files).keys() - self._pushed.keys()))
        self.took_over = True

    def push(self) -> None:
        """Brings what has changed; what a reader relies on comes last.

        Raises:
            Away: the store cannot be reached; what is missing is brought by the next push.
            TakenOver: another process has the record now.
        """
        if self.remote.read(WRITER) != self._token:
            raise TakenOver(f"{self.remote.uri}: another process writes this record now")
        here = self._marks()
        for name in sorted(here, key=lambda name: (name == RESULT, name.endswith(CHECKSUM), name)):
            if self._pushed.get(name) != here[name]:
                self.remote.put(name, self.folder / name)
                self._pushed[name] = here[name]
        for name in self._pushed.keys() - here.keys():
            self.remote.remove(name)
            del self._pushed[name]

    def checkpoint(self, name: str) -> Path:
        """Fetched, where it is not here.

        Raises:
            InputError: it is not there either, or the store cannot be reached.
        """
        folder = super().checkpoint(name)
        if not folder.exists():
            with refusing(self.remote.uri):
                there = self.remote.at(f"{CHECKPOINTS}/{name}")
                patiently(lambda: [there.get(file, folder / file) for file in there.files()])
        return folder

    def weights(self, file: str) -> str:
        """Fetched from beside the records.

        Raises:
            InputError: it is not there, or the store cannot be reached.
        """
        path = self.folder.parent / Path(file).parent.name / Path(file).name
        runs = self.remote.above().above()
        with refusing(runs.uri):
            if not patiently(lambda: runs.get(f"{path.parent.name}/{path.name}", path)):
                raise InputError(f"{runs.at(path.parent.name).uri} has no {path.name}")
        return str(path)

    def _marks(self) -> dict[str, tuple[int, int] | None]:
        return {name: mark_of(self.folder / name) for name in kept_in(self.folder)}


@contextmanager
def at_hand(folder: Path, uri: str | None) -> Iterator[Place]:
    """Where a run is trained: its folder, or, where its record is kept in an object store, one that goes with the run.

    What is not there yet of a record that was taken over is brought at the end.

    Raises:
        Away: at the end, when the store cannot be reached; the record lies where the text says.
    """
    if uri is None:
        yield Place(folder)
        return
    aside = Path(tempfile.mkdtemp(prefix="mergenet-run-"))
    place = Copy(aside / folder.name, Remote(uri))
    try:
        yield place
    finally:
        if place.took_over:
            _push_at_last(place)
        shutil.rmtree(aside, ignore_errors=True)


def _push_at_last(place: Copy) -> None:
    try:
        patiently(place.push)
    except TakenOver:  # whose process that is brings it
        return
    except Away as error:
        raise Away(f"{place.remote.uri}: {error}; the record is whole in {place.folder}") from None


def hand_on(file: Path) -> None:
    """Brings a file beside the records to where they are kept.

    Raises:
        Away: the store cannot be reached.
    """
    uri = copied_from(file.parent)
    if uri is not None:
        patiently(lambda: Remote(uri).put(file.name, file))
