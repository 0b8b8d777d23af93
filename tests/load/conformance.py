"""OCI distribution-spec conformance: straight to a registry, and through the proxy by CONNECT and as a mirror.

Whatever passes straight has to pass through the proxy. The suite is the specification's own, built by the Go
module proxy; see `make conformance`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from tests.support.connect_relay import Relay
from tests.support.docker_registry import Registry
from tests.support.proxy import Proxy
from tests.support.real_clients import client_env
from tests.support.trust import Trust

SUITE: Final = "github.com/opencontainers/distribution-spec/conformance"
VERSION: Final = "v0.0.0-20260831232431-97274622c111"
BUILD_SECONDS: Final = 900
RUN_SECONDS: Final = 300


def build(place: Path, version: str) -> Path:
    """Return the suite's program, built once. Raises subprocess.CalledProcessError."""
    program = place.absolute() / f"conformance-{version}"
    if program.exists():
        return program
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        env = os.environ | {"GOBIN": work, "GOFLAGS": "-mod=mod"}
        subprocess.run(["go", "install", f"{SUITE}@{version}"], check=True, env=env, timeout=BUILD_SECONDS)
        (Path(work) / "conformance").rename(program)
    return program


def run(program: Path, place: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Run the suite; return what became of each test: "passed", "failed" or "skipped"."""
    results = place / "results"
    results.mkdir(parents=True)
    settings = {"OCI_RESULTS_DIR": str(results), "OCI_LOG": "error"}
    done = subprocess.run(
        [program], env={**env, **settings}, cwd=place, capture_output=True, timeout=RUN_SECONDS, check=False
    )
    (place / "output.txt").write_bytes(done.stdout + done.stderr)
    report = results / "junit.xml"
    if not report.exists():
        raise RuntimeError(f"no results: {done.stdout.decode()[-2000:]}{done.stderr.decode()[-2000:]}")
    return outcomes(report)


def outcomes(report: Path) -> dict[str, str]:
    """Return the outcome of each test of a JUnit report."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}: {case.get('name')}"
        bad = case.find("failure") is not None or case.find("error") is not None
        skipped = case.find("skipped") is not None
        found[name] = "failed" if bad else "skipped" if skipped else "passed"
    return found


def ways(stack: ExitStack, work: Path) -> dict[str, dict[str, str]]:
    """Return the environment of the suite for each way to a registry, a new registry for each."""
    trust = Trust(work / "trust")
    env: dict[str, dict[str, str]] = {}

    registry = stack.enter_context(Registry(work / "direct", trust))
    relay = stack.enter_context(Relay(registry.resolve))
    straight = client_env(work / "home-direct", proxy=relay.url, ca=trust.path)
    env["direct"] = straight | named(registry.authority)

    registry = stack.enter_context(Registry(work / "connect", trust))
    proxy = stack.enter_context(start(work / "proxy-connect", registry, trust, registry.authority))
    by_connect = client_env(work / "home-connect", proxy=proxy.url, ca=proxy.ca_path)
    env["CONNECT"] = by_connect | named(registry.authority)

    registry = stack.enter_context(Registry(work / "mirror", trust))
    table = work / "mirror.toml"
    table.write_text(f'[origin."{registry.name}"]\nport = {registry.port}\n')
    proxy = stack.enter_context(
        start(work / "proxy-mirror", registry, trust, registry.name, REGPROXY_CONFIG=str(table))
    )
    bare = client_env(work / "home-mirror", proxy="", ca=None)
    bare = {name: value for name, value in bare.items() if not name.endswith("_PROXY")}
    mirror = named(f"{proxy.address[0]}:{proxy.port}", f"{registry.name}/")
    env["mirror"] = bare | mirror | {"OCI_TLS": "disabled"}
    return env


def start(place: Path, registry: Registry, trust: Trust, intercepted: str, **env: str) -> Proxy:
    pushes = {"ALLOW_PUSH": "true", "ENABLE_MANIFEST_CACHE": "true", "REGPROXY_CACHE_PUSHES": "true"}
    workers = {"REGPROXY_WORKERS": "2"}
    return Proxy(
        place,
        {**pushes, **workers, **env},
        registries=(intercepted,),
        resolve=registry.resolve,
        ca=trust.path,
    )


def named(registry: str, prefix: str = "") -> dict[str, str]:
    """Return the suite's settings for a registry, whose repositories are called by a prefix there."""
    repositories = {f"OCI_REPO{n}": f"{prefix}conformance/repo{n}" for n in (1, 2)}
    return {"OCI_REGISTRY": registry, **repositories}


def main() -> int:
    """Run all ways, and compare them. 1: something passes straight alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=Path(".local/conformance"), help="for the suite")
    parser.add_argument("--version", default=VERSION, help="of the suite's Go module")
    parser.add_argument("--keep", type=Path, help="for results and logs (a new directory)")
    options = parser.parse_args()
    program = build(options.build, options.version)
    lost = 0
    with ExitStack() as stack:
        if options.keep is not None:
            options.keep.mkdir(parents=True)
        work = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="conformance-")))
        found = {way: run(program, work / f"run-{way}", env) for way, env in ways(stack, work).items()}
    straight = found.pop("direct")
    print(f"direct: {count(straight)}")
    for way, results in found.items():
        print(f"{way}: {count(results)}")
        for name, outcome in straight.items():
            if outcome == "passed" and results.get(name) != "passed":
                lost += 1
                print(f"  lost: {name}: {results.get(name, 'not run')}")
    return 1 if lost else 0


def count(results: Mapping[str, str]) -> str:
    """Return how many tests there are of each outcome."""
    numbers = {
        word: sum(each == word for each in results.values()) for word in ("passed", "failed", "skipped")
    }
    return ", ".join(f"{number} {word}" for word, number in numbers.items())


if __name__ == "__main__":
    sys.exit(main())
