"""A cluster is looked at before a run is given to it: what would spoil the run is said at once, in one line."""

from collections.abc import Mapping
from pathlib import Path

from cluster.nodes import alive
from cluster.preflight import Wanted, carry_out, checks_of
from mergenet.config import InputError
from mergenet.training.files import copied_from


def check_cluster(runs: Path, data: Mapping[str, str], trainers: bool = False) -> None:
    """Whether every node runs this code, writes and reads in `runs`, and reads the same data.

    One node is trusted in all of these.

    Args:
        runs: folder of all records.
        data: name -> folder.
        trainers: whether runs of several workers are started and stopped by others.

    Raises:
        InputError: the first thing that is not as it should be, and what to do about it.
    """
    needed = {"versions", "storage", "data"} if len(alive()) > 1 else set()
    needed |= {"State API"} if trainers else set()
    if not needed:
        return
    for check in checks_of(Wanted(None, data, copied_from(runs) or str(runs), None, "auto")):
        if check.name in needed:
            found = carry_out(check)
            if found.verdict == "bad":
                raise InputError(f"the cluster is not fit, {found.name}: {found.text}; {found.remedy}")
