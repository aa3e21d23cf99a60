"""What a check found."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["good", "bad", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it where it is bad."""

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""


def good(text: str) -> Finding:
    """As it should be."""
    return Finding("", "good", text)


def bad(text: str, remedy: str = "") -> Finding:
    """Not as it should be; without a remedy of its own the check's usual one holds."""
    return Finding("", "bad", text, remedy)


def skipped(text: str) -> Finding:
    """Not looked at, because nothing was said of it or there is nothing to compare."""
    return Finding("", "skipped", text)
