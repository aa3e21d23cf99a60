"""Machines in one: namespaces of Linux joined by a switch of their own, which share one folder and nothing else.

Each has its own network, without a way out, its own hostname, processes and temporary folder; all else is read only.
Nothing of them outlives this process, however that ends: the namespaces are nobody's but their first processes',
which wait for the end of a pipe that is held here, and the kernel takes down what is left when these go.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import psutil

from tests.store import environment

NETWORK = "10.99.0"
PORT, STORE_PORT = 6379, 9000
STORE = 8
"""The number of the host that the others ask for an object store."""
INTERFACE = "eth0"
CODE = Path(__file__).parents[1]

SWITCH = "ip link add switch type bridge && ip link set switch up && echo up && read -r"
"""Bash's `read` waits for the end of its input, and meanwhile bash buries the processes that nobody else does."""

HOST = """
set -e
hostname {name}
mount --bind {shared} {shared}
mount -t tmpfs {name} /mnt
{kept}
mount --move /mnt /tmp
mount -t tmpfs {name} /dev/shm
mount -o remount,bind,ro /
ip link set lo up
echo up
read -r
"""

ENVIRONMENT = {
    "HOME": "/tmp",
    "PYTHONPATH": str(CODE),
    "OMP_WAIT_POLICY": "PASSIVE",
    "GLOO_SOCKET_IFNAME": INTERFACE,
    "MERGENET_MLFLOW": "off",
    **environment(f"{NETWORK}.{STORE}", STORE_PORT),
    "RAY_AUTH_MODE": "disabled",  # nothing comes in from outside
    "RAY_USAGE_STATS_ENABLED": "0",
    # the head notices in seconds that a node is gone
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    # and a node that the head is, for else its workers would live and hold their record for minutes
    "RAY_grpc_client_keepalive_time_ms": "1000",
    "RAY_grpc_client_keepalive_timeout_ms": "1000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}


@cache
def lacking() -> str | None:
    """What this machine lacks for hosts; None where it has all."""
    if sys.platform != "linux":
        return "namespaces are Linux's"
    if missing := [tool for tool in ("ip", "unshare", "nsenter", "setpriv") if shutil.which(tool) is None]:
        return f"{', '.join(missing)} not installed"
    whole = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "probe", "/mnt"]
    probe = subprocess.run(whole, capture_output=True, text=True, timeout=30)
    if probe.returncode:
        return f"namespaces cannot be made: {probe.stderr.strip()}; root with CAP_SYS_ADMIN can"
    return None


@dataclass(frozen=True)
class Host:
    """A machine.

    Attributes:
        first: its first process, with which all others end.
        switch: what it is plugged into.
    """

    name: str
    address: str
    first: psutil.Process
    switch: psutil.Process

    def begin(
        self, *words: str, folder: Path = CODE, output: int | IO[str] = subprocess.PIPE
    ) -> "subprocess.Popen[str]":
        """Starts a command there; what is returned may be killed, and the command with it."""
        into = [*_into(self.first, "--net", "--uts", "--mount", "--pid"), f"--wd={folder}"]
        return subprocess.Popen(
            [*into, "setpriv", "--pdeathsig", "KILL", "--", *words],
            env={"PATH": os.environ["PATH"], **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ray(self, *words: str) -> "subprocess.Popen[str]":
        """Starts a node of Ray there; the command ends when it is up."""
        own = ["--node-ip-address", self.address, "--object-store-memory", "100000000"]
        return self.begin(str(Path(sys.executable).with_name("ray")), "start", *words, *own)

    def cut(self) -> None:
        """Pulls its cable: nothing comes or goes, and nobody is told."""
        _ip(self.switch, f"link set {self.name} down")

    def mend(self) -> None:
        """Plugs the cable in again."""
        _ip(self.switch, f"link set {self.name} up")

    def kill(self) -> None:
        """Ends all of its processes at once; it is gone with them."""
        self.first.kill()
        psutil.wait_procs([self.first], timeout=30)


class Hosts:
    """What plugs in hosts; they share `folder`, which lies at the same path on each."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._switch = self._start(["unshare", "--net"], SWITCH)

    def plug_in(self, number: int) -> Host:
        """A new host."""
        name, address = f"host{number}", f"{NETWORK}.{number}"
        script = HOST.format(name=name, shared=shlex.quote(str(self.folder)), kept=_kept(self.folder))
        apart = ["unshare", "--net", "--uts", "--mount", "--mount-proc", "--pid", "--fork", "--kill-child"]
        first = self._start(apart, script).children()[0]
        _ip(self._switch, f"link add {name} type veth peer name {INTERFACE} netns {first.pid}")
        _ip(self._switch, f"link set {name} master switch up")
        _ip(first, f"address add {address}/24 dev {INTERFACE}")
        _ip(first, f"link set {INTERFACE} up")
        return Host(name, address, first, self._switch)

    def _start(self, apart: Sequence[str], script: str) -> psutil.Process:
        """The first process of new namespaces, once it is ready."""
        process = self._stack.enter_context(
            subprocess.Popen([*apart, "bash", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        self._stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n", "the namespaces are not as they should be"
        return psutil.Process(process.pid)


def _kept(folder: Path) -> str:
    """Commands that keep what is needed of the machine's temporary folder in the host's own."""
    options = {folder: "bind", CODE: "bind,ro", Path(sys.prefix): "bind,ro"}
    places = {path: shlex.quote(f"/mnt/{path.relative_to('/tmp')}") for path in options if path.is_relative_to("/tmp")}
    return "\n".join(
        f"mkdir -p {place} && mount -o {options[path]} {shlex.quote(str(path))} {place}"
        for path, place in places.items()
    )


@contextmanager
def hosts(folder: Path) -> Iterator[Hosts]:
    """Hosts that share `folder`, ended after it by their ids."""
    with ExitStack() as stack:
        yield Hosts(folder, stack)


def head_on(host: Host) -> str:
    """Starts a cluster with its head there, which takes no work; its address."""
    _done(host.ray("--head", "--port", str(PORT), "--num-cpus", "0", "--include-dashboard", "true"))
    return f"{host.address}:{PORT}"


def join(address: str, those: Iterable[Host]) -> None:
    """Makes them nodes of the cluster, of one processor each."""
    for starting in [host.ray("--address", address, "--num-cpus", "1") for host in those]:
        _done(starting)


def _done(process: "subprocess.Popen[str]") -> None:
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0, said


def _ip(of: psutil.Process, words: str) -> None:
    subprocess.run([*_into(of, "--net"), "ip", *words.split()], check=True, timeout=30)


def _into(of: psutil.Process, *kinds: str) -> list[str]:
    return ["nsenter", f"--target={of.pid}", *kinds]
