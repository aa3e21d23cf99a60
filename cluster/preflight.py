"""What is broken in a cluster, found before it costs money: a list of checks, each of which ends.

A check looks at one thing and says what it found. One that raises has found something bad, and so has one
that does not end in its time: whatever hangs there would hang a run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from threading import Thread
from typing import Literal

from cluster import checks
from cluster.allreduce import all_reduce
from cluster.finding import Finding, bad, good
from cluster.nodes import alive, in_one_line
from cluster.session import NotJoined, host_and_port, resolve, session
from cluster.storage import storage_shared


@dataclass(frozen=True)
class Check:
    """One thing to look at.

    Args:
        look: says what it found; without its name, and without a remedy where it is the usual one.
        remedy: what to do about it, unless `look` knows better.
        seconds: after which it is given up.
    """

    name: str
    look: Callable[[], Finding]
    remedy: str
    seconds: float


@dataclass(frozen=True)
class Wanted:
    """What a run would need of the cluster.

    Args:
        address: HOST:PORT of the cluster; None for a Ray of this process's own.
        data: name -> folder.
        storage: a folder or a URI that pyarrow reads.
        workers: that share a batch; None for one a node, and two at least.
        device: cpu, cuda, or auto: cuda where the cluster has a GPU.
        one_machine: several nodes on one machine are meant so.
    """

    address: str | None
    data: Mapping[str, str]
    storage: str
    workers: int | None
    device: Literal["auto", "cpu", "cuda"]
    one_machine: bool = False


def preflight(wanted: Wanted, before: Sequence[Check] = ()) -> Iterator[Finding]:
    """Each finding as soon as it is there; none after a cluster that cannot be joined.

    Args:
        before: checks that need no Ray.

    Raises:
        InputError: an address that is none.
    """
    if wanted.address is not None:
        host_and_port(wanted.address)
    for check in before:
        yield carry_out(check)
    with ExitStack() as stack:
        joined = _joined(wanted.address, stack)
        yield joined
        if joined.verdict == "good":
            for check in checks_of(wanted):
                yield carry_out(check)


def carry_out(check: Check) -> Finding:
    """What a check found; one that raises or does not end found something bad."""
    found: list[Finding] = []
    # A thread that hangs is left behind: it is a daemon, and ends with the command.
    looking = Thread(target=lambda: found.append(_look(check)), daemon=True)
    looking.start()
    looking.join(check.seconds)
    finding = found[0] if found else bad(f"no answer within {check.seconds:g} s")
    remedy = (finding.remedy or check.remedy) if finding.verdict == "bad" else ""
    return replace(finding, name=check.name, remedy=remedy)


def _look(check: Check) -> Finding:
    try:
        return check.look()
    except Exception as error:
        return bad(in_one_line(error))


# --- the cluster -------------------------------------------------------------------------------------------------


def _joined(address: str | None, stack: ExitStack) -> Finding:
    """Joins the cluster, or starts one, for as long as `stack` lasts."""
    try:
        stack.enter_context(session(dashboard=True, address=address))
    except NotJoined as error:
        return Finding("Ray", "bad", str(error), checks.JOIN if error.answers else checks.START)
    except Exception as error:
        return Finding("Ray", "bad", in_one_line(error), checks.JOIN)
    nodes = alive()
    where = "started on this machine" if address is None else f"joined at {address}"
    return replace(good(f"{where}: {checks.counted(len(nodes), 'node')}, {_resources()}"), name="Ray")


def _resources() -> str:
    import ray

    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    return checks.counted(int(there.get("CPU", 0)), "processor") + (f", {checks.counted(gpus, 'GPU')}" if gpus else "")


def checks_of(wanted: Wanted) -> Iterator[Check]:
    """Of the cluster that has been joined, in the order in which one needs the other."""
    nodes = alive()
    device = resolve(wanted.device)
    yield Check("versions", partial(checks.versions, nodes), checks.INSTALL, 90.0)
    yield Check("State API", partial(checks.state_api, nodes), checks.DASHBOARD, 60.0)
    yield Check("hosts", partial(checks.hosts, nodes, wanted.one_machine), checks.ONE_RAY, 60.0)
    yield Check("token", partial(checks.token, nodes, wanted.address is None), checks.TOKEN, 30.0)
    yield Check("storage", partial(storage_shared, nodes, wanted.storage), checks.SHARE, 120.0)
    for name, path in wanted.data.items():
        yield Check("data", partial(checks.data, nodes, name, path), checks.COPY, 660.0)
    together = partial(all_reduce, len(nodes), wanted.workers, device)
    yield Check("all-reduce", together, checks.network(device), 240.0)
