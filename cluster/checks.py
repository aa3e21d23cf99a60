"""The checks of a cluster: each asks the nodes, and judges what they answer."""

import hashlib
import os
import platform
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cluster.finding import Finding, bad, good, skipped
from cluster.nodes import Answers, Failed, Node, ask, in_one_line

ASK_S = 30.0
READ_S = 600.0

START = "start it (`ray start --head`), or open the port; the command runs on a machine of the cluster"
JOIN = "run the command on a machine of the cluster, with its versions and its token (RAY_AUTH_TOKEN)"
INSTALL = "install the same on all nodes: `pip install -c constraints.txt -e .`, or one image for all"
DASHBOARD = "`pip install 'ray[default]'` and `ray start --head --dashboard-host=HEAD-ADDRESS`; open its port, 8265"
ONE_RAY = (
    "one Ray a machine: end the other one, or ask the scheduler for whole machines (Slurm: --exclusive); where "
    "machines are shared, start Ray with the --num-cpus of its share"
)
TOKEN = "`ray get-auth-token --generate`, copy it to all nodes, start Ray on each with RAY_AUTH_MODE=token"
SHARE = (
    "name a folder that all nodes mount and may write (NFS, EFS, ...), or s3://BUCKET/FOLDER with its key on each node"
)
COPY = "copy the folder to every node, or name one that all nodes mount"


def network(device: str) -> str:
    """What to do where workers do not reach each other."""
    name = "NCCL" if device == "cuda" else "GLOO"
    return (
        f"let the firewall pass TCP between all nodes, on any port; name the interface that joins them on every node: "
        f"{name}_SOCKET_IFNAME=eth0 (`ip address` lists them)"
    )


def counted(number: int, what: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _listed(wrong: Mapping[Node, object]) -> str:
    """`NODE: WHY; NODE, NODE: WHY`."""
    nodes: dict[str, list[str]] = {}
    for node, why in wrong.items():
        nodes.setdefault(str(why), []).append(str(node))
    return "; ".join(f"{', '.join(of)}: {why}" for why, of in nodes.items())


def _failed(answers: Answers[object]) -> dict[Node, Failed]:
    return {node: answer for node, answer in answers.items() if isinstance(answer, Failed)}


# --- versions ----------------------------------------------------------------------------------------------------

PACKAGES = ("ray", "torch", "numpy", "pyarrow", "mergenet")
Versions = Mapping[str, str]


def versions(nodes: list[Node]) -> Finding:
    """Whether all nodes run what runs here."""
    look = version_probe()
    return judge_versions(look(PACKAGES), ask(nodes, look, PACKAGES, seconds=ASK_S))


def version_probe() -> Callable[[tuple[str, ...]], Versions]:
    """A function that travels to a node whole, because it lies in none of the modules that a node may lack."""

    def look(packages: tuple[str, ...]) -> Versions:
        found = {"Python": platform.python_version()}
        for package in packages:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = "missing"
        return {**found, "code": code()}

    def code() -> str:
        """Digest of this package's files: a version number stays while a checkout moves on."""
        spec = find_spec("mergenet")
        if spec is None or spec.origin is None:
            return "missing"
        root = Path(spec.origin).parents[1]
        content = hashlib.sha256()
        for package in ("cluster", "mergenet", "tune"):
            for file in sorted((root / package).rglob("*.py")):
                content.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
        return content.hexdigest()[:8]

    return look


def judge_versions(here: Versions, answers: Answers[Versions]) -> Finding:
    """Bad where a node differs from this process."""
    wrong: dict[Node, object] = {**_failed(answers)}
    for node, there in answers.items():
        if not isinstance(there, Failed):
            differing = [
                f"{name} {there.get(name)}, here {here[name]}" for name in here if there.get(name) != here[name]
            ]
            if differing:
                wrong[node] = ", ".join(differing)
    if wrong:
        return bad(_listed(wrong))
    return good(", ".join(f"{name} {number}" for name, number in here.items()))


# --- the State API -----------------------------------------------------------------------------------------------


def state_api(nodes: list[Node]) -> Finding:
    """Whether every node, on any of which a sweep's trial may be led, can ask what there is in the cluster.

    Without it Ray never frees the place of a stopped trial of several workers, and the sweep waits for ever.
    """
    return judge_state_api({node.identity for node in nodes}, ask(nodes, _listed_nodes, seconds=ASK_S))


def _listed_nodes() -> set[str]:
    import ray
    from ray.util.state import list_nodes

    at = ray.get_runtime_context().gcs_address
    return {node.node_id for node in list_nodes(at, limit=10_000, timeout=int(ASK_S / 2)) if node.state == "ALIVE"}


def judge_state_api(expected: set[str], answers: Answers[set[str]]) -> Finding:
    """Bad where a node has no answer, or one about another cluster."""
    wrong: dict[Node, object] = {**_failed(answers)}
    for node, listed in answers.items():
        if not isinstance(listed, Failed) and not expected <= listed:
            wrong[node] = "it answers for another cluster"
    return bad(_listed(wrong)) if wrong else good(f"answers on {counted(len(answers), 'node')}")


# --- one Ray a machine -------------------------------------------------------------------------------------------


class Host(NamedTuple):
    """What tells machines apart, the clusters whose node runs on this one, and whether ours counts on all of it."""

    name: str
    boot: str
    clusters: tuple[str, ...]
    whole: bool = True


def hosts(nodes: list[Node], one_machine: bool) -> Finding:
    """Whether each node has a machine of its own, without a second Ray."""
    return judge_hosts(ask(nodes, _host, seconds=ASK_S), one_machine)


def _host() -> Host:
    import ray

    boot = Path("/proc/sys/kernel/random/boot_id")
    own = ray.get_runtime_context().get_node_id()
    (counted_on,) = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == own]
    name, booted = platform.node(), boot.read_text().strip() if boot.exists() else ""
    return Host(name, booted, clusters_here(), counted_on >= (os.cpu_count() or 1))


def clusters_here() -> tuple[str, ...]:
    """Addresses of the clusters that have a node on this machine, in this network."""
    import psutil

    words = [
        word
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "raylet" and _network_of(process.pid) in ("", _network_of("self"))
        for word in process.info["cmdline"] or ()
    ]
    return tuple(sorted({word.partition("=")[2] for word in words if word.startswith("--gcs-address=")}))


def _network_of(process: int | str) -> str:
    """The network that a process has: two in one kernel may have their own, as in namespaces and containers."""
    try:
        return str(Path(f"/proc/{process}/ns/net").readlink())
    except OSError:  # no Linux, somebody else's, or it has just ended
        return ""


def judge_hosts(answers: Answers[Host], one_machine: bool) -> Finding:
    """Bad where two Rays share a machine of which ours takes all for its own.

    Args:
        one_machine: two nodes of this cluster may.
    """
    wrong: dict[Node, object] = {**_failed(answers)}
    there = {node: host for node, host in answers.items() if not isinstance(host, Failed)}
    for node, host in there.items():
        if len(host.clusters) > 1 and host.whole:
            wrong[node] = f"{len(host.clusters)} clusters run on it, {', '.join(host.clusters)}"
    if wrong:
        return bad(_listed(wrong))
    shared = [
        f"{host}: {count} nodes of the cluster run on it"
        for (host, _), count in Counter((host.name, host.boot) for host in there.values()).items()
        if count > 1
    ]
    if shared and not one_machine:
        return bad("; ".join(shared), f"{ONE_RAY}; a cluster simulated so on purpose: --one-machine")
    if any(len(host.clusters) > 1 for host in there.values()):
        machines = counted(len(there), "machine")
        return good(f"{machines}, of which other clusters have a share too")
    return good("one machine, as asked" if shared else f"one Ray on {counted(len(there), 'machine')}")


# --- who may come in ---------------------------------------------------------------------------------------------


def token(nodes: list[Node], own: bool) -> Finding:
    """Whether the cluster turns away who brings no token, if others can reach it.

    Args:
        own: it is this process's own, gone when the command ends.
    """
    try:
        asked = _asks_for_token()
    except OSError as error:
        return bad(f"cannot be told without the State API: {in_one_line(error)}", DASHBOARD)
    return judge_token(asked, [node.address for node in nodes], own)


def _asks_for_token() -> bool:
    """Tried out by coming without one; what the head asks for, every node does."""
    import ray
    from ray.dashboard.utils import get_address_for_submission_client

    url = get_address_for_submission_client(ray.get_runtime_context().gcs_address)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy may refuse in the cluster's place
    try:
        with direct.open(f"{url}/api/v0/nodes?limit=1", timeout=10.0):
            return False
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return True
        raise


def judge_token(asked: bool, addresses: list[str], own: bool) -> Finding:
    """Bad where anybody on the network may run what they like on the nodes."""
    if asked:
        return good("the cluster asks for one")
    if own:
        return skipped(f"this command's own Ray asks for none (RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', '')})")
    reached = [address for address in addresses if not ip_address(address).is_loopback]
    if reached:
        return bad(f"none asked: whoever reaches {', '.join(reached)} runs anything there")
    return good("none asked, on loopback alone")


# --- data --------------------------------------------------------------------------------------------------------


def data(nodes: list[Node], name: str, path: str) -> Finding:
    """Whether every node reads the same images."""
    return judge_data(name, ask(nodes, _digest, name, str(Path(path).absolute()), seconds=READ_S))


def _digest(name: str, path: str) -> str:
    from mergenet.data import load_data

    return load_data({name}, {name: path})[name].digest()


def judge_data(name: str, answers: Answers[str]) -> Finding:
    """Bad where a node has none, or others than most have."""
    failed = _failed(answers)
    if failed:
        return bad(f"{name}: {_listed(failed)}")
    digests = Counter(str(answer) for answer in answers.values())
    most, _ = digests.most_common(1)[0]
    others = {node: f"digest {str(answer)[:8]}" for node, answer in answers.items() if answer != most}
    if others:
        return bad(f"{name}: {_listed(others)}; digest {most[:8]} on {counted(digests[most], 'node')}")
    return good(f"{name}: digest {most[:8]} on {counted(len(answers), 'node')}")
