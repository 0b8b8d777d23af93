"""JSON schemas of Kubernetes' objects for kubeconform, made of what Go modules carry.

Kubernetes' own are from the OpenAPI document of k8s.io/kubernetes, those of custom resources from the
CustomResourceDefinitions of their projects. All are made strict: a field that is not listed is a mistake.
"""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from tests.conformance import programs

KUBERNETES: Final = "k8s.io/kubernetes@v1.36.1"
DEFINITIONS: Final = (
    ("github.com/prometheus-operator/prometheus-operator@v0.85.0", "example/prometheus-operator-crd/"),
    ("github.com/cert-manager/cert-manager@v1.21.2", "deploy/crds/"),
)
# The kinds that the chart has; none of these names is in two groups.
KINDS: Final = frozenset(
    {
        *("ConfigMap", "Service", "ServiceAccount", "Pod", "PersistentVolumeClaim", "Namespace", "Secret"),
        *("StatefulSet", "DaemonSet", "PodDisruptionBudget", "NetworkPolicy"),
        *("ServiceMonitor", "PrometheusRule", "Issuer", "Certificate"),
    }
)
# How kubeconform is told to find them.
PATTERN: Final = "{{.ResourceKind}}-{{.ResourceAPIVersion}}.json"
_REFERENCE: Final = "#/definitions/"

Schema = dict[str, Any]


class _Loader(yaml.CSafeLoader):
    """YAML 1.2 has no value type: `=` in a list of operators is a string."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


def make(cache: Path) -> Path:
    """Return the directory of schemas, which is made in `cache` where it is not complete."""
    versions = "-".join(m.rpartition("@")[2] for m in (KUBERNETES, *(module for module, _ in DEFINITIONS)))
    place = cache / "schemas" / versions
    if not place.exists():
        building = place.with_name(f"{versions}.{os.getpid()}")
        building.mkdir(parents=True)
        with zipfile.ZipFile(_downloaded(cache, KUBERNETES)) as module:
            document = module.read(f"{KUBERNETES}/api/openapi-spec/swagger.json")
            _write(building, _built_in(json.loads(document)))
        for name, folder in DEFINITIONS:
            with zipfile.ZipFile(_downloaded(cache, name)) as module:
                texts = [module.read(f) for f in module.namelist() if f.startswith(f"{name}/{folder}")]
            _write(building, _custom(texts))
        building.rename(place)
    return place


def _downloaded(cache: Path, module: str) -> Path:
    """Return the zip file of a Go module. Raises CalledProcessError."""
    done = subprocess.run(
        [programs.go(), "mod", "download", "-json", module],
        env=programs.environment(cache, cache / "bin"),
        cwd="/",
        check=True,
        stdout=subprocess.PIPE,
    )
    return Path(json.loads(done.stdout)["Zip"])


def _write(place: Path, schemas: Iterable[tuple[str, str, Schema]]) -> None:
    for version, kind, schema in schemas:
        name = f"{kind.lower()}-{version}.json"
        (place / name).write_text(json.dumps(schema))


def _built_in(document: dict[str, Any]) -> Iterable[tuple[str, str, Schema]]:
    definitions = document["definitions"]
    for definition in definitions.values():
        for name in definition.get("x-kubernetes-group-version-kind", ()):
            if name["kind"] in KINDS:
                whole = _resolved(definition, definitions, ())
                whole["properties"]["apiVersion"] = {"const": _api_version(name["group"], name["version"])}
                yield name["version"], name["kind"], whole


def _api_version(group: str, version: str) -> str:
    return f"{group}/{version}" if group else version


def _resolved(value: Any, definitions: dict[str, Any], within: tuple[str, ...]) -> Any:
    """Return a schema with what it refers to in its place, and strict."""
    if isinstance(value, list):
        return [_resolved(item, definitions, within) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        name = value["$ref"].removeprefix(_REFERENCE)
        # JSONSchemaProps contains itself: anything goes there.
        return {} if name in within else _resolved(definitions[name], definitions, (*within, name))
    if value.get("format") == "int-or-string":
        return {"type": ["integer", "string"]}
    made = {key: _resolved(item, definitions, within) for key, item in value.items() if key != "description"}
    return _strict(made)


def _custom(texts: Iterable[bytes]) -> Iterable[tuple[str, str, Schema]]:
    for text in texts:
        if not any(f"kind: {kind}\n".encode() in text for kind in KINDS):  # the others take seconds to read
            continue
        for found in yaml.load_all(text, _Loader):
            spec = found["spec"] if found and found.get("kind") == "CustomResourceDefinition" else None
            if spec and spec["names"]["kind"] in KINDS:
                for version in spec["versions"]:
                    schema = _closed(version["schema"]["openAPIV3Schema"])
                    schema["properties"]["metadata"] = {"type": "object"}
                    yield version["name"], spec["names"]["kind"], schema


def _closed(value: Any) -> Any:
    if isinstance(value, list):
        return [_closed(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    return _strict({key: _closed(item) for key, item in value.items() if key != "description"})


def _strict(schema: Schema) -> Schema:
    """Return a schema that takes no field besides those that it lists."""
    lists = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if lists and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema
