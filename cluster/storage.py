"""Whether what one node writes, every other reads: a run's record may be written on any of them."""

import secrets
import time
from contextlib import suppress
from pathlib import Path

from cluster.checks import counted
from cluster.finding import Finding, bad, good
from cluster.nodes import Answers, Failed, Node, ask, ask_each
from mergenet.training.remote import Remote

ASK_S = 30.0
SEEN_WITHIN_S = 5.0  # network file systems show what others wrote after a while


def storage_shared(nodes: list[Node], storage: str) -> Finding:
    """Each node writes a file of its own in `storage`, and reads what the first of them wrote; all are removed.

    Args:
        storage: a folder, which is made where it is missing, or the URI of one in an object store.
    """
    place = storage if "://" in storage else str(Path(storage).absolute())
    content = secrets.token_hex(16)
    names = {node: f".mergenet-preflight-{content[:8]}-{index}" for index, node in enumerate(nodes)}
    made: Answers[list[str]] = {}
    try:
        made = ask_each({node: (place, name, content) for node, name in names.items()}, write, seconds=ASK_S)
        read = ask(nodes, is_seen, place, names[nodes[0]], content, SEEN_WITHIN_S, seconds=ASK_S)
    finally:
        removed = ask_each({node: (place, name) for node, name in names.items()}, remove, seconds=ASK_S)
        # not before all files are gone, for nodes that share a folder find it made by one of them
        folders = {node: (of,) for node, of in made.items() if of and not isinstance(of, Failed)}
        ask_each(folders, remove_folders, seconds=ASK_S)
    return judge_storage(storage, made, read, removed)


def judge_storage(storage: str, written: Answers[list[str]], read: Answers[bool], removed: Answers[None]) -> Finding:
    """Bad where a node cannot write, or does not see what the first of them wrote."""
    for what, answers in (("cannot write", written), ("cannot read", read), ("cannot remove", removed)):
        failed = [f"{node} {what}: {answer}" for node, answer in answers.items() if isinstance(answer, Failed)]
        if failed:
            return bad("; ".join(failed))
    first = next(iter(read))
    blind = [str(node) for node, seen in read.items() if not seen]
    if blind:
        return bad(f"{', '.join(blind)} cannot see what {first} wrote in {storage}")
    by = counted(len(read), "node") if len(read) > 1 else "the only node"
    return good(f"{storage}: written, read and removed by {by}")


# --- on a node ---------------------------------------------------------------------------------------------------


def write(place: str, name: str, content: str) -> list[str]:
    """Writes a file; returns the folders that had to be made for it, the innermost first."""
    if "://" in place:
        Remote(place).write(name, content.encode())
        return []
    folder = Path(place)
    made = [str(path) for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)
    return made


def is_seen(place: str, name: str, content: str, seconds: float) -> bool:
    """Whether the file is there with this content, at last after so many seconds."""
    end = time.monotonic() + seconds
    while _content(place, name) != content:
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def _content(place: str, name: str) -> str | None:
    if "://" in place:
        found = Remote(place).read(name)
        return None if found is None else found.decode()
    with suppress(FileNotFoundError):
        return (Path(place) / name).read_text()
    return None


def remove(place: str, name: str) -> None:
    """Removes the file, if it was written."""
    if "://" in place:
        Remote(place).remove(name)
    else:
        (Path(place) / name).unlink(missing_ok=True)


def remove_folders(folders: list[str]) -> None:
    """Removes those that nobody has put anything in since."""
    with suppress(OSError):
        for folder in folders:
            Path(folder).rmdir()
