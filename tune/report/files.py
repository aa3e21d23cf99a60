"""The files of a report."""

from collections.abc import Mapping
from pathlib import Path

from mergenet.training.files import replacing


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes files by their names into a folder, each aside and renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder / name, content) for name, content in files.items()]


def _write(path: Path, content: bytes) -> Path:
    with replacing(path) as aside:
        aside.write_bytes(content)
    return path
