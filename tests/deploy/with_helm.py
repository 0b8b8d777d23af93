"""What Helm and kustomize make of deploy/, by their own programs, against Kubernetes' schemas.

`make test-deploy` runs it; `make test` does not, since Go builds the programs first, which takes minutes.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.conformance.programs import CACHE, Program, has_go
from tests.deploy import chart, schemas
from tests.support import ROOT

HELM: Final = Program("helm", "helm.sh/helm/v3/cmd/helm", "v3.22.0")
KUBECONFORM: Final = Program("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", "v0.8.0")
KUSTOMIZE: Final = Program("kustomize", "sigs.k8s.io/kustomize/kustomize/v5", "v5.7.1")

KUSTOMIZATIONS: Final = ROOT / "deploy" / "kustomize"
MATRIX: Final = sorted((chart.CHART / "ci").glob("*.yaml"))
IMAGE: Final = ["--set", "image.repository=registry.example/regproxy"]
NAMES: Final = [path.stem.removesuffix("-values") for path in MATRIX]

# `go install` sets no version of Kubernetes that Helm was made for; it would be an old one.
TEMPLATE: Final = ("template", "r", "--kube-version", "1.36.1")

Object = dict[str, Any]
Render = Callable[..., list[Object]]

pytestmark = [
    pytest.mark.skipif(not has_go(), reason="Go is not here: install golang-go or https://go.dev"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="session")
def helm() -> Path:
    return HELM.build(CACHE)


@pytest.fixture(scope="session")
def conforms() -> Callable[[str], str]:
    """Return what kubeconform finds wrong with documents, "" if nothing."""
    program, place = KUBECONFORM.build(CACHE), schemas.make(CACHE)

    def judge(text: str) -> str:
        command: list[str | Path] = [
            program,
            "-strict",
            "-schema-location",
            f"{place}/{schemas.PATTERN}",
            "-summary",
        ]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
        return "" if done.returncode == 0 else done.stdout + done.stderr

    return judge


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="session")
def rendered(helm: Path) -> Callable[..., str]:
    """Return what `helm template` prints for its arguments."""

    def render(*arguments: str | Path) -> str:
        done = run(helm, *TEMPLATE, chart.CHART, "--namespace", "cache", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return render


@pytest.fixture(scope="session")
def objects(rendered: Callable[..., str]) -> Render:
    def render(*arguments: str | Path) -> list[Object]:
        return [found for found in yaml.safe_load_all(rendered(*arguments)) if found]

    return render


def of_kind(found: list[Object], kind: str) -> Object:
    [one] = [item for item in found if item["kind"] == kind]
    return one


def pods(found: list[Object]) -> list[Object]:
    """Return the pods' specs."""
    made = [item["spec"]["template"]["spec"] for item in found if "template" in item.get("spec", {})]
    return made + [item["spec"] for item in found if item["kind"] == "Pod"]


@pytest.mark.parametrize("values", MATRIX, ids=NAMES)
def test_lint(helm: Path, values: Path) -> None:
    done = run(helm, "lint", "--strict", chart.CHART, "--values", values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", MATRIX, ids=NAMES)
def test_objects_are_valid(
    rendered: Callable[..., str], conforms: Callable[[str], str], values: Path
) -> None:
    assert conforms(rendered("--values", values)) == ""


def test_kubeconform_sees_mistakes(rendered: Callable[..., str], conforms: Callable[[str], str]) -> None:
    text = rendered("--values", chart.CHART / "ci" / "everything-values.yaml")
    for right, wrong in (
        ("fsGroup:", "fsGrup:"),
        ("replicas: 3", "replicas: three"),
        ("targetPort: proxy", "targetprt: proxy"),
        ('"expr":', '"exprr":'),
        ("maxUnavailable: 1\n", "maxUnavailabel: 1\n"),
    ):
        assert right in text
        assert conforms(text.replace(right, wrong)), wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "image.repository: name where you have pushed the image"),
        ([*IMAGE, "--set", "replicas=2"], "several have to share a CA"),
        ([*IMAGE, "--set", "replicas=two"], "replicas"),
        ([*IMAGE, "--set", "replica=2"], "replica"),
        ([*IMAGE, "--set", "nodes.enabled=true"], "nodes.proxy: host:port by which nodes reach the proxy"),
        ([*IMAGE, "--set", "nodes.proxy=a.b.svc:3128"], "nodes/proxy"),
        ([*IMAGE, "--set", "cache.maxSize=32Gi"], "cache/maxSize"),
        ([*IMAGE, "--set", "settings.REGISTRIES=ghcr.io"], "set the charts own value registries instead"),
        (
            [*IMAGE, "--set", "ca.existingSecret=a,ca.certManager.enabled=true"],
            "existingSecret or certManager.enabled",
        ),
        ([*IMAGE, "--set", "config.toml=a,config.existingSecret=b"], "toml or existingSecret"),
        ([*IMAGE, "--set", "upstreamCA.configMap=a,upstreamCA.secret=b"], "configMap or secret"),
        (
            [
                *IMAGE,
                *("--set", "replicas=2,ca.existingSecret=a"),
                *("--set", "cache.persistence.existingClaim=c"),
            ],
            "one claim is for one replica",
        ),
    ],
    ids=str,
)
def test_bad_values_are_refused(helm: Path, arguments: list[str], message: str) -> None:
    done = run(helm, *TEMPLATE, chart.CHART, *arguments)
    assert done.returncode != 0
    assert message in done.stderr.replace("'", "").replace("values.", "")


@pytest.mark.parametrize("values", MATRIX, ids=NAMES)
def test_pods_are_hardened(objects: Render, values: Path) -> None:
    """By the restricted pod security standard, but for the DaemonSet, which is root on the nodes."""
    for pod in pods(objects("--values", values)):
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            both = pod.get("securityContext", {}) | context
            assert both["seccompProfile"] == {"type": "RuntimeDefault"}
            if container["name"] != "setup":
                assert (both["runAsNonRoot"], both["runAsUser"], both["fsGroup"]) == (True, 3128, 3128)


@pytest.mark.parametrize("values", MATRIX, ids=NAMES)
def test_selectors_find_the_pods(objects: Render, values: Path) -> None:
    found = objects("--values", values)
    labels = of_kind(found, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    for service in (item for item in found if item["kind"] == "Service"):
        selector = dict(service["spec"]["selector"])
        if pod := selector.pop("statefulset.kubernetes.io/pod-name", ""):
            assert pod == service["metadata"]["name"]
        assert selector.items() <= labels.items()
    others = [item for item in found if item["kind"] in ("DaemonSet", "Pod")]
    for other in others:
        theirs = other["spec"].get("template", other)["metadata"]["labels"]
        assert theirs["app.kubernetes.io/component"] != labels["app.kubernetes.io/component"]
    names = [(item["kind"], item["metadata"]["name"]) for item in found]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("values", MATRIX, ids=NAMES)
def test_volumes_are_what_containers_mount(objects: Render, values: Path) -> None:
    found = objects("--values", values)
    state = of_kind(found, "StatefulSet")["spec"]
    claims = {claim["metadata"]["name"] for claim in state.get("volumeClaimTemplates", ())}
    for pod in pods(found):
        there = {volume["name"] for volume in pod.get("volumes", ())}
        there |= claims if pod is state["template"]["spec"] else set()
        mounted = {mount["name"] for item in pod["containers"] for mount in item.get("volumeMounts", ())}
        assert mounted == there


def test_a_pod_has_time_to_drain(objects: Render) -> None:
    pod = of_kind(objects(*IMAGE, "--set", "drainTimeout=120,preStopDelay=7"), "StatefulSet")["spec"][
        "template"
    ]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 130
    [container] = pod["containers"]
    assert {"name": "REGPROXY_DRAIN_TIMEOUT", "value": "120s"} in container["env"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "7"]


def test_who_may_connect(objects: Render) -> None:
    policy = of_kind(objects("--values", chart.CHART / "ci" / "everything-values.yaml"), "NetworkPolicy")
    clients, admin = policy["spec"]["ingress"]
    assert [port["port"] for port in clients["ports"]] == ["proxy", "tls"]
    assert [port["port"] for port in admin["ports"]] == ["admin"]
    spaces = [
        peer["namespaceSelector"]["matchExpressions"][0]["values"]
        for peer in admin["from"]
        if "namespaceSelector" in peer
    ]
    assert spaces == [["monitoring"]]
    assert not any("ipBlock" in peer for peer in admin["from"])


def test_rules_are_rules(objects: Render, tmp_path: Path) -> None:
    found = objects("--values", chart.CHART / "ci" / "everything-values.yaml")
    for rule in (item for item in found if item["kind"] == "PrometheusRule"):
        path = tmp_path / f"{rule['metadata']['name']}.json"
        path.write_text(json.dumps(rule["spec"]))
        done = run("promtool", "check", "rules", path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCESS" in done.stdout
    boards = next(item for item in found if item["metadata"]["name"].endswith("-dashboards"))["data"]
    assert len(boards) == len(list((ROOT / "deploy" / "grafana").glob("*.json")))
    assert all(json.loads(text)["title"] for text in boards.values())


def test_a_package(helm: Path, tmp_path: Path) -> None:
    done = run(helm, "package", chart.CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    [package] = tmp_path.iterdir()
    done = run(helm, *TEMPLATE, package, *IMAGE, "--set", "metrics.prometheusRule.enabled=true")
    assert "RegproxyDigestMismatch" in done.stdout


@pytest.fixture(scope="session")
def kustomized() -> Callable[[str], str]:
    """Return what `kustomize build` prints for one of the directories."""
    program = KUSTOMIZE.build(CACHE)

    def build(name: str) -> str:
        done = run(program, "build", KUSTOMIZATIONS / name)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return build


def test_kustomizations_are_valid(kustomized: Callable[[str], str], conforms: Callable[[str], str]) -> None:
    places = sorted(path.parent for path in KUSTOMIZATIONS.rglob("kustomization.yaml"))
    names = [str(place.relative_to(KUSTOMIZATIONS)) for place in places]
    assert names == ["base", "overlays/example"]
    for name in names:
        assert conforms(kustomized(name)) == ""


def test_the_base_is_what_the_chart_makes(kustomized: Callable[[str], str], objects: Render) -> None:
    """The same decisions: the base differs in labels and comments alone."""
    base = [plain(item) for item in yaml.safe_load_all(kustomized("base"))]
    made = objects("--set", "image.repository=regproxy", "--set", "fullnameOverride=regproxy")
    made = [item for item in made if item["kind"] != "Pod"]
    assert {item["kind"] for item in base} == {item["kind"] for item in made}
    for item in made:
        [twin] = [
            other
            for other in base
            if (other["kind"], other["metadata"]["name"]) == (item["kind"], item["metadata"]["name"])
        ]
        assert twin == plain(item)


def plain(item: Object) -> Object:
    """Return an object without what Helm alone says, and without what a release is called."""
    dropped = {"helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version"}
    dropped |= {"app.kubernetes.io/instance"}

    def strip(value: Any) -> Any:
        if isinstance(value, list):
            return [strip(part) for part in value]
        if isinstance(value, dict):
            return {key: strip(part) for key, part in value.items() if key not in dropped}
        return value

    made: Object = strip(copy.deepcopy(item))
    made["metadata"].pop("namespace", None)
    return made
