"""A real Prometheus with the mixin's rules watches a real proxy of two workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.support import mixin
from tests.support.docker_registry import Registry
from tests.support.images import Image
from tests.support.processes import free_address, wait_until
from tests.support.prometheus import Prometheus
from tests.support.proxy import Proxy
from tests.support.real_clients import Skopeo
from tests.support.trust import Trust

# Alerts need not wait here; a busy machine may let a scrape or two of a proxy fail.
SETTINGS = {"alerts": {"RegproxyCircuitOpen": {"for": "0s", "labels": {"team": "images"}}}}
GONE = "gone.test"


@dataclass(frozen=True, slots=True)
class Watched:
    """A proxy before a registry and an address where nobody is, and who watches it."""

    proxy: Proxy
    registry: Registry
    prometheus: Prometheus
    gone: str


@pytest.fixture(scope="module")
def watched(trust: Trust, image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    place = tmp_path_factory.mktemp("watched")
    made = mixin.rendered(SETTINGS)
    rules = [mixin.write(place / f"{kind}.yaml", made[kind]) for kind in ("rules", "alerts")]
    nobody = free_address()
    with ExitStack() as stack:
        registry = stack.enter_context(Registry(place / "registry", trust))
        proxy = stack.enter_context(
            Proxy(
                place / "proxy",
                {"REGPROXY_WORKERS": "2", "ENABLE_MANIFEST_CACHE": "true"},
                registries=(registry.authority, f"{GONE}:{nobody[1]}"),
                resolve={**registry.resolve, GONE: nobody[0]},
                ca=trust.path,
            )
        )
        prometheus = stack.enter_context(Prometheus(place / "prometheus", [proxy.admin_address], rules))
        target = registry.push("app", "1.0", image)
        skopeo = Skopeo(place / "skopeo", proxy=proxy.url, ca=proxy.ca_path)
        wait_until(lambda: prometheus.query("up == 1"), "it is scraped")
        for _ in range(2):
            skopeo.copy(target)
        yield Watched(proxy, registry, prometheus, f"{GONE}:{nobody[1]}")


def test_it_is_scraped(watched: Watched) -> None:
    (target,) = watched.prometheus.targets()
    assert target["labels"]["job"] == "regproxy"
    hits = f'sum(regproxy_requests_total{{registry="{watched.registry.authority}", cache="HIT"}})'
    wait_until(lambda: counted(watched, hits) > 0, "the second pull's hits are counted")
    assert counted(watched, "regproxy_workers") == 2
    assert counted(watched, "regproxy_cache_min_free_bytes") > 0


def counted(watched: Watched, expression: str) -> float:
    return sum(value for _, value in watched.prometheus.query(expression))


def test_rules_are_evaluated(watched: Watched) -> None:
    """Each of them, without errors; and what they record is there."""
    count = len(mixin.alerts()) + len(mixin.recorded())

    def rules() -> bool:
        found = watched.prometheus.rules()
        assert [(rule["name"], rule["lastError"]) for rule in found if rule.get("lastError")] == []
        return len(found) == count and all(rule["health"] == "ok" for rule in found)

    wait_until(rules, "every rule was evaluated")
    ratio = "job_registry:regproxy_hits:rate5m / job_registry:regproxy_cacheable_requests:rate5m"
    wait_until(
        lambda: [
            value
            for labels, value in watched.prometheus.query(ratio)
            if labels["registry"] == watched.registry.authority
        ],
        "the hit ratio is recorded",
    )


def test_an_alert_fires(watched: Watched) -> None:
    """A registry that nobody answers for: 502, then the circuit is open, and the operator hears of it."""
    for _ in range(2):  # one for each worker, whoever takes it
        with watched.proxy.client(watched.gone) as client:
            for _ in range(4):
                assert client.get("/v2/app/manifests/1.0").status in (502, 503)

    def alert() -> list[dict[str, object]]:
        return watched.prometheus.firing().get("RegproxyCircuitOpen", [])

    (found,) = wait_until(alert, "the alert fires")
    labels, texts = found["labels"], found["annotations"]
    assert isinstance(labels, dict) and isinstance(texts, dict)
    assert (labels["registry"], labels["severity"], labels["team"]) == (watched.gone, "warning", "images")
    assert GONE in texts["summary"] and "<no value>" not in json.dumps(texts)
    assert texts["runbook_url"].endswith("/RegproxyCircuitOpen.md")
    assert set(watched.prometheus.firing()) == {"RegproxyCircuitOpen"}


@pytest.mark.parametrize("name", mixin.dashboards())
def test_queries_of_dashboards_are_answered(name: str, watched: Watched) -> None:
    for title, expression in mixin.queries(mixin.dashboards()[name]):
        series = watched.prometheus.query(mixin.plain(expression))
        assert len(series) < 100, title
