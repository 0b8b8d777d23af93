"""Series of samples, and whether they make an alert fire: for `promtool test rules`."""

from __future__ import annotations

from dataclasses import dataclass, field

HUB = "registry-1.docker.io"
GIB = 1 << 30


def series(name: str, **labels: str) -> str:
    """Return a series of one proxy."""
    pairs = {"job": "regproxy", "instance": "a:3129", **labels}
    return f"{name}{{{', '.join(f'{key}={value!r}' for key, value in pairs.items())}}}".replace("'", '"')


def requests(cache: str, code: str = "200", kind: str = "manifest-default") -> str:
    """Return a series of requests for Docker Hub."""
    labels = {"registry": HUB, "type": kind, "cache": cache, "code": code}
    return series("regproxy_requests_total", **labels)


def quota(name: str, **labels: str) -> str:
    """Return a series about an account's quota at Docker Hub."""
    return series(f"regproxy_{name}", registry=HUB, credential="ci", **labels)


@dataclass(frozen=True, slots=True)
class Case:
    """Samples in promtool's notation, after which `fires` alerts of that name fire at `at`.

    `labels`: what those that fire have to have. `step`: the time between two samples.
    """

    alert: str
    about: str
    samples: dict[str, str]
    at: str
    fires: int = 1
    labels: dict[str, str] = field(default_factory=dict)
    step: str = "1m"


UP = series("up")
EXITS = series("regproxy_worker_exits_total", reason="killed")
REFUSED = series("regproxy_reloads_total", result="refused")
DONE = series("regproxy_reloads_total", result="done")
GUESSES = series("regproxy_refused_logins_total", kind="basic")
DROPPED = series("regproxy_access_log_dropped_total")
LOST = series("regproxy_audit_lost_total", what="lines")
CA = series("regproxy_ca_not_after_timestamp_seconds")
LEAF = series("regproxy_leaf_not_after_timestamp_seconds")
STORE = series("regproxy_store_ok")
FREE = series("regproxy_cache_disk_free_bytes")
HELD = series("regproxy_cache_bytes")
LIMIT = series("regproxy_cache_max_bytes")
FLOOR = series("regproxy_cache_min_free_bytes")
MISMATCH = series("regproxy_digest_mismatches_total", registry=HUB)
CIRCUIT = series("regproxy_circuit_open", registry=HUB)
TOKENS = quota("token_fetches_total", outcome="refused")
ANONYMOUS = series("regproxy_token_fetches_total", registry=HUB, credential="anonymous", outcome="refused")
DAY = 86_400

PROXIES = [
    Case("RegproxyDown", "no answer for 6 minutes", {UP: "1 0x10"}, "7m", labels={"severity": "critical"}),
    Case("RegproxyDown", "a scrape that failed now and then", {UP: "1 0 0 1 0 0 1 0 0 1 0"}, "10m", 0),
    Case("RegproxyAbsent", "no target", {'up{job="other"}': "1x20"}, "15m", labels={"job": "regproxy"}),
    Case("RegproxyAbsent", "a target that is down", {UP: "0x20"}, "15m", 0),
    Case("RegproxyAbsent", "gone for 12 minutes", {UP: "1 1 1 _x20"}, "20m"),
    Case("RegproxyWorkersRestarting", "one a minute", {EXITS: "0+1x20"}, "10m"),
    Case("RegproxyWorkersRestarting", "one in all", {EXITS: "0x5 1x20"}, "10m", 0),
    Case("RegproxyWorkersRestarting", "many, an hour ago", {EXITS: "0+5x10 50x60"}, "60m", 0),
    Case("RegproxyReloadRefused", "once", {REFUSED: "0x5 1x20"}, "10m"),
    Case("RegproxyReloadRefused", "a reload that worked", {REFUSED: "0x20", DONE: "0x5 1x20"}, "10m", 0),
    Case("RegproxyReloadRefused", "two hours ago", {REFUSED: "0x5 1x130"}, "120m", 0),
    Case("RegproxyLoginsRefused", "one a second", {GUESSES: "0+60x30"}, "20m", labels={"kind": "basic"}),
    Case("RegproxyLoginsRefused", "one in ten seconds", {GUESSES: "0+6x30"}, "20m", 0),
    Case("RegproxyLoginsRefused", "600, at one time", {GUESSES: "0x5 600x30"}, "15m", 0),
    Case("RegproxyAccessLogLost", "some lines", {DROPPED: "0x5 7x20"}, "10m"),
    Case("RegproxyAccessLogLost", "none lately", {DROPPED: "7x30"}, "20m", 0),
    Case("RegproxyAuditLogLost", "some lines", {LOST: "0x5 7x20"}, "10m", labels={"what": "lines"}),
    Case("RegproxyAuditLogLost", "none lately", {LOST: "7x30"}, "20m", 0),
    Case("RegproxyCAExpiring", "29 days", {CA: f"{29 * DAY}x90"}, "80m", labels={"severity": "warning"}),
    Case("RegproxyCAExpiring", "31 days", {CA: f"{31 * DAY}x90"}, "80m", 0),
    Case("RegproxyCAExpiring", "6 days: the other alert's", {CA: f"{6 * DAY}x90"}, "80m", 0),
    Case("RegproxyCAAboutToExpire", "6 days", {CA: f"{6 * DAY}x90"}, "10m", labels={"severity": "critical"}),
    Case("RegproxyCAAboutToExpire", "it has ended", {CA: "60x90"}, "80m"),
    Case("RegproxyCAAboutToExpire", "8 days", {CA: f"{8 * DAY}x90"}, "10m", 0),
    Case("RegproxyCAAboutToExpire", "never", {CA: "9e15x90"}, "10m", 0),
    Case("RegproxyLeafExpiring", "6 days", {LEAF: f"{6 * DAY}x90"}, "80m", labels={"severity": "info"}),
    Case("RegproxyLeafExpiring", "a month", {LEAF: f"{30 * DAY}x90"}, "80m", 0),
    Case("RegproxyLeafExpiring", "no leaf yet", {LEAF: "9e15x90"}, "80m", 0),
]


def disk(about: str, fires: int, free: str, held: str = f"{10 * GIB}x60") -> Case:
    """Return a case of a cache of at most 32 GiB that leaves 1 GiB free, after nine hours."""
    samples = {FREE: free, HELD: held, LIMIT: f"{32 * GIB}x60", FLOOR: f"{GIB}x60"}
    return Case("RegproxyDiskFilling", about, samples, "9h", fires, step="10m")


def fall(about: str, fires: int, hits: float, misses: float) -> Case:
    """Return a case of a day with 90 % hits, and after it two hours with so many each ten minutes."""
    samples = {
        requests("HIT"): f"0+540x144 77760+{hits}x12",
        requests("MISS"): f"0+60x144 8640+{misses}x12",
    }
    return Case("RegproxyHitRatioHalved", about, samples, "26h", fires, step="10m")


CACHE = [
    Case(
        "RegproxyStoreFailing", "for ten minutes", {STORE: "1 0x20"}, "10m", labels={"severity": "critical"}
    ),
    Case("RegproxyStoreFailing", "for two minutes", {STORE: "1 0 0 1x20"}, "10m", 0),
    disk("by others, 1 GiB in 50 minutes", 1, f"{100 * GIB}-{GIB // 5}x60"),
    disk("by the cache, within its limit", 0, f"{100 * GIB}-{GIB // 5}x60", f"{10 * GIB}+{GIB // 5}x60"),
    disk("by nobody", 0, f"{100 * GIB}x60"),
    disk("too small a disk for the limit, but nothing grows", 0, f"{8 * GIB}x60"),
    Case("RegproxyDiskBelowFloor", "for half an hour", {FREE: f"{GIB // 2}x40", FLOOR: f"{GIB}x40"}, "30m"),
    Case(
        "RegproxyDiskBelowFloor",
        "now and then, until content is removed",
        {FREE: f"{GIB // 2} {2 * GIB} " * 20, FLOOR: f"{GIB}x40"},
        "30m",
        0,
    ),
    Case(
        "RegproxyDigestMismatch", "the first ever", {MISMATCH: "_x10 1x20"}, "12m", labels={"registry": HUB}
    ),
    Case("RegproxyDigestMismatch", "one more", {MISMATCH: "3x100 4x20"}, "110m"),
    Case("RegproxyDigestMismatch", "some, long ago", {MISMATCH: "3x200"}, "120m", 0),
    fall("from 90 % to 20 %", 1, 120, 480),
    fall("from 90 % to 60 %", 0, 360, 240),
    fall("to nothing, with a request in two minutes", 0, 0, 5),
    Case(
        "RegproxyHitRatioHalved",
        "none on its first day",
        {requests("HIT"): "0+10x30", requests("MISS"): "0+590x30"},
        "5h",
        0,
        step="10m",
    ),
    Case(
        "RegproxyStaleShareHigh",
        "half of them",
        {requests("STALE"): "0+10x60", requests("HIT"): "0+10x60"},
        "50m",
        labels={"registry": HUB},
    ),
    Case(
        "RegproxyStaleShareHigh",
        "one in twenty",
        {requests("STALE"): "0+1x60", requests("HIT"): "0+19x60"},
        "50m",
        0,
    ),
    Case("RegproxyStaleShareHigh", "one request in ten minutes", {requests("STALE"): "0+0.1x60"}, "50m", 0),
]


def left(about: str, alert: str, fires: int, remaining: str, seen: str = "0+60x90", at: str = "60m") -> Case:
    """Return a case of what is left of 100 GETs in six hours, which the registry says each minute."""
    samples = {
        quota("quota_limit"): "100x90",
        quota("quota_remaining"): remaining,
        quota("quota_window_seconds"): "21600x90",
        quota("quota_seen_timestamp_seconds"): seen,
    }
    return Case(alert, about, samples, at, fires, {"registry": HUB, "credential": "ci"} if fires else {})


REGISTRIES = [
    left("9 of 100", "RegproxyQuotaLow", 1, "9x90"),
    left("11 of 100", "RegproxyQuotaLow", 0, "11x90"),
    left("9 of 100, said a window ago", "RegproxyQuotaLow", 0, "9x90", seen="-21000x90"),
    left("one less each minute", "RegproxyQuotaEndsEarly", 1, "200-1x90"),
    left("one less each ten minutes", "RegproxyQuotaEndsEarly", 0, "100-0.1x90"),
    left("renewed", "RegproxyQuotaEndsEarly", 0, "30-1x29 200x60"),
    Case(
        "RegproxyTooManyRequests",
        "by the registry, each minute",
        {quota("upstream_429_total", method="GET"): "0+1x60"},
        "30m",
        labels={"registry": HUB, "instance": "a:3129"},
    ),
    Case("RegproxyTooManyRequests", "in its place, each minute", {requests("none", "429"): "0+1x60"}, "30m"),
    Case(
        "RegproxyTooManyRequests",
        "five, at one time",
        {quota("upstream_429_total", method="GET"): "0x10 5x50"},
        "18m",
        0,
    ),
    Case("RegproxyCircuitOpen", "for ten minutes", {CIRCUIT: "0 1x20"}, "10m", labels={"registry": HUB}),
    Case("RegproxyCircuitOpen", "opened twice", {CIRCUIT: "0 1 1 0 0 1 1 0x20"}, "10m", 0),
    Case(
        "RegproxyUpstreamLoginRefused", "one a minute", {TOKENS: "0+1x60"}, "30m", labels={"credential": "ci"}
    ),
    Case("RegproxyUpstreamLoginRefused", "one in all", {TOKENS: "0x10 1x50"}, "15m", 0),
    Case("RegproxyUpstreamLoginRefused", "without a login", {ANONYMOUS: "0+1x60"}, "30m", 0),
]

CASES = [*PROXIES, *CACHE, *REGISTRIES]
