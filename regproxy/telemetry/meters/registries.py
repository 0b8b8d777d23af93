"""Registries: quotas, circuits, tokens, names, tags, and what could not be stored."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from regproxy.telemetry.meters.declaring import Declaring


class RegistryMeters(Declaring):
    """The metrics of registries."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self._declare_quotas()
        self._declare_registries()
        self._declare_names()

    def _declare_quotas(self) -> None:
        counter, gauge, quota = self._counter, self._gauge, ["registry", "credential"]
        self._quota_limit = gauge(
            "quota_limit", "Requests that a registry allows in its window.", "mostrecent", quota
        )
        self._quota_remaining = gauge(
            "quota_remaining", "Those that are left, as it said last.", "mostrecent", quota
        )
        self._quota_window = gauge(
            "quota_window_seconds", "The length of that window, as it said last.", "mostrecent", quota
        )
        self._quota_seen = gauge("quota_seen_timestamp_seconds", "When it said so last.", "mostrecent", quota)
        self._refused_429 = counter(
            "upstream_429", "Requests that registries refused as too many.", [*quota, "method"]
        )
        self._manifest_requests = counter(
            "upstream_manifest_requests", "Requests for manifests to registries.", [*quota, "method"]
        )
        self._token_fetches = counter("token_fetches", "Tokens that were asked for.", [*quota, "outcome"])

    def _declare_registries(self) -> None:
        counter, registry = self._counter, ["registry"]
        self._circuit_open = self._gauge(
            "circuit_open", "1: a registry can't be reached, and is left alone.", "livemax", registry
        )
        self._circuit_refusals = counter(
            "circuit_refusals", "Requests that were not sent to it meanwhile.", registry
        )
        self._mismatches = counter(
            "digest_mismatches", "Bodies from upstreams that were not what their digest names.", registry
        )
        self._tag_moves = counter(
            "tag_moves", "Tags that were found to be another digest than before.", registry
        )
        self._passed_on = counter(
            "passed_on", "Answers that could not be stored, and went on as they came.", ["registry", "reason"]
        )
        self._withheld = counter(
            "logins_withheld", "Requests that went without the login that there is.", registry
        )

    def _declare_names(self) -> None:
        counter = self._counter
        self._lookups = counter("lookups", "Names that were looked up, or were not.", ["lane", "outcome"])
        self._targets_refused = counter(
            "targets_refused", "Hosts at addresses that whoever named them may not lead to.", ["by"]
        )
        for by in ("client", "answer"):
            self._targets_refused.labels(by)

    def _begin_registry(self, name: str) -> None:
        """Make a registry's series that are alerted on: increase() does not see a series' first value."""
        self._mismatches.labels(name)
        self._tag_moves.labels(name)

    def digest_mismatch(self, registry: str) -> None:
        """Count a body that does not match its digest."""
        self._mismatches.labels(self._labels.registries.bound(registry)).inc()

    def tag_moved(self, registry: str) -> None:
        """Count a tag that has become another digest."""
        self._tag_moves.labels(self._labels.registries.bound(registry)).inc()

    def quota(
        self, registry: str, credential: str, limit: int, remaining: int, window: float, seen: float
    ) -> None:
        """Set the limit and the rest of a registry's quota. `credential`: a name, never a secret.

        `window`: in seconds; `seen`: when the registry said so, epoch.
        """
        labels = self._labels.hosts.bound(registry), self._labels.credentials.bound(credential)
        self._quota_limit.labels(*labels).set(limit)
        self._quota_remaining.labels(*labels).set(remaining)
        self._quota_window.labels(*labels).set(window)
        self._quota_seen.labels(*labels).set(seen)

    def upstream_429(self, registry: str, credential: str, method: str) -> None:
        """Count a request that a registry refused with 429. `method`: GET, HEAD or other."""
        labels = self._labels.hosts.bound(registry), self._labels.credentials.bound(credential)
        self._refused_429.labels(*labels, method).inc()

    def manifest_request(self, registry: str, credential: str, method: str) -> None:
        """Count a request for a manifest, which is what registries count. `method`: GET, HEAD or other."""
        labels = self._labels.hosts.bound(registry), self._labels.credentials.bound(credential)
        self._manifest_requests.labels(*labels, method).inc()

    def circuit(self, registry: str, is_open: bool) -> None:
        """Record whether a registry's circuit breaker is open."""
        self._circuit_open.labels(self._labels.hosts.bound(registry)).set(is_open)

    def circuit_refused(self, registry: str) -> None:
        """Count a request that was not sent because the circuit breaker was open."""
        self._circuit_refusals.labels(self._labels.hosts.bound(registry)).inc()

    def token_fetch(self, registry: str, credential: str, outcome: str) -> None:
        """Count one request for a token: "issued", "refused" or "error". `credential`: a name, no secret."""
        labels = self._labels.hosts.bound(registry), self._labels.credentials.bound(credential)
        self._token_fetches.labels(*labels, outcome).inc()

    def lookup(self, lane: str, outcome: str) -> None:
        """Count a lookup of a name. `lane`: of name_lookups; "found", "missing", "failed" or "refused"."""
        self._lookups.labels(lane, outcome).inc()

    def target_refused(self, by: str) -> None:
        """Count a host that was not connected to because of its addresses. `by`: the party that has named
        it.
        """
        self._targets_refused.labels(by).inc()

    def login_withheld(self, registry: str) -> None:
        """Count a client's request that is of no kind for which logins are used."""
        self._withheld.labels(self._labels.hosts.bound(registry)).inc()

    def passed_on(self, registry: str, reason: str) -> None:
        """Count an answer that could not be stored. `reason`: one of NotUnderstood.DETAILS."""
        self._passed_on.labels(self._labels.hosts.bound(registry), reason).inc()
