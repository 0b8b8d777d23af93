"""Run the suite against registries, directly and through the proxy; nothing may fail through it alone.

    python -m tests.conformance [--registry docker-registry] [--way mirror] [--version 1.1] [--keep DIR]

A registry is new for each run, as is the proxy. The exit status is 1 if a test passes directly and not
through the proxy, 2 if the suite could not be run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conformance import comparison
from tests.conformance.comparison import Results
from tests.conformance.programs import CACHE, DISTRIBUTION, SUITE, has_go
from tests.support.connect_relay import Relay
from tests.support.docker_registry import PROGRAM, Registry
from tests.support.proxy import Proxy
from tests.support.real_clients import client_env
from tests.support.trust import Trust

HUB = "registry-1.docker.io"
REPOSITORIES = ("conformance/a", "conformance/b")
PUSHES = {"ALLOW_PUSH": "true", "ENABLE_MANIFEST_CACHE": "true", "REGPROXY_WORKERS": "2"}
TIMEOUT = 300.0  # seconds for one run of the suite, which takes about 10


@dataclass(frozen=True, slots=True)
class Way:
    """A way to the registry. `name` is what it is called by; `env` is laid over the proxy's environment."""

    name: str
    env: Mapping[str, str]


KEPT = {"REGPROXY_CACHE_PUSHES": "true"}
WAYS = (
    Way("connect", {}),
    Way("connect, pushes kept", KEPT),
    Way("mirror, name in the path", {}),
    Way("mirror, name in the path, pushes kept", KEPT),
    Way("mirror, Docker Hub", {}),
    Way("mirror, Docker Hub, pushes kept", KEPT),
    Way("HTTP_PROXY", {}),
    Way("HTTP_PROXY, pushes kept", KEPT),
)


class Runs:
    """Runs of one suite against one registry program, below `directory`."""

    def __init__(self, directory: Path, suite: Path, registry: Path, version: str) -> None:
        self._directory = directory
        self._suite, self._program, self._version = suite, registry, version
        self._trust = Trust(directory / "trust")
        self._count = 0

    def direct(self) -> Results:
        """Run it with nothing between but a relay, which knows the registry's name."""
        place = self._place()
        with self._registry(place, "reg.test") as registry, Relay(registry.resolve) as relay:
            env = client_env(place / "home", proxy=relay.url, ca=self._trust.path)
            return self._run(place, env | _asked(registry.authority))

    def through(self, way: Way) -> Results:
        """Run it through a proxy."""
        place = self._place()
        kind = way.name.partition(",")[0]
        hub = "Hub" in way.name
        with (
            self._registry(place, HUB if hub else "reg.test") as registry,
            self._proxy(place, registry, way) as proxy,
        ):
            env = client_env(place / "home", proxy=proxy.url, ca=proxy.ca_path)
            if kind == "connect":
                env |= _asked(registry.authority)
            elif kind == "HTTP_PROXY":
                env |= _asked(registry.authority) | {"OCI_TLS": "disabled"}
            else:
                env |= {"HTTPS_PROXY": "", "HTTP_PROXY": "", "OCI_TLS": "disabled"}
                prefix = "docker.io/" if hub else f"{registry.authority}/"
                env |= _asked(f"{proxy.address[0]}:{proxy.port}", prefix)
            return self._run(place, env)

    def _place(self) -> Path:
        self._count += 1
        place = self._directory / f"run-{self._count}"
        place.mkdir()
        return place

    def _registry(self, place: Path, name: str) -> Registry:
        return Registry(place / "registry", self._trust, name=name, program=self._program)

    @contextmanager
    def _proxy(self, place: Path, registry: Registry, way: Way) -> Iterator[Proxy]:
        table = place / "regproxy.toml"
        table.write_text(f'[origin."{HUB}"]\nport = {registry.port}\n')
        env = {**PUSHES, **way.env}
        registries: tuple[str, ...] = (registry.authority,)
        if registry.name == HUB:
            env["REGPROXY_CONFIG"], registries = str(table), ()
        with Proxy(
            place / "proxy", env, registries=registries, resolve=registry.resolve, ca=self._trust.path
        ) as proxy:
            yield proxy

    def _run(self, place: Path, env: Mapping[str, str]) -> Results:
        out = place / "results"
        own = {"OCI_RESULTS_DIR": str(out), "OCI_VERSION": self._version}
        done = subprocess.run(
            [self._suite],
            env={**env, **own},
            cwd=place,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        report = out / "junit.xml"
        if not report.exists():
            raise RuntimeError(f"the suite did not run:\n{done.stdout}{done.stderr}")
        return comparison.read(report)


def _asked(registry: str, prefix: str = "") -> dict[str, str]:
    one, two = (prefix + name for name in REPOSITORIES)
    return {"OCI_REGISTRY": registry, "OCI_REPO1": one, "OCI_REPO2": two}


def compare(runs: Runs, title: str, ways: tuple[Way, ...]) -> int:
    """Run all ways, print the differences, and return how many tests were lost."""
    direct = runs.direct()
    print(f"{title}: {comparison.passed(direct)} of {len(direct)} tests pass directly", flush=True)
    count = 0
    for way in ways:
        through = runs.through(way)
        lost = comparison.lost(direct, through)
        more = len(comparison.gained(direct, through))
        also = f", {more} that fail directly" if more else ""
        print(f"  {way.name}: {comparison.passed(through)} pass, {len(lost)} lost{also}", flush=True)
        for name, result in lost.items():
            print(f"    LOST {name}: {result.status}: {result.said}", flush=True)
        count += len(lost)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--registry", choices=["docker-registry", "distribution"])
    parser.add_argument("--way", default="", help="those alone whose name begins so")
    parser.add_argument("--version", action="append", help="of the specification: 1.1 or dev; else both")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where Go's files and programs are kept")
    parser.add_argument("--keep", type=Path, help="a new directory for the suite's reports and all logs")
    options = parser.parse_args()
    if not has_go():
        print("Go is not here: it has to be in PATH or /usr/local/go")
        return 2
    try:
        suite = SUITE.build(options.cache)
        registries = {"docker-registry": PROGRAM}
        if options.registry != "docker-registry":
            registries["distribution"] = DISTRIBUTION.build(options.cache)
    except subprocess.CalledProcessError as error:
        print(error)
        return 2
    ways = tuple(way for way in WAYS if way.name.startswith(options.way))
    count = 0
    with tempfile.TemporaryDirectory(prefix="regproxy-conformance-") as place:
        top = options.keep or Path(place)
        for name, program in registries.items():
            for version in options.version or ("1.1", "dev"):
                if options.registry in (None, name):
                    runs = Runs(top / f"{name}-{version}", suite, program, version)
                    count += compare(runs, f"{name}, specification {version}", ways)
    print(f"{count} tests pass directly and not through the proxy" if count else "nothing is lost")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
