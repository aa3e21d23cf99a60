"""The files that start a cluster: each is what its schema or tool says, and they agree with each other and with us."""

import gzip
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.conftest import REAL
from tests.ready import CLUSTER, FILES, PROJECT, check_mergenet, load, pin, written_commands

SCHEMAS = REAL.parent / "schema"
"""Where KubeRay's schemas lie."""
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))
DOCUMENTS = [(path.name, document) for path in KUBERAY for document in load(path)]
RAY = [(name, document) for name, document in DOCUMENTS if document["apiVersion"] == "ray.io/v1"]
KUEUE = [document for _, document in DOCUMENTS if document["apiVersion"].startswith("kueue")]
CORE = [(name, document) for name, document in DOCUMENTS if "x-k8s.io" not in document["apiVersion"]]
CORE = [(name, document) for name, document in CORE if document["apiVersion"] != "ray.io/v1"]
README = (CLUSTER / "README.md").read_text()


def named(documents: list[tuple[str, Any]]) -> list[Any]:
    return [pytest.param(document, id=f"{name}-{document['kind']}") for name, document in documents]


def nested(value: Any, key: str) -> Iterator[Any]:
    """Each value of `key`, however deep."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from nested(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from nested(inner, key)


def of_kind(*kinds: str) -> list[Any]:
    return [document for _, document in DOCUMENTS if document["kind"] in kinds]


# --- schemas -----------------------------------------------------------------------------------------------------


def strict(schema: Any) -> Any:
    """The same, in which a field that it does not name is an error: Kubernetes drops one without a word."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: strict(one) for name, one in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        inner.setdefault("additionalProperties", False)
    return inner


@pytest.fixture(scope="module")
def kuberay() -> dict[str, Any]:
    """Kind -> KubeRay's schema of its v1, made strict."""
    if not SCHEMAS.is_dir():
        pytest.skip(f"needs KubeRay's schemas in {SCHEMAS}, beside the folder that MERGENET_DATA names")
    # the C loader, where there is one: a schema has 20,000 lines
    import yaml

    found = {}
    for kind, name in (("RayJob", "rayjobs"), ("RayCluster", "rayclusters")):
        text = gzip.decompress((SCHEMAS / f"ray.io_{name}.yaml.gz").read_bytes())
        versions = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
        of_v1 = next(version for version in versions if version["name"] == "v1")["schema"]["openAPIV3Schema"]
        found[kind] = strict(of_v1)
    return found


@pytest.mark.parametrize("document", named(RAY))
def test_a_ray_kind_is_what_kuberay_says(document: Any, kuberay: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(kuberay[document["kind"]]).validate(document)


@pytest.mark.parametrize("document", named(CORE))
def test_a_kind_of_kubernetes_itself_is_what_it_says(document: Any) -> None:
    kubernetes_validate.validate(document, "1.33", strict=True)


def test_kueue_s_kinds_have_its_fields_and_fit_together() -> None:
    """By kueue.x-k8s.io/v1beta2's own reference; there is no package with its schemas."""
    flavor, queue, local = KUEUE
    assert [one["kind"] for one in KUEUE] == ["ResourceFlavor", "ClusterQueue", "LocalQueue"]
    assert {one["apiVersion"] for one in KUEUE} == {"kueue.x-k8s.io/v1beta2"}
    assert set(flavor) == {"apiVersion", "kind", "metadata"}
    assert set(queue["spec"]) == {"namespaceSelector", "resourceGroups"}
    (group,) = queue["spec"]["resourceGroups"]
    assert set(group) == {"coveredResources", "flavors"}
    (of_flavor,) = group["flavors"]
    assert set(of_flavor) == {"name", "resources"} and of_flavor["name"] == flavor["metadata"]["name"]
    assert [one["name"] for one in of_flavor["resources"]] == group["coveredResources"]
    assert all(set(one) == {"name", "nominalQuota"} for one in of_flavor["resources"])
    assert local["spec"] == {"clusterQueue": queue["metadata"]["name"]}
    allowed = queue["spec"]["namespaceSelector"]["matchLabels"]
    assert allowed == {"kubernetes.io/metadata.name": local["metadata"]["namespace"]}


def test_compose_is_what_its_specification_says() -> None:
    schema = json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(load(CLUSTER / "compose.yaml")[0], schema, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("path", sorted((CLUSTER / "vm").glob("*.yaml")), ids=lambda path: path.stem)
def test_ray_up_takes_it(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.scripts.scripts import start

    config = prepare_config(load(path)[0])
    validate_config(config)
    assert config["max_workers"] == 2
    types = config["available_node_types"]
    assert sum(one["min_workers"] for one in types.values()) == 2
    commands = [*config["head_setup_commands"], *config["worker_setup_commands"]]
    assert all("~/files/setup.sh" in command or "~/mergenet/bin/pip" in command for command in commands), commands
    assert config["file_mounts"].pop("~/files/dist") == "dist"  # built first, as the README says
    assert config["file_mounts"].pop("~/.ray/auth_token") == "~/.ray/auth_token"
    assert all((PROJECT / local).is_file() for local in config["file_mounts"].values())
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        for one in command.split(";"):
            words = one.split()
            assert words in (["ray", "stop"], ["ulimit", "-n", "65536"]) or words[:2] == ["ray", "start"]
            if words[1] == "start":
                context = start.make_context("start", words[2:])
                assert context.params["head"] or context.params["address"] == "$RAY_HEAD_IP:6379"


def tool(name: str, *arguments: Path | str) -> str:
    """What a tool of this environment says."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"{name} is missing; make install"
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True)
    return done.stdout + done.stderr + ("" if done.returncode == 0 else f"exit code {done.returncode}")


def test_the_dockerfile_has_nothing_that_hadolint_knows() -> None:
    assert tool("hadolint", CLUSTER / "image" / "Dockerfile") == ""


SCRIPTS = [path for path in FILES if path.suffix in (".sbatch", ".sh")]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_has_nothing_that_shellcheck_knows(path: Path) -> None:
    assert tool("shellcheck", "--shell=bash", path) == ""
    assert subprocess.run(["bash", "-n", path], capture_output=True).returncode == 0


# --- Kubernetes: what schemas do not say -------------------------------------------------------------------------


def cluster_of(document: Any) -> Any:
    return document["spec"]["rayClusterSpec"] if document["kind"] == "RayJob" else document["spec"]


@pytest.mark.parametrize("document", named(RAY))
def test_all_ray_clusters_are_one(document: Any) -> None:
    """Four files stand alone so that one is enough for who wants one; a change of one is a change of all."""
    assert cluster_of(document) == cluster_of(RAY[0][1])
    assert cluster_of(document)["rayVersion"] == pin("ray")
    assert cluster_of(document)["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("document", of_kind("RayJob"), ids=lambda document: document["metadata"]["name"])
def test_a_job_ends_whatever_happens(document: Any) -> None:
    spec = document["spec"]
    assert spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] and spec["activeDeadlineSeconds"]
    assert spec["submissionMode"] == "K8sJobMode" and spec["backoffLimit"] == 1
    assert "suspend" not in spec  # Kueue's to say: without it nobody would wake the job


def pods() -> Iterator[Any]:
    for _, document in DOCUMENTS:
        for spec in nested(document, "spec"):
            if isinstance(spec, dict) and "containers" in spec:
                yield spec


def test_pods_run_as_nobody_special_and_take_what_they_asked_for() -> None:
    found = list(pods())
    assert len(found) == 10
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        declared = {volume["name"] for volume in pod.get("volumes", [])} | {"data"}
        for container in pod["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {mount["name"] for mount in container["volumeMounts"]} <= declared


def test_nothing_is_open_to_the_world_and_nothing_secret_is_written() -> None:
    assert not of_kind("Secret", "Ingress")
    assert not [kind for _, document in DOCUMENTS for kind in nested(document, "serviceType")]
    assert {service["spec"].get("type", "ClusterIP") for service in of_kind("Service")} == {"ClusterIP"}
    for _, document in DOCUMENTS:
        for one in (one for env in nested(document, "env") for one in env):
            secret = re.search("TOKEN|PASSWORD", one["name"])
            assert set(one) == ({"name", "valueFrom"} if secret else {"name", "value"}), one["name"]


def test_secrets_and_claims_are_made_somewhere() -> None:
    asked = {(one["name"], one["key"]) for _, document in DOCUMENTS for one in nested(document, "secretKeyRef")}
    made = re.findall(r"kubectl create secret generic (\S+) --from-file=(\w+)=", README)
    assert asked == set(made)
    claims = {one["claimName"] for _, document in DOCUMENTS for one in nested(document, "persistentVolumeClaim")}
    assert claims == {claim["metadata"]["name"] for claim in of_kind("PersistentVolumeClaim")}
    (shared,) = (claim for claim in of_kind("PersistentVolumeClaim") if claim["metadata"]["name"] == "mergenet")
    assert shared["spec"]["accessModes"] == ["ReadWriteMany"]


def test_who_is_selected_is_there() -> None:
    labels = [workload["spec"]["template"]["metadata"]["labels"] for workload in of_kind("Deployment", "StatefulSet")]
    for service in of_kind("Service"):
        assert service["spec"]["selector"] in labels
    ours = [*labels, {"ray.io/is-ray-node": "yes"}, {"app.kubernetes.io/component": "kuberay-operator"}]  # KubeRay's
    for policy in of_kind("NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        assert all(one in ours for one in nested(policy, "matchLabels"))


def test_mlflow_is_where_runs_look_for_it_and_answers_to_that_name() -> None:
    (server,) = (one for one in of_kind("Deployment") if one["metadata"]["name"] == "mlflow")
    (env,) = nested(server, "env")
    said = {one["name"]: one.get("value") for one in env}
    (uri,) = {one["value"] for env in nested(RAY[0][1], "env") for one in env if one["name"] == "MLFLOW_TRACKING_URI"}
    assert uri.removeprefix("http://") in said["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    ports = {(one["metadata"]["name"], one["spec"]["ports"][0]["port"]) for one in of_kind("Service")}
    assert uri == "http://mlflow:5000" and ports == {("mlflow", 5000), ("postgres", 5432)}
    assert said["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg2://mlflow@postgres:5432/mlflow"


def servers() -> Iterator[tuple[list[str], Any]]:
    """The words after `mlflow server`, and the environment, of each that is started."""
    (container,) = (one for pod in pods() for one in pod["containers"] if one["name"] == "mlflow")
    yield container["command"], {one["name"]: one.get("value") for one in container["env"]}
    service = load(CLUSTER / "compose.yaml")[0]["services"]["mlflow"]
    yield service["command"].split(), service["environment"]


def test_mlflow_takes_its_command_and_knows_its_variables() -> None:
    from mlflow import environment_variables
    from mlflow.cli import server

    known = {str(parameter.envvar) for parameter in server.params} | set(vars(environment_variables))
    for words, environment in servers():
        assert words[:2] == ["mlflow", "server"]
        assert server.make_context("server", words[2:]).params["port"] == 5000
        assert {name for name in environment if name.startswith("MLFLOW_")} <= known
        assert {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION", "PGPASSWORD"} <= set(environment)


GIBIBYTES = {"Gi": 1.0, "Mi": 1 / 1024}


def test_the_queue_is_that_of_the_jobs_and_has_room_for_one() -> None:
    assert {document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] for _, document in RAY} == {
        KUEUE[2]["metadata"]["name"]
    }
    spec, quota = (
        cluster_of(RAY[0][1]),
        {one["name"]: one["nominalQuota"] for one in next(nested(KUEUE[1], "resources"))},
    )
    head = next(nested(spec["headGroupSpec"], "requests"))
    (workers,) = spec["workerGroupSpecs"]
    worker = next(nested(workers, "requests"))
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]
    assert int(head["cpu"]) + workers["replicas"] * int(worker["cpu"]) + 0.5 <= quota["cpu"]  # KubeRay's own pod
    memory = [float(one["memory"][:-2]) * GIBIBYTES[one["memory"][-2:]] for one in (head, worker)]
    assert memory[0] + workers["replicas"] * memory[1] + 0.2 <= float(quota["memory"].removesuffix("Gi"))


# --- Compose and the image ---------------------------------------------------------------------------------------


def test_compose_waits_for_what_it_needs_and_listens_on_this_machine_alone() -> None:
    compose = load(CLUSTER / "compose.yaml")[0]
    services = compose["services"]
    assert set(services) == {"head", "worker", "mlflow", "postgres"} and services["worker"]["deploy"]["replicas"] == 2
    for service in services.values():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"} and "healthcheck" in services[other]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        volumes = {volume.split(":")[0] for volume in service["volumes"]}
        assert {volume for volume in volumes if volume[0] not in "./$"} <= set(compose["volumes"])
        for name, value in service["environment"].items():
            if re.search("TOKEN|PASSWORD", name):
                assert re.fullmatch(r"\$\{(RAY_AUTH_TOKEN|POSTGRES_PASSWORD):\?.+\}", value), name
    assert services["head"]["environment"]["RAY_AUTH_MODE"] == "token"
    assert services["head"]["environment"] == services["worker"]["environment"]
    build = services["head"]["build"]
    assert (CLUSTER / build["context"] / build["dockerfile"]).is_file()


def test_compose_starts_ray_as_ray_may_be_started() -> None:
    from ray.scripts.scripts import start

    services = load(CLUSTER / "compose.yaml")[0]["services"]
    for name in ("head", "worker"):
        ray, begin, *words = services[name]["command"].replace("${WORKER_CPUS:-1}", "1").split()
        context = start.make_context("start", words)
        assert (ray, begin) == ("ray", "start") and context.params["block"]
        assert context.params["head"] == (name == "head")
        assert context.params["address"] in (None, services["head"]["environment"]["RAY_ADDRESS"])


def test_images_are_pinned_and_ours_is_one() -> None:
    compose = load(CLUSTER / "compose.yaml")[0]
    found = {image for _, document in DOCUMENTS for image in nested(document, "image")} | set(nested(compose, "image"))
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert found == {f"ghcr.io/YOUR-ORG/mergenet:{version}", "postgres:17.6-bookworm"}


def instructions() -> list[list[str]]:
    text = re.sub(r"\\\n", " ", (CLUSTER / "image" / "Dockerfile").read_text())
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_the_image_is_of_pinned_things_and_runs_as_a_user() -> None:
    lines = instructions()
    bases = {line[1] for line in lines if line[0] == "FROM"}
    assert len(bases) == 1 and re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", bases.pop())
    assert [line[1] for line in lines if line[0] == "USER"] == ["1000:1000"]
    assert not [line for line in lines if line[0] == "ADD" or "curl" in line]
    installs = [" ".join(line) for line in lines if "pip install" in " ".join(line)]
    assert len(installs) == 2 and all("-c /project/constraints.txt" in line for line in installs)
    ends = [line for line in lines if line[0] in ("USER", "RUN")]
    assert ends[-1][0] == "USER"


def test_the_image_copies_what_is_there_and_sent() -> None:
    ignored = (CLUSTER / "image" / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    copied = {name for line in instructions() if line[0] == "COPY" for name in line[1:-1]}
    assert ignored[1] == "*" and copied == sent
    assert all((PROJECT / name).exists() for name in copied)
    assert not [name for name in ("data", "runs", "results", "tests", ".git", "shared") if name in sent]


def test_the_image_installs_what_the_project_needs() -> None:
    """Its first layer is worked out from pyproject.toml by a line of Python."""
    text = (CLUSTER / "image" / "Dockerfile").read_text().replace("\\\n", "")
    found = re.search(r'python -c "(.+?)" >', text)
    assert found
    line = found[1].replace("/project/", f"{PROJECT}/")
    printed = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert printed.splitlines() == [*project["dependencies"], *project["optional-dependencies"]["postgres"]]
    assert any(one.startswith("ray[default,train,tune]") for one in printed.splitlines())


# --- what is said of them ----------------------------------------------------------------------------------------


def test_the_readme_names_each_file_and_no_other() -> None:
    linked = {target for target in re.findall(r"\]\(([^)#]+)\)", README) if not target.startswith("http")}
    assert all((CLUSTER / target).is_file() for target in linked)
    there = {path.relative_to(CLUSTER).as_posix() for path in FILES} - {"README.md"}
    assert there == {target for target in linked if not target.startswith("..")}
    called = set(re.findall(r"cluster/((?:kuberay|slurm|vm|image)/[\w.*-]+|compose\.yaml)", README))
    assert all(any(fnmatch(name, pattern) for name in there) for pattern in called)
    assert "cluster/README.md" in (PROJECT / "docs" / "cluster.md").read_text()


COMMANDS = [
    pytest.param(words, id=f"{path.name}: {' '.join(words)}")
    for path in FILES
    for words in written_commands(path.read_text())
]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_of_ours_is_one(words: list[str]) -> None:
    check_mergenet(words)


def test_commands_of_ours_are_found() -> None:
    assert len(COMMANDS) > 15


def test_what_is_to_be_filled_in_says_so() -> None:
    for path in FILES:
        text = path.read_text()
        assert not re.search(r"/(work|root)/", text), path
        assert set(re.findall(r"\b(?:sg|ami|fs)-\w+", text)) <= {"sg-YOUR", "ami-YOUR", "fs-YOUR"}, path


def test_the_wheel_has_none_of_these_files_and_no_test() -> None:
    from setuptools import find_packages

    found = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert found["namespaces"] is False
    packages = find_packages(str(PROJECT), include=found["include"])
    assert {name.split(".")[0] for name in packages} == {"mergenet", "tune", "cluster"}
    assert [name for name in packages if name.startswith("cluster")] == ["cluster"]
