"""The Kubernetes templates: valid for the oldest and newest API, and made for these programs."""

import pathlib
import re

import pytest
import yaml

from experiments.common import console, shards

CLUSTER = pathlib.Path(__file__).parents[2] / "scripts" / "cluster"
FILES = sorted(CLUSTER.glob("*.yaml"))


def resources(file):
    return list(yaml.safe_load_all(file.read_text()))


def job(name):
    (found,) = [one for one in resources(CLUSTER / name) if one["kind"] == "Job"]
    return found["spec"], found["spec"]["template"]["spec"]["containers"][0]["command"]


@pytest.mark.parametrize("version", ["1.29", "latest"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_template_is_valid(file, version):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    number = kubernetes_validate.latest_version() if version == "latest" else version
    for resource in resources(file):
        kubernetes_validate.validate(resource, number, strict=True)


def test_a_misspelled_field_is_not_valid():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    (found,) = resources(CLUSTER / "kubernetes_grid.yaml")
    found["spec"]["template"]["spec"]["containers"][0]["imag"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError, match="imag"):
        kubernetes_validate.validate(found, "1.29", strict=True)


def test_all_pods_share_the_storage():
    (storage,) = resources(CLUSTER / "kubernetes_storage.yaml")
    pods = {
        file.name: resource["spec"].get("template", resource)["spec"]
        for file in FILES
        for resource in resources(file)
        if resource["kind"] in ("Job", "Pod")
    }
    assert len(pods) == 3
    for name, pod in pods.items():
        mounted = {one["name"]: one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
        claims = {one["name"]: one.get("persistentVolumeClaim") for one in pod["volumes"]}
        assert claims["runs"] == {"claimName": storage["metadata"]["name"]}, name
        text = (CLUSTER / name).read_text()
        directories = re.findall(r"(?:--workdir=|initjax-shell:|report )(\S+)", text)
        assert directories and all(path.startswith(f"{mounted['runs']}/") for path in directories)


def test_the_pods_of_a_grid_train_all_of_its_shards():
    spec, command = job("kubernetes_grid.yaml")
    (flag,) = [part for part in command if part.startswith("--shard=")]
    found = {
        shards.parse(flag.removeprefix("--shard=").replace("$(JOB_COMPLETION_INDEX)", str(index)))
        for index in range(spec["completions"])
    }
    assert found == {shards.Shard(index, len(found)) for index in range(spec["completions"])}


def test_the_pods_of_a_run_find_the_first_one():
    spec, command = job("kubernetes_run.yaml")
    (service,) = [r for r in resources(CLUSTER / "kubernetes_run.yaml") if r["kind"] == "Service"]
    (flag,) = [part for part in command if part.startswith("--distributed=")]
    host = rf"{service['spec']['selector']['job-name']}-0\.{service['metadata']['name']}"
    number = spec["completions"]
    assert re.fullmatch(rf"--distributed={host}:\d+,\$\(JOB_COMPLETION_INDEX\)/{number}", flag)
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert spec["parallelism"] == number


@pytest.mark.parametrize(
    ("name", "end"), [("kubernetes_grid.yaml", "FailIndex"), ("kubernetes_run.yaml", "FailJob")]
)
def test_pods_are_replaced_if_that_can_help(name, end):
    rules = job(name)[0]["podFailurePolicy"]["rules"]
    codes = {
        code: rule["action"]
        for rule in rules
        for code in rule.get("onExitCodes", {"values": []})["values"]
    }
    assert codes == {**dict.fromkeys((console.UNFINISHED, 138, 143), "Ignore"), 2: end}
    assert rules[0] == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
