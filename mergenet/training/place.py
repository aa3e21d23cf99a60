"""Where a run writes its record: in the record's own folder, or in one whose content is brought to an object store.

A store does not append, rename or lock. So a run is trained in a folder of its worker's own, which is pushed after
every figure and every checkpoint. Of two that write one record the later is right: it leaves its mark in the store, and
who does not find his own there any more pushes nothing. Between looking and pushing a file is a moment that nothing
closes.
"""

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mergenet.config import InputError
from mergenet.training.copies import CHECKPOINTS, RESULT, bring, kept_in, mark_of, refusing
from mergenet.training.files import CHECKSUM, copied_from
from mergenet.training.remote import Away, Remote, patiently

WRITER = ".writer"
OWNER = secrets.token_hex(8)
"""What this process, and all that work for it, sign with in a store."""


class TakenOver(InputError):
    """Another command writes the record now."""


class Mark:
    """Who writes something in a store: whoever was the last to leave its mark there.

    Args:
        owner: whom this process works for.
    """

    def __init__(self, remote: Remote, owner: str) -> None:
        self._remote = remote
        self._owner = owner
        self._word = f"{owner}.{secrets.token_hex(8)}".encode()

    def leave(self) -> None:
        """From now on it is this process.

        Raises:
            Away: the store cannot be reached.
        """
        patiently(lambda: self._remote.write(WRITER, self._word))

    def check(self) -> None:
        """Raises:
        TakenOver: it is not this process, or not any more.
        Away: the store cannot be reached.
        """
        if self._remote.read(WRITER) != self._word:
            raise TakenOver(f"{self._remote.uri}: another process writes it now")

    def write(self, name: str, content: bytes) -> None:
        """Makes a file, or replaces it, if this process still is the writer.

        Raises:
            TakenOver: it is not.
            Away: the store cannot be reached, not even after a while.
        """

        def write() -> None:
            self.check()
            self._remote.write(name, content)

        patiently(write)

    def is_of_others(self) -> bool:
        """Whether it is a process that works for somebody else.

        Raises:
            Away: the store cannot be reached.
        """
        word = patiently(lambda: self._remote.read(WRITER))
        return word is not None and not word.startswith(f"{self._owner}.".encode())


class Place:
    """Where a record is written; this kind is the record's own folder, and nothing has to be brought anywhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take_over(self, states: bool = True) -> None:
        """From now on this process writes the record."""

    def is_of_others(self) -> bool:
        """Whether another command writes the record, as far as no lock tells."""
        return False

    def push(self) -> None:
        """Brings what has changed to where the record is kept."""

    def checkpoint(self, name: str) -> Path:
        """A checkpoint of the record, for a process that did not take over."""
        return self.folder / CHECKPOINTS / name

    def weights(self, file: str) -> str:
        """A file of weights that another run handed on, as it is found here."""
        return file


class Copy(Place):
    """A copy of the record, pushed to where it is kept.

    Attributes:
        took_over: whether this process writes the record.
    """

    def __init__(self, folder: Path, remote: Remote, owner: str) -> None:
        super().__init__(folder)
        self.remote = remote
        self._mark = Mark(remote, owner)
        self._pushed: dict[str, tuple[int, int] | None] = {}
        self.took_over = False

    def take_over(self, states: bool = True) -> None:
        """Keeps others from pushing the record, and fetches it.

        Raises:
            Away: the store cannot be reached.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._mark.leave()
        left = patiently(lambda: bring(self.remote, self.folder, states))
        self._pushed = self._marks()
        if states:  # what is left of a checkpoint that was never whole goes with the next push
            self._pushed |= dict.fromkeys(left)
        self.took_over = True

    def is_of_others(self) -> bool:
        """Raises:
        Away: the store cannot be reached.
        """
        return self._mark.is_of_others()

    def push(self) -> None:
        """Brings what has changed; what a reader relies on comes last.

        Raises:
            Away: the store cannot be reached; what is missing is brought by the next push.
            TakenOver: another command has the record now.
        """
        here = self._marks()
        for name in sorted(here, key=lambda name: (name == RESULT, name.endswith(CHECKSUM), name)):
            if self._pushed.get(name) != here[name]:
                self._mark.check()
                self.remote.put(name, self.folder / name)
                self._pushed[name] = here[name]
        for name in sorted({_highest_gone(name, here) for name in self._pushed.keys() - here.keys()}):
            self._mark.check()
            self.remote.remove(name)
        self._pushed = here

    def checkpoint(self, name: str) -> Path:
        """Fetched, where it is not here.

        Raises:
            InputError: the store cannot be reached.
        """
        folder = super().checkpoint(name)
        if not folder.exists():
            with refusing(self.remote.uri):
                patiently(lambda: bring(self.remote, self.folder, states=True))
        return folder

    def weights(self, file: str) -> str:
        """Fetched from beside the records.

        Raises:
            InputError: it is not there, or the store cannot be reached.
        """
        path = self.folder.parent / Path(file).parent.name / Path(file).name
        there = self.remote.above().above().at(path.parent.name)
        with refusing(there.uri):
            if not patiently(lambda: there.get(path.name, path)):
                raise InputError(f"{there.uri} has no {path.name}")
        return str(path)

    def _marks(self) -> dict[str, tuple[int, int] | None]:
        return {name: mark_of(self.folder / name) for name in kept_in(self.folder)}


def _highest_gone(name: str, here: Iterable[str]) -> str:
    """A file that went, or its folder where all in it did: removed one by one they would leave the folder, empty."""
    folder, slash, _ = name.rpartition("/")
    return folder if slash and not any(other.startswith(f"{folder}/") for other in here) else name


@contextmanager
def at_hand(folder: Path, uri: str | None, owner: str, say: Callable[[str], None]) -> Iterator[Place]:
    """Where a run is trained: its folder, or, where its record is kept in an object store, one that goes with the run.

    What is not there yet of a record that was taken over is brought at the end. One that cannot be brought stays, and
    `say` is told where.

    Raises:
        Away: at a good end, when the store cannot be reached.
        TakenOver: at a good end, when another command has the record now.
    """
    if uri is None:
        yield Place(folder)
        return
    aside = Path(tempfile.mkdtemp(prefix="mergenet-run-"))
    place = Copy(aside / folder.name, Remote(uri), owner)
    try:
        yield place
    except BaseException:
        _push_at_last(place, say)
        raise
    if (problem := _push_at_last(place, say)) is not None:
        raise problem


def _push_at_last(place: Copy, say: Callable[[str], None]) -> Away | TakenOver | None:
    """What kept the record from being brought; its folder goes unless it holds what is nowhere else."""
    try:
        if place.took_over:
            patiently(place.push)
    except Away as error:
        text = f"{place.remote.uri} is away ({error}); the record is whole in {place.folder}"
        say(text)
        return Away(text)
    except TakenOver as error:
        shutil.rmtree(place.folder.parent, ignore_errors=True)
        return error
    shutil.rmtree(place.folder.parent, ignore_errors=True)
    return None


def hand_on(made: Path, file: Path) -> None:
    """Brings a file that is to lie beside the records to where they are kept.

    Args:
        made: where it is now.
        file: where it is to be.

    Raises:
        Away: the store cannot be reached.
    """
    uri = copied_from(file.parent)
    if uri is not None:
        patiently(lambda: Remote(uri).put(file.name, made))
