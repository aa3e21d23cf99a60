"""Scripts and entry points of `cluster/`, run with stand-ins for `srun`, `ray`, `sudo`: what they would have called."""

import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from subprocess import list2cmdline
from typing import Any

import pytest

from tests.ready import CLUSTER, check_mergenet, load

Said = list[list[str]]
"""Calls of stand-ins, in order."""

RECORD = 'said=$(printf "%s\\037" "${0##*/}" "$@" | tr "\\n" "\\036"); echo "$said" >>"$CALLS"\n'
"""One line a call, its words apart by a character that is in none of them."""

LISTEN = "import socket, sys, time; s = socket.create_server((sys.argv[1], int(sys.argv[2]))); time.sleep(60)"

STANDINS = {
    "hostname": 'echo "127.0.0.1 10.9.9.9"',
    "ip": 'echo "3: ib0    inet 127.0.0.2/24 brd 127.0.0.255 scope global ib0"',
    # waits for the nodes, as what it is given to run does
    "python": """
        cat >/dev/null
        until (($(cat "$PIDS" 2>/dev/null | wc -l) == TASKS)); do sleep 0.02; done
        exit "${JOINED:-0}" """,
    "sleep": '[[ $1 != 1 ]] || exec /bin/sleep 0.05; exec /bin/sleep "$@"',
    "sudo": "",
    "mountpoint": "exit 1",
    "mergenet": """
        token=$RAY_AUTH_TOKEN_PATH
        echo "$RAY_ADDRESS $RAY_AUTH_MODE $(stat -c %a "$token") $(wc -c <"$token") ${RAY_AUTH_TOKEN-none}" >>"$SEEN"
        [[ $1 != cluster ]] || exit "${PREFLIGHT:-0}"
        [[ -z ${SLOW:-} ]] || exec sleep 60
        exit "${TRAINED:-0}" """,
    "scancel": 'kill -TERM "$(cat "$STEP")"',
    # starts a step as Slurm does: a task a node, all processes of which are ended with it
    "srun": """
        echo $$ >"$STEP"
        while [[ $1 == -* ]]; do shift; done
        tasks=()
        trap 'for task in "${tasks[@]}"; do kill -TERM -- "-$task" 2>/dev/null; done; wait; exit 143' TERM
        for ((i = 0; i < ${TASKS:-1}; i++)); do SLURM_PROCID=$i setsid "$@" & tasks+=($!); done
        code=0; for task in "${tasks[@]}"; do wait "$task" || code=$?; done; exit $code""",
    "ray": """
        case $1 in
          symmetric-run)
            [[ -z ${DEAD:-} ]] || exit 0
            while [[ $1 != -- ]]; do shift; done; shift; exec "$@" ;;
          start)
            echo $$ >>"$PIDS"; mkdir -p "$TEMP"
            [[ $2 == --head ]] || exec sleep 60
            exec PYTHON -ISc "$LISTEN" "${3#*=}" "$PORT" ;;
        esac""",
}


@dataclass
class Run:
    """How a script ended, and what it called."""

    code: int
    said: str
    calls: Said
    seen: list[str]

    def of(self, name: str) -> Said:
        return [call[1:] for call in self.calls if call[0] == name]


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Starts a command where all that it could call but the shell's own is a stand-in."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, body in STANDINS.items():
        file = binaries / name
        file.write_text("#!/bin/bash\n" + RECORD + body.replace("PYTHON", sys.executable))
        file.chmod(0o755)
    (tmp_path / "home" / ".ray").mkdir(parents=True)

    def start(*command: str | Path, **environment: str) -> "subprocess.Popen[str]":
        there = {
            "PATH": f"{binaries}:/usr/bin:/bin",
            "HOME": str(tmp_path / "home"),
            "USER": "someone",
            "LISTEN": LISTEN,
            **{name: str(tmp_path / name.lower()) for name in ("CALLS", "SEEN", "PIDS", "STEP")},
        }
        return subprocess.Popen(
            [*map(str, command)],
            env=there | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            start_new_session=True,
        )

    return start


@pytest.fixture
def call(begin: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> Callable[..., Run]:
    """Runs a command to its end."""

    def run(*command: str | Path, **environment: str) -> Run:
        process = begin(*command, **environment)
        said, _ = process.communicate(timeout=60)
        return Run(process.returncode, said, calls(tmp_path), lines(tmp_path / "seen"))

    return run


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def calls(folder: Path) -> Said:
    return [line.replace("\036", "\n").split("\037")[:-1] for line in lines(folder / "calls")]


# --- Slurm -------------------------------------------------------------------------------------------------------

EXCLUSIVE, SHARED = CLUSTER / "slurm" / "exclusive.sbatch", CLUSTER / "slurm" / "shared.sbatch"
BOTH = pytest.mark.parametrize("script", [EXCLUSIVE, SHARED], ids=lambda path: path.stem)
TRAIN = ["train", "digits-cross-structure", "--workers", "2"]
JOBS = count(987_000 + os.getpid() % 1000 * 2)  # tests may run side by side, and a job's ports are its own


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """What Slurm sets in a job of two nodes."""
    job = str(next(JOBS))
    return {
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "4",
        "MERGENET_RUNS": str(tmp_path / "runs"),
        "TASKS": "2",
        "TEMP": f"/tmp/ray-{job}",
        "PORT": str(20000 + int(job) % 1200 * 10),
    }


def address(script: Path, slurm: dict[str, str], host: str = "127.0.0.1") -> str:
    return f"{host}:{6379 if script == EXCLUSIVE else slurm['PORT']}"


def tasks(script: Path, slurm: dict[str, str]) -> dict[str, str]:
    """Of `symmetric-run` the head's part is the one that matters."""
    return slurm | ({"TASKS": "1"} if script == EXCLUSIVE else {})


def assert_nothing_is_left(folder: Path, slurm: dict[str, str]) -> None:
    for pid in lines(folder / "pids"):
        assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2], pid
    assert not list(Path(slurm["MERGENET_RUNS"]).glob(".slurm-*"))
    assert not Path(slurm["TEMP"]).exists()


@BOTH
def test_preflight_comes_first_then_the_command_in_this_job_s_cluster(
    script: Path, call: Callable[..., Run], slurm: dict[str, str], tmp_path: Path
) -> None:
    run = call("bash", script, *TRAIN, **tasks(script, slurm), RAY_AUTH_TOKEN="another")
    at = address(script, slurm)
    assert run.code == 0, run.said
    assert run.of("mergenet") == [["cluster", "preflight", "--address", at], [*TRAIN, "--continue"]]
    assert run.seen == [f"{at} token 600 64 none"] * 2  # a token of 64 letters that only its owner reads, and no other
    for words in run.of("mergenet"):
        check_mergenet(words)
    assert_nothing_is_left(tmp_path, slurm)


@BOTH
def test_the_interface_that_is_named_is_the_head_s(
    script: Path, call: Callable[..., Run], slurm: dict[str, str]
) -> None:
    run = call("bash", script, *TRAIN, **tasks(script, slurm), GLOO_SOCKET_IFNAME="ib0", PREFLIGHT="1")
    assert run.of("ip") == [["-4", "-o", "address", "show", "dev", "ib0"]]
    assert run.of("mergenet")[0][-1] == address(script, slurm, "127.0.0.2")


@BOTH
def test_a_bad_preflight_stops_the_job(
    script: Path, call: Callable[..., Run], slurm: dict[str, str], tmp_path: Path
) -> None:
    run = call("bash", script, *TRAIN, **tasks(script, slurm), PREFLIGHT="1")
    assert run.code == 1 and len(run.of("mergenet")) == 1
    assert_nothing_is_left(tmp_path, slurm)


@BOTH
def test_the_code_is_the_command_s(
    script: Path, call: Callable[..., Run], slurm: dict[str, str], tmp_path: Path
) -> None:
    assert call("bash", script, *TRAIN, **tasks(script, slurm), TRAINED="3").code == 3
    assert_nothing_is_left(tmp_path, slurm)


@BOTH
def test_who_says_too_little_is_told(script: Path, call: Callable[..., Run], slurm: dict[str, str]) -> None:
    nothing = call("bash", script, **slurm)
    assert (nothing.code, nothing.said) == (2, "say what to run: train digits-cross-structure --workers 2\n")
    nowhere = call("bash", script, *TRAIN, **{name: value for name, value in slurm.items() if name != "MERGENET_RUNS"})
    assert nowhere.code == 1 and "MERGENET_RUNS: set it to a folder that all nodes mount" in nowhere.said
    assert nothing.calls == nowhere.calls == []


@BOTH
@pytest.mark.parametrize("words", [["sweep", "digits-pairing", "--trials", "4"], ["ablate", "table8", "--seeds", "2"]])
def test_what_is_started_again_goes_on(
    script: Path, words: list[str], call: Callable[..., Run], slurm: dict[str, str]
) -> None:
    run = call("bash", script, *words, **tasks(script, slurm))
    assert run.of("mergenet")[1] == [*words, "--continue"]
    check_mergenet(run.of("mergenet")[1])


def test_whole_machines_are_joined_by_symmetric_run(call: Callable[..., Run], slurm: dict[str, str]) -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    run = call("bash", EXCLUSIVE, *TRAIN, **tasks(EXCLUSIVE, slurm))
    (srun,), (ray,) = run.of("srun"), run.of("ray")
    assert srun[:3] == ["--kill-on-bad-exit=1", "--cpus-per-task=8", "ray"] and srun[3:] == ray
    own = ray[1 : ray.index("--")]
    assert own[:4] == ["--address", "127.0.0.1:6379", "--min-nodes", "2"]
    started = curate_and_validate_ray_start_args(own)
    for role in (["--head", "--port=6379"], ["--address=127.0.0.1:6379", "--block"]):
        context = start.make_context("start", [*role, *started])
        assert (context.params["num_cpus"], context.params["dashboard_host"]) == (8, "127.0.0.1")


def test_ray_that_did_not_start_is_no_success(call: Callable[..., Run], slurm: dict[str, str], tmp_path: Path) -> None:
    """`symmetric-run` itself ends with 0."""
    run = call("bash", EXCLUSIVE, *TRAIN, **tasks(EXCLUSIVE, slurm), DEAD="1")
    assert run.code == 1 and "Ray did not start, so nothing ran" in run.said
    assert_nothing_is_left(tmp_path, slurm)


def test_a_share_has_ports_and_folders_of_its_own(call: Callable[..., Run], slurm: dict[str, str]) -> None:
    from ray.scripts.scripts import start

    run = call("bash", SHARED, *TRAIN, **slurm, SLURM_GPUS_ON_NODE="1")
    worker, head = (start.make_context("start", words[1:]).params for words in sorted(run.of("ray")))
    assert head["head"] and not worker["head"]  # sorted, --address comes before --head
    port = int(slurm["PORT"])
    assert (head["node_ip_address"], head["port"], head["dashboard_host"]) == ("127.0.0.1", port, "127.0.0.1")
    assert worker["address"] == f"127.0.0.1:{port}"
    ports = [head["dashboard_port"], head["ray_client_server_port"]]
    for one in (head, worker):
        own = [one[name] for name in ("dashboard_agent_listen_port", "dashboard_agent_grpc_port")]
        own += [one["metrics_export_port"], one["runtime_env_agent_port"]]
        assert sorted(ports + own) == list(range(port + 1, port + 7))
        assert (one["num_cpus"], one["num_gpus"], one["min_worker_port"], one["max_worker_port"]) == (4, 1, 0, 0)
        assert one["temp_dir"] == f"/tmp/ray-{slurm['SLURM_JOB_ID']}" and one["block"]


def test_the_ports_of_all_jobs_are_below_those_that_the_system_hands_out() -> None:
    text = SHARED.read_text()
    assert "port=$((20000 + SLURM_JOB_ID % 1200 * 10))" in text and 20000 + 1199 * 10 + 9 < 32768


def test_nodes_that_do_not_join_end_the_job(call: Callable[..., Run], slurm: dict[str, str], tmp_path: Path) -> None:
    run = call("bash", SHARED, *TRAIN, **slurm, JOINED="124")
    assert run.code == 1 and "not all nodes have joined within 300 s" in run.said and not run.of("mergenet")
    assert run.of("python") == [["-", "2"]]
    assert_nothing_is_left(tmp_path, slurm)


def test_what_waits_for_the_nodes_is_python() -> None:
    begin = SHARED.read_text().index("<<'PYTHON'")
    program = SHARED.read_text()[begin:].split("\n", 1)[1].split("\nPYTHON")[0]
    compile(program, "shared.sbatch", "exec")


@BOTH
def test_a_cancelled_job_leaves_no_ray_behind(
    script: Path, begin: Callable[..., "subprocess.Popen[str]"], slurm: dict[str, str], tmp_path: Path
) -> None:
    process = begin("bash", script, *TRAIN, **tasks(script, slurm), SLOW="1")
    end = time.monotonic() + 60
    while len([call for call in calls(tmp_path) if call[0] == "mergenet"]) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # as scancel: the script and its children
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert_nothing_is_left(tmp_path, slurm)


def test_the_two_scripts_say_alike_what_they_share() -> None:
    """Slurm runs a copy of one file, so neither can read a third."""
    of_both = []
    for script in (EXCLUSIVE, SHARED):
        text = script.read_text()
        begin = text[text.index("set -euo") : text.index("export RAY_ADDRESS=")].split("\nport=")[0].strip()
        token = text[text.index("(umask") : text.index("RAY_AUTH_TOKEN_PATH=")]
        of_both.append((begin, token))
    assert of_both[0] == of_both[1]


# --- KubeRay's entry points --------------------------------------------------------------------------------------

JOB_FILES = sorted((CLUSTER / "kuberay").glob("rayjob-*.yaml"))


def entered(path: Path, folder: Path, begin: Any, **environment: str) -> tuple[int, Said]:
    """Passes an entry point on as KubeRay does: through the shell of the pod that submits it, and then of the head."""
    entrypoint = load(path)[0]["spec"]["entrypoint"].strip()
    submit = f"ray job submit --address http://127.0.0.1:8265 --no-wait --submission-id one -- {entrypoint} ;"
    begin("bash", "-e", "-c", submit).communicate(timeout=60)
    (words,) = (call for call in calls(folder) if call[0] == "ray")
    (folder / "calls").unlink()
    (folder / "token").touch()
    there = {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    process = begin("sh", "-c", list2cmdline(words[words.index("--") + 1 :]), **there, **environment)
    process.communicate(timeout=60)
    return process.returncode, [call[1:] for call in calls(folder)]


PREFLIGHT = ["cluster", "preflight", "--address", "10.0.0.1:6379", "--workers", "2"]
EXPECTED = {
    "rayjob-train": ["train digits-cross-structure --workers 2 --continue"],
    "rayjob-sweep": ["sweep digits-pairing --continue", "report digits-pairing"],
    "rayjob-table": ["ablate table8 --continue", "report table8"],
}


@pytest.mark.parametrize("path", JOB_FILES, ids=lambda path: path.stem)
def test_a_job_looks_first_then_runs_then_reports(path: Path, begin: Any, tmp_path: Path) -> None:
    code, said = entered(path, tmp_path, begin)
    assert code == 0 and said == [PREFLIGHT, *map(shlex.split, EXPECTED[path.stem])]
    for words in said:
        check_mergenet(words)


@pytest.mark.parametrize("path", JOB_FILES, ids=lambda path: path.stem)
def test_a_job_whose_preflight_is_bad_trains_nothing(path: Path, begin: Any, tmp_path: Path) -> None:
    code, said = entered(path, tmp_path, begin, PREFLIGHT="1")
    assert code == 1 and said == [PREFLIGHT]


@pytest.mark.parametrize("path", JOB_FILES, ids=lambda path: path.stem)
def test_a_job_that_fails_says_so(path: Path, begin: Any, tmp_path: Path) -> None:
    code, said = entered(path, tmp_path, begin, TRAINED="3")
    assert code == 3 and len(said) == 2


# --- machines of `ray up` ----------------------------------------------------------------------------------------


def test_a_machine_is_set_up_and_may_be_again(call: Callable[..., Run], tmp_path: Path) -> None:
    home, there = tmp_path / "home", tmp_path / "files"
    (there / "dist").mkdir(parents=True)
    for name in ("setup.sh", "environment.sh"):
        (there / name).write_text((CLUSTER / "vm" / name).read_text())
    (there / "constraints.txt").touch()
    (there / "dist" / "mergenet-0.1.0-py3-none-any.whl").touch()
    (home / ".ray" / "auth_token").write_text("0" * 64)
    (home / ".bashrc").write_text("case $- in *i*) ;; *) return ;; esac\n")
    for name in ("pip", "python3.11"):
        file = (home / "mergenet" / "bin" if name == "pip" else tmp_path / "bin") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("#!/bin/bash\n" + RECORD)
        file.chmod(0o755)
    for _ in range(2):
        run = call("bash", there / "setup.sh", "10.0.0.9:/export")
        assert run.code == 0, run.said
    assert ["mount", "-t", "nfs4", "-o", "hard", "10.0.0.9:/export", "/mnt/mergenet"] in run.of("sudo")
    wheel = "dist/mergenet-0.1.0-py3-none-any.whl"
    assert run.of("pip")[0] == ["install", "--quiet", "--no-cache-dir", "-c", "constraints.txt", wheel]
    assert stat.S_IMODE((home / ".ray" / "auth_token").stat().st_mode) == 0o600
    assert (home / ".bashrc").read_text().splitlines() == [
        f". {there}/environment.sh",
        "case $- in *i*) ;; *) return ;; esac",
    ]
    show = 'echo "${PATH%%:*} $RAY_AUTH_MODE $MERGENET_RUNS ${RAY_ADDRESS-none}"'
    on_a_worker = call("bash", "-c", f". ~/.bashrc; {show}").said.split()
    assert on_a_worker == [f"{home}/mergenet/bin", "token", "/mnt/mergenet/runs", "none"]
    (home / "ray_bootstrap_config.yaml").touch()  # Ray writes it on the head
    assert call("bash", "-c", f". ~/.bashrc; {show}").said.split()[-1] == "127.0.0.1:6379"
