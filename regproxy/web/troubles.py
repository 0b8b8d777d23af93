"""Say what is wrong with a proxy, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

from msgspec import Struct

from regproxy.admin.endpoints.registries import Quota, Registry
from regproxy.admin.endpoints.status import Status
from regproxy.core.sizes import size_text
from regproxy.telemetry.metric_samples import Samples
from regproxy.web.wording import clock, span

DAY: Final = 86_400.0
CA_SOON: Final = 30 * DAY  # as the alerts of deploy/mixin have it: time to spread a new one
CA_URGENT: Final = 7 * DAY
QUOTA_LOW: Final = 0.1  # of the limit
WARNINGS_SHOWN: Final = 10

_APPLY: Final = "If it is in the TOML file, reload; if it is in the environment, restart."
_ELSEWHERE: Final = "If another CA has signed it, put a new one from there in its place, with its key."
_ROTATE: Final = (
    "Run `regproxy ca rotate`, have all clients trust the new CA, then `regproxy ca rotate --finish`. "
    + _ELSEWHERE
)
# One that has expired is neither loaded nor rotated.
_REPLACE: Final = (
    "If a new one waits already (ca.next), run `regproxy ca rotate --finish`. Otherwise, if the proxy has"
    " made this one, remove ca.crt and ca.key and restart: a new one is made, which all clients have to"
    " trust. " + _ELSEWHERE
)

Level = Literal["bad", "warn", "note"]


class Trouble(Struct, frozen=True):
    """Something wrong. `level`: `bad` hurts clients now, `warn` will, `note` is good to know."""

    level: Level
    what: str
    to_do: str


class Health(Struct, frozen=True):
    """What the metrics say besides the status. `ca_ends`: epoch. None: not known."""

    store_ok: bool | None
    index_complete: bool | None
    min_free: float
    ca_ends: float | None


def health(samples: Samples) -> Health:
    """Return the health that these metrics tell."""

    def value(name: str) -> float | None:
        return samples.by(name, "").get("")

    store, complete = value("store_ok"), value("index_complete")
    return Health(
        store_ok=None if store is None else store > 0,
        index_complete=None if complete is None else complete > 0,
        min_free=value("cache_min_free_bytes") or 0.0,
        ca_ends=value("ca_not_after_timestamp_seconds") or None,
    )


def troubles(
    status: Status, registries: Iterable[Registry], known: Health, workers: int, now: float
) -> list[Trouble]:
    """Return what is wrong, the worst first. `workers`: how many there should be; `now`: epoch."""
    found = [
        *_of_processes(status, workers),
        *_of_the_disk(status, known),
        *(each for registry in registries for each in _of_registry(registry, now)),
        *_of_uncovered_names(status),
        *_of_the_ca(known, now),
        *_of_the_configuration(status),
    ]
    order = ("bad", "warn", "note")
    return sorted(found, key=lambda each: order.index(each.level))


def _of_processes(status: Status, workers: int) -> Iterator[Trouble]:
    if not status.ready:
        yield Trouble(
            "bad",
            f"The proxy is not ready: {status.not_ready_because}.",
            "While it starts, stops or reloads, wait a moment. If that goes on, read its log.",
        )
    elif status.workers < workers:
        yield Trouble(
            "warn",
            f"{status.workers} of {workers} workers take connections.",
            "A worker that has ended is restarted. If it keeps ending, the log says why.",
        )
    if status.offline.on:
        how = (
            f"REGPROXY_OFFLINE is true: change it. {_APPLY}"
            if status.offline.by == "setting"
            else "Switch it back with `regproxy offline off`, or below if you have the token for everything."
        )
        yield Trouble("warn", "The proxy is offline: no registry is asked, only the cache answers.", how)


def _of_the_disk(status: Status, known: Health) -> Iterator[Trouble]:
    if known.store_ok is False:
        yield Trouble(
            "bad",
            "Downloads can't be written to the disk: pulls still work, but nothing new is cached.",
            "Check the free space, the permissions and the health of the cache's file system. "
            "The log names the error. Caching resumes by itself.",
        )
    elif known.min_free and 0 < status.cache.free_bytes < known.min_free:
        free = size_text(status.cache.free_bytes)
        yield Trouble(
            "warn",
            f"The cache's disk has {free} free; {size_text(known.min_free)} should stay free.",
            "The proxy evicts what was unused longest. If something else fills the disk, make room there.",
        )
    if status.cache.pins is None:
        yield Trouble(
            "warn",
            "The cache's index can't be read.",
            "Pulls go on. Check the log, and the disk that the cache is on.",
        )
    elif known.index_complete is False:
        yield Trouble(
            "note",
            "The index does not list everything on the disk yet.",
            "It is being rebuilt. Until that is done, some figures here are too low.",
        )


def _of_registry(registry: Registry, now: float) -> Iterator[Trouble]:
    circuit = registry.circuit
    if circuit.state == "open":
        again = f" It is asked again {_until(circuit.retry_at, now)}." if circuit.retry_at else ""
        cause = f": {circuit.cause.rstrip('.')}" if circuit.cause else ""
        yield Trouble(
            "bad",
            f"{registry.name} can't be reached{cause}.",
            "What is in the cache is still answered. Try the registry from this host; look at DNS, the"
            f" firewall, and the registry's own status page.{again}",
        )
    for quota in registry.quotas:
        yield from _of_quota(registry.name, quota, now)


def _of_quota(name: str, quota: Quota, now: float) -> Iterator[Trouble]:
    advice = "Configure a login with a higher limit, or pull less by tag; what is cached needs no quota."
    blocked = [until for until in quota.refused_until.values() if until > now]
    if blocked:
        yield Trouble(
            "bad",
            f"{name} answers 429, too many requests ({quota.credential}).",
            f"It is asked again {_until(max(blocked), now)}. {advice}",
        )
    elif quota.remaining is not None and quota.limit and quota.remaining < quota.limit * QUOTA_LOW:
        yield Trouble(
            "warn",
            f"{name} has {quota.remaining} of {quota.limit} requests left ({quota.credential}).",
            advice,
        )
    elif quota.ends_at is not None and quota.ends_at - now < (quota.window_seconds or 0):
        yield Trouble(
            "warn",
            f"At this rate the quota of {name} ends {_until(quota.ends_at, now)} ({quota.credential}).",
            advice,
        )


def _of_uncovered_names(status: Status) -> Iterator[Trouble]:
    if not status.ca_lacks:
        return
    names = " ".join(status.ca_lacks[:WARNINGS_SHOWN])
    if (more := len(status.ca_lacks) - WARNINGS_SHOWN) > 0:
        names += f" and {more} more"
    yield Trouble(
        "bad",
        f"The CA may not sign {names}: TLS to these names fails, CONNECT gets 502.",
        f"Reload: that makes a CA for them, which all clients have to trust. {_ELSEWHERE}",
    )


def _of_the_ca(known: Health, now: float) -> Iterator[Trouble]:
    if known.ca_ends is None or known.ca_ends - now > CA_SOON:
        return
    left = known.ca_ends - now
    if left > 0:
        what, to_do = f"The CA expires in {span(left)}", _ROTATE
    else:
        what, to_do = "The CA has expired: clients refuse the proxy", _REPLACE
    yield Trouble("bad" if left < CA_URGENT else "warn", f"{what} ({clock(known.ca_ends)}).", to_do)


def _of_the_configuration(status: Status) -> Iterator[Trouble]:
    for warning in status.warnings[:WARNINGS_SHOWN]:
        yield Trouble("note", f"Configuration: {warning}", f"Change the setting that it names. {_APPLY}")
    if (more := len(status.warnings) - WARNINGS_SHOWN) > 0:
        yield Trouble("note", f"Configuration: {more} more warnings.", "GET /api/v1/status lists them.")


def _until(at: float | None, now: float) -> str:
    return f"in {span(at - now)}" if at is not None and at > now else "now"
