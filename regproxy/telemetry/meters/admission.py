"""Who and what is let in: rules for images, access to private content, logins of clients."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter

from regproxy.telemetry.meters.declaring import Declaring

LOGINS: Final = ("basic", "busy", "unavailable", "certificate", "unknown", "preface")


class AdmissionMeters(Declaring):
    """The metrics of what is let in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self._decided: dict[tuple[str, str], tuple[list[int], Counter]] = {}
        self._decisions = self._counter(
            "rule_decisions",
            "Requests for images, by the rule that has decided and what.",
            ["rule", "action"],
        )
        self._verdicts = self._counter(
            "access_verdicts",
            "Questions whether a client may have private content, by what became of them.",
            ["registry", "verdict"],
        )
        self._refused_logins = self._counter(
            "refused_logins", "Clients that were not let in, by what they lacked.", ["kind"]
        )
        for kind in LOGINS:
            self._refused_logins.labels(kind)

    def rule_count(self, rule: str, action: str) -> list[int]:
        """Return the list whose only item is the number of requests that a rule has decided so.

        The caller adds to it. `action`: a word of a small set.
        """
        key = (self._labels.rules.bound(rule), action)
        found = self._decided.get(key)
        if found is None:
            found = self._decided[key] = ([0], self._decisions.labels(*key))
        return found[0]

    def access_verdict(self, registry: str, verdict: str) -> None:
        """Count who was let in, or was not. `verdict`: a word of a small set."""
        self._verdicts.labels(self._labels.registries.bound(registry), verdict).inc()

    def login_refused(self, kind: str) -> None:
        """Count a client that was not let in. `kind`: one of LOGINS."""
        self._refused_logins.labels(kind).inc()

    def _publish_decisions(self) -> None:
        for counted, series in self._decided.values():
            series.inc(counted[0])
            counted[0] = 0
