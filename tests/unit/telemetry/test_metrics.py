"""The metrics: they say what was counted, promtool likes them, and several processes add up."""

from __future__ import annotations

import math
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families

from regproxy.dataplane import tls
from regproxy.dataplane.tally import BOUNDS, Tally
from regproxy.registry.targets import Kind
from regproxy.telemetry.metrics import Metrics

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
HUB = "registry-1.docker.io"
BUILD = {
    "version": "1.2.3",
    "python": platform.python_version(),
    "openssl": tls.openssl_version().split()[1],
}


def samples(text: bytes) -> Samples:
    """Parse what a scrape would get; names without the prefix."""
    return {
        (sample.name.removeprefix("regproxy_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics.render()).get((name, frozenset(labels.items())))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), version="1.2.3")


@dataclass
class Reactor:
    streams_open: int = 0
    handshakes_done: int = 0
    handshakes_failed: int = 0
    upstream_handshakes_done: int = 0
    upstream_handshakes_failed: int = 0
    wire_bytes_in: int = 0
    wire_bytes_out: int = 0


@dataclass
class Fills:
    active: int = 0
    waiters: int = 0


@dataclass
class Authority:
    not_after: float
    leaf: float | None = None

    def leaf_not_after_min(self) -> float | None:
        return self.leaf


@dataclass
class AccessLog:
    dropped: int = 0
    spans_dropped: int = 0


def busy(metrics: Metrics) -> None:
    """Make every metric have a series."""
    metrics.tally(HUB, Kind.BLOB, "HIT", 200).add(100, 0.01)
    metrics.tally("quay.io", "manifest-primary", "", 404).add_saved(5)
    metrics.upstream_request(HUB, 200, 0.5)
    metrics.upstream_request(HUB, "timeout", 60.0)
    metrics.upstream_bytes(HUB, 7)
    metrics.digest_mismatch(HUB)
    metrics.fill_resumed(HUB)
    metrics.first_byte(HUB, 0.25)
    metrics.tag_moved(HUB)
    metrics.rule_count("no latest", "refused")[0] += 3
    metrics.access_verdict(HUB, "allowed_in_outage")
    metrics.login_refused("basic")
    metrics.passed_on(HUB, "media-type")
    metrics.quota(HUB, "anonymous", 100, 76, 21_600.0, 1.5e9)
    metrics.upstream_429(HUB, "anonymous", "GET")
    metrics.manifest_request(HUB, "anonymous", "HEAD")
    metrics.circuit(HUB, True)
    metrics.circuit_refused(HUB)
    metrics.token_fetch(HUB, "anonymous", "issued")
    metrics.lookup("tunnel", "found")
    metrics.target_refused("answer")
    metrics.login_withheld(HUB)
    metrics.fill_started()
    metrics.fill_failed("digest")
    metrics.fill_ended(40)
    metrics.tunnel_opened()
    metrics.tunnel_opened()
    metrics.tunnel_closed(1, 2)
    metrics.store_failed("ENOSPC")
    metrics.cache_holds(10, 11, 12, 13, 14)
    metrics.evicted("inactive", 2, 8192)
    metrics.reconciled(1.5)
    metrics.index_is_complete(True)
    metrics.workers_ready(2)
    metrics.worker_ended("hung")
    metrics.admin_login("refused")
    metrics.reloaded("refused")
    for source in (Reactor(3, 5, 1, 4, 2), Fills(2, 9), Authority(2e9, 1.9e9), AccessLog(1, 2)):
        metrics.watch(source)


# --- what a scrape gets ----------------------------------------------------------------------------------


def test_every_metric_and_its_labels(metrics: Metrics) -> None:
    busy(metrics)
    text = metrics.render().decode()
    names: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith(("_bucket", "_sum")):
                names.setdefault(sample.name.removesuffix("_count"), set()).update(sample.labels)
    assert names == {
        "regproxy_requests_total": {"registry", "type", "cache", "code"},
        "regproxy_client_bytes_total": {"registry", "cache"},
        "regproxy_saved_bytes_total": {"registry"},
        "regproxy_request_duration_seconds": {"type", "cache"},
        "regproxy_upstream_requests_total": {"host", "code"},
        "regproxy_upstream_bytes_total": {"host"},
        "regproxy_upstream_request_duration_seconds": {"host"},
        "regproxy_digest_mismatches_total": {"registry"},
        "regproxy_fill_resumes_total": {"registry"},
        "regproxy_quota_limit": {"registry", "credential"},
        "regproxy_quota_remaining": {"registry", "credential"},
        "regproxy_quota_window_seconds": {"registry", "credential"},
        "regproxy_quota_seen_timestamp_seconds": {"registry", "credential"},
        "regproxy_upstream_first_byte_seconds": {"host"},
        "regproxy_tag_moves_total": {"registry"},
        "regproxy_rule_decisions_total": {"rule", "action"},
        "regproxy_access_verdicts_total": {"registry", "verdict"},
        "regproxy_refused_logins_total": {"kind"},
        "regproxy_passed_on_total": {"registry", "reason"},
        "regproxy_fill_requests": set(),
        "regproxy_upstream_429_total": {"registry", "credential", "method"},
        "regproxy_upstream_manifest_requests_total": {"registry", "credential", "method"},
        "regproxy_circuit_open": {"registry"},
        "regproxy_circuit_refusals_total": {"registry"},
        "regproxy_token_fetches_total": {"registry", "credential", "outcome"},
        "regproxy_lookups_total": {"lane", "outcome"},
        "regproxy_targets_refused_total": {"by"},
        "regproxy_logins_withheld_total": {"registry"},
        "regproxy_fills_total": set(),
        "regproxy_fill_failures_total": {"reason"},
        "regproxy_fills_active": set(),
        "regproxy_fill_waiters": set(),
        "regproxy_tunnels_open": set(),
        "regproxy_tunnels_total": set(),
        "regproxy_tunnel_bytes_total": {"direction"},
        "regproxy_tls_handshakes_total": {"side", "result"},
        "regproxy_wire_bytes_total": {"direction"},
        "regproxy_connections_open": set(),
        "regproxy_cache_objects": set(),
        "regproxy_cache_bytes": set(),
        "regproxy_cache_max_bytes": set(),
        "regproxy_cache_disk_free_bytes": set(),
        "regproxy_cache_min_free_bytes": set(),
        "regproxy_evicted_objects_total": {"reason"},
        "regproxy_evicted_bytes_total": {"reason"},
        "regproxy_reconcile_seconds": set(),
        "regproxy_index_complete": set(),
        "regproxy_store_failures_total": {"reason"},
        "regproxy_store_ok": set(),
        "regproxy_workers": set(),
        "regproxy_worker_exits_total": {"reason"},
        "regproxy_admin_logins_total": {"outcome"},
        "regproxy_reloads_total": {"result"},
        "regproxy_ca_not_after_timestamp_seconds": set(),
        "regproxy_leaf_not_after_timestamp_seconds": set(),
        "regproxy_access_log_dropped_total": set(),
        "regproxy_spans_dropped_total": set(),
        "regproxy_accepts_total": {"result"},
        "regproxy_repeated_answers_total": set(),
        "regproxy_audit_lost_total": {"what"},
        "regproxy_build_info": {"version", "python", "openssl"},
    }


@pytest.mark.parametrize("is_busy", [False, True])
def test_promtool_has_nothing_to_say(metrics: Metrics, is_busy: bool) -> None:
    if is_busy:
        busy(metrics)
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics.render(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    "name, labels, want",
    [
        ("requests_total", {"registry": HUB, "type": "blob-by-digest", "cache": "HIT", "code": "200"}, 1),
        (
            "requests_total",
            {"registry": "quay.io", "type": "manifest-primary", "cache": "none", "code": "404"},
            0,
        ),
        ("client_bytes_total", {"registry": HUB, "cache": "HIT"}, 100),
        ("saved_bytes_total", {"registry": "quay.io"}, 5),
        ("request_duration_seconds_bucket", {"type": "blob-by-digest", "cache": "HIT", "le": "0.005"}, 0),
        ("request_duration_seconds_bucket", {"type": "blob-by-digest", "cache": "HIT", "le": "0.01"}, 1),
        ("request_duration_seconds_sum", {"type": "blob-by-digest", "cache": "HIT"}, 0.01),
        ("upstream_requests_total", {"host": HUB, "code": "200"}, 1),
        ("upstream_requests_total", {"host": HUB, "code": "timeout"}, 1),
        ("upstream_request_duration_seconds_count", {"host": HUB}, 2),
        ("upstream_request_duration_seconds_sum", {"host": HUB}, 60.5),
        ("upstream_bytes_total", {"host": HUB}, 7),
        ("digest_mismatches_total", {"registry": HUB}, 1),
        ("quota_limit", {"registry": HUB, "credential": "anonymous"}, 100),
        ("quota_remaining", {"registry": HUB, "credential": "anonymous"}, 76),
        ("quota_window_seconds", {"registry": HUB, "credential": "anonymous"}, 21_600),
        ("quota_seen_timestamp_seconds", {"registry": HUB, "credential": "anonymous"}, 1.5e9),
        ("upstream_first_byte_seconds_sum", {"host": HUB}, 0.25),
        ("upstream_first_byte_seconds_bucket", {"host": HUB, "le": "0.1"}, 0),
        ("tag_moves_total", {"registry": HUB}, 1),
        ("tag_moves_total", {"registry": "quay.io"}, 0),  # before the first: increase() has to see it
        ("digest_mismatches_total", {"registry": "quay.io"}, 0),
        ("rule_decisions_total", {"rule": "no latest", "action": "refused"}, 3),
        ("access_verdicts_total", {"registry": HUB, "verdict": "allowed_in_outage"}, 1),
        ("refused_logins_total", {"kind": "basic"}, 1),
        ("refused_logins_total", {"kind": "preface"}, 0),
        ("passed_on_total", {"registry": HUB, "reason": "media-type"}, 1),
        ("fill_requests_bucket", {"le": "20.0"}, 0),
        ("fill_requests_bucket", {"le": "50.0"}, 1),
        ("upstream_429_total", {"registry": HUB, "credential": "anonymous", "method": "GET"}, 1),
        (
            "upstream_manifest_requests_total",
            {"registry": HUB, "credential": "anonymous", "method": "HEAD"},
            1,
        ),
        ("circuit_open", {"registry": HUB}, 1),
        ("circuit_refusals_total", {"registry": HUB}, 1),
        ("token_fetches_total", {"registry": HUB, "credential": "anonymous", "outcome": "issued"}, 1),
        ("lookups_total", {"lane": "tunnel", "outcome": "found"}, 1),
        ("targets_refused_total", {"by": "answer"}, 1),
        ("fills_total", {}, 1),
        ("fill_failures_total", {"reason": "digest"}, 1),
        ("fills_active", {}, 2),
        ("fill_waiters", {}, 9),
        ("tunnels_open", {}, 1),
        ("tunnels_total", {}, 2),
        ("tunnel_bytes_total", {"direction": "up"}, 1),
        ("tunnel_bytes_total", {"direction": "down"}, 2),
        ("connections_open", {}, 3),
        ("tls_handshakes_total", {"side": "client", "result": "done"}, 5),
        ("tls_handshakes_total", {"side": "client", "result": "failed"}, 1),
        ("tls_handshakes_total", {"side": "upstream", "result": "done"}, 4),
        ("tls_handshakes_total", {"side": "upstream", "result": "failed"}, 2),
        ("cache_objects", {}, 10),
        ("cache_bytes", {}, 11),
        ("cache_max_bytes", {}, 12),
        ("cache_disk_free_bytes", {}, 13),
        ("cache_min_free_bytes", {}, 14),
        ("evicted_objects_total", {"reason": "inactive"}, 2),
        ("evicted_bytes_total", {"reason": "inactive"}, 8192),
        ("reconcile_seconds", {}, 1.5),
        ("index_complete", {}, 1),
        ("store_failures_total", {"reason": "ENOSPC"}, 1),
        ("store_ok", {}, 0),
        ("workers", {}, 2),
        ("worker_exits_total", {"reason": "hung"}, 1),
        ("admin_logins_total", {"outcome": "refused"}, 1),
        ("reloads_total", {"result": "refused"}, 1),
        ("ca_not_after_timestamp_seconds", {}, 2e9),
        ("leaf_not_after_timestamp_seconds", {}, 1.9e9),
        ("access_log_dropped_total", {}, 1),
        ("spans_dropped_total", {}, 2),
        ("build_info", BUILD, 1),
    ],
    ids=str,
)
def test_values(metrics: Metrics, name: str, labels: dict[str, str], want: float) -> None:
    busy(metrics)
    assert value(metrics, name, **labels) == want
    assert value(metrics, name, **labels) == want  # publishing again adds nothing


def test_the_version_is_the_packages_own() -> None:
    ((_, labels),) = (key for key in samples(Metrics(CollectorRegistry()).render()) if key[0] == "build_info")
    assert dict(labels)["version"] != ""


def test_counts_go_on_after_publishing(metrics: Metrics) -> None:
    labels = {"registry": HUB, "type": "ping", "cache": "none", "code": "401"}
    for total in (1, 2, 3):
        metrics.tally(HUB, Kind.PING, "", 401).add(10, 0.2)
        assert value(metrics, "requests_total", **labels) == total
        assert value(metrics, "client_bytes_total", registry=HUB, cache="none") == 10 * total
        assert value(metrics, "request_duration_seconds_count", type="ping", cache="none") == total


def test_a_tally_is_found_again(metrics: Metrics) -> None:
    first = metrics.tally(HUB, Kind.BLOB, "HIT", 200)
    assert metrics.tally(HUB, "blob-by-digest", "HIT", 200) is first
    others = [("quay.io", Kind.BLOB, "HIT", 200), (HUB, Kind.MANIFEST, "HIT", 200)]
    others += [(HUB, Kind.BLOB, "MISS", 200), (HUB, Kind.BLOB, "HIT", 206)]
    assert len({id(metrics.tally(*labels)) for labels in others} | {id(first)}) == 5


def test_storing_works_again(metrics: Metrics) -> None:
    assert value(metrics, "store_ok") == 1
    for _ in range(2):
        metrics.store_failed("EIO")
        assert value(metrics, "store_ok") == 0
        metrics.store_worked()
        assert value(metrics, "store_ok") == 1
    assert value(metrics, "store_failures_total", reason="EIO") == 2


def test_hosts_are_bounded(metrics: Metrics) -> None:
    for number in range(150):
        metrics.tally(f"r{number}.example", Kind.BLOB, "HIT", 200).add(1, 0.0)
        metrics.upstream_request(f"u{number}.example", 200, 0.0)
        metrics.upstream_bytes(f"u{number}.example", 1)
        metrics.digest_mismatch(f"r{number}.example")
        metrics.fill_resumed(f"r{number}.example")
    got = samples(metrics.render())
    for name in (
        "requests",
        "client_bytes",
        "upstream_requests",
        "upstream_bytes",
        "digest_mismatches",
        "fill_resumes",
    ):
        series = {
            dict(labels)[label]
            for key, labels in got
            for label in ("registry", "host")
            if key == f"{name}_total" and label in dict(labels)
        }
        assert len(series) == 101
        assert sum(v for (key, _), v in got.items() if key == f"{name}_total") == 150
    assert value(metrics, "upstream_bytes_total", host="other") == 50
    assert metrics.tally("r149.example", Kind.BLOB, "HIT", 200) is metrics.tally("x", Kind.BLOB, "HIT", 200)
    assert metrics.tally("r0.example", Kind.BLOB, "HIT", 200).requests == 1
    assert len(metrics._tallies) == len(metrics._upstream_tallies) == 101


# --- watched objects -------------------------------------------------------------------------------------


def test_watched_objects_are_read_anew(metrics: Metrics) -> None:
    reactor, authority = Reactor(streams_open=1, handshakes_done=10), Authority(2e9)
    metrics.watch(reactor)
    metrics.watch(authority)
    assert value(metrics, "connections_open") == 1
    assert value(metrics, "leaf_not_after_timestamp_seconds") == math.inf
    reactor.streams_open, reactor.handshakes_done, authority.leaf = 0, 15, 1.8e9
    assert value(metrics, "connections_open") == 0
    assert value(metrics, "tls_handshakes_total", side="client", result="done") == 15
    assert value(metrics, "leaf_not_after_timestamp_seconds") == 1.8e9


def test_several_of_a_kind(metrics: Metrics) -> None:
    for source in (Reactor(2, 5), Reactor(3, 6), Authority(2e9, 1.9e9), Authority(1.95e9, 1.85e9)):
        metrics.watch(source)
    assert value(metrics, "connections_open") == 5
    assert value(metrics, "tls_handshakes_total", side="client", result="done") == 11
    assert value(metrics, "ca_not_after_timestamp_seconds") == 1.95e9
    assert value(metrics, "leaf_not_after_timestamp_seconds") == 1.85e9


def test_nothing_to_watch(metrics: Metrics) -> None:
    with pytest.raises(TypeError, match="object has nothing that is a metric"):
        metrics.watch(object())


# --- tallies ---------------------------------------------------------------------------------------------


def test_a_tally() -> None:
    tally = Tally()
    assert tally.take() is None
    tally.add(2**40, 0.0005)
    tally.add(2**40, 0.00051)
    tally.add_saved(2**41)
    assert (tally.requests, tally.bytes_sent, tally.bytes_saved) == (2, 2**41, 2**41)
    taken = tally.take()
    assert taken is not None
    assert taken[:3] == (2, 2**41, 2**41)
    assert taken[3] == pytest.approx(0.00101)
    assert taken[4] == [1, 1] + [0] * 16
    assert tally.take() is None
    tally.add_saved(3)
    assert tally.take() == (0, 0, 3, 0.0, [0] * 18)
    assert (tally.requests, tally.bytes_saved) == (2, 2**41 + 3)
    assert "requests=2" in repr(tally)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, -math.inf, 0.0])
def test_a_duration_that_is_none_counts_as_zero(seconds: float) -> None:
    tally = Tally()
    tally.add(0, seconds)
    taken = tally.take()
    assert taken is not None
    assert (taken[3], taken[4][0]) == (0.0, 1)


@pytest.mark.parametrize("arguments", [("1", 0.0), (1, "0"), (1,), (2**63, 0.0)])
def test_what_is_no_number_is_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises((TypeError, OverflowError)):
        Tally().add(*arguments)  # type: ignore[arg-type]


@given(
    st.lists(
        st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 1e6, allow_nan=False)), max_size=20),
        max_size=5,
    )
)
def test_as_prometheus_client_would_have_observed(batches: list[list[float]]) -> None:
    """Counted in C and moved in batches, a histogram is what observe() makes, bounds included."""
    metrics, registry = Metrics(CollectorRegistry()), CollectorRegistry()
    histogram = Histogram("h", "By the book.", registry=registry, buckets=BOUNDS)
    tally = metrics.tally(HUB, Kind.BLOB, "HIT", 200)
    for batch in batches:
        for seconds in batch:
            tally.add(1, seconds)
            histogram.observe(seconds)
        metrics.publish()
    got = samples(metrics.render())
    for family in registry.collect():
        for sample in family.samples:
            name = sample.name.replace("h_", "request_duration_seconds_")
            labels = {"type": "blob-by-digest", "cache": "HIT"} | sample.labels
            assert got[name, frozenset(labels.items())] == pytest.approx(sample.value)


# --- several processes -----------------------------------------------------------------------------------

WORKER = """
import sys
from prometheus_client import CollectorRegistry
from regproxy.telemetry.metrics import Metrics, share, unshare
from tests.unit.telemetry.test_metrics import busy

share(sys.argv[1], sys.argv[2])
metrics = Metrics(CollectorRegistry(), version="1.2.3")
if "idle" not in sys.argv:
    busy(metrics)
metrics.publish()
print("ready", flush=True)
sys.stdin.readline()
sys.stdout.buffer.write(metrics.render())
unshare()
"""


# What all processes know of the same thing: the cache, the CA, the program
ONCE = {
    *("cache_objects", "cache_bytes", "cache_max_bytes", "cache_disk_free_bytes", "cache_min_free_bytes"),
    "index_complete",
    *("reconcile_seconds", "store_ok", "build_info", "quota_limit", "quota_remaining", "circuit_open"),
    *("quota_window_seconds", "quota_seen_timestamp_seconds"),
    *("ca_not_after_timestamp_seconds", "leaf_not_after_timestamp_seconds"),
}


class Process:
    """One of several, in the slot `slot` of `directory`. What it does not have to say is `idle`."""

    def __init__(self, directory: Path, slot: int, *words: str) -> None:
        command = [sys.executable, "-c", WORKER, str(directory), str(slot), *words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def render(self) -> bytes:
        """Return what a scrape of it would get, as the last thing that it does."""
        text, _ = self._process.communicate(b"\n")
        assert self._process.returncode == 0
        return text


def test_processes_add_up(tmp_path: Path, metrics: Metrics) -> None:
    """Any of three processes renders the sum of all."""
    processes = [Process(tmp_path, slot) for slot in range(3)]
    texts = [process.render() for process in processes]
    busy(metrics)
    alone = samples(metrics.render())
    for text in texts:
        merged = samples(text)
        assert merged.keys() == alone.keys()
        for (name, labels), one in alone.items():
            assert merged[name, labels] == one * (1 if name in ONCE else 3), name
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, check=False
        )
        assert checked.stdout + checked.stderr == b""


def test_who_has_nothing_to_say_changes_nothing(tmp_path: Path, metrics: Metrics) -> None:
    """A process that has no store, no CA and no cache of its own."""
    processes = Process(tmp_path, 0), Process(tmp_path, 1, "idle")
    texts = [process.render() for process in processes]
    busy(metrics)
    alone = samples(metrics.render())
    for text in texts:
        assert samples(text) == alone


def test_a_slot_is_taken_over(tmp_path: Path) -> None:
    """Counters go on, in the same files; gauges begin anew."""
    labels = frozenset({"registry": HUB, "type": "blob-by-digest", "cache": "HIT", "code": "200"}.items())
    files = set()
    for total in (1, 2, 3):
        got = samples(Process(tmp_path, 0).render())
        assert got["requests_total", labels] == total
        assert got["connections_open", frozenset()] == 3
        files.add(tuple(sorted(tmp_path.iterdir())))
    assert len(files) == 1


def test_a_file_that_is_being_made(tmp_path: Path) -> None:
    """It is empty for a moment."""
    process = Process(tmp_path, 0)
    (tmp_path / "counter_1.db").touch()
    assert samples(process.render())["fills_total", frozenset()] == 1
