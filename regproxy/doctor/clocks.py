"""Do the host's clock, the proxy's and the CA's dates go together?"""

from __future__ import annotations

from typing import Final

from cryptography import x509

from regproxy.doctor.findings import Finding, error, ok, warning

SUBJECT: Final = "clock"
_SKEW_MAX: Final = 300.0  # seconds
_DAY: Final = 86_400.0
_NEAR_END: Final = 30 * _DAY
_SYNC: Final = "let NTP set the clocks of both"


def examine(ca: x509.Certificate, date: float | None, now: float) -> list[Finding]:
    """Return what is to be said; `date` is the proxy's clock, `now` this host's. Seconds since the epoch."""
    starts, ends = ca.not_valid_before_utc.timestamp(), ca.not_valid_after_utc.timestamp()
    if now < starts:
        what = f"this host's clock is before the CA's first day, {ca.not_valid_before_utc:%Y-%m-%d}"
        return [error(SUBJECT, what, "set this host's clock: no TLS handshake succeeds before")]
    if now > ends:
        what = f"the proxy's CA has expired on {ca.not_valid_after_utc:%Y-%m-%d}"
        return [
            error(
                SUBJECT,
                what,
                "renew the CA at the proxy (or correct this host's clock), run the set-ups again",
            )
        ]
    found = []
    if date is not None and abs(date - now) > _SKEW_MAX:
        what = f"this host and the proxy are {abs(date - now):.0f} s apart"
        found.append(warning(SUBJECT, what, _SYNC))
    if ends - now < _NEAR_END:
        what = f"the proxy's CA ends on {ca.not_valid_after_utc:%Y-%m-%d}"
        found.append(warning(SUBJECT, what, "renew it at the proxy, run the set-ups again"))
    return found or [ok(SUBJECT, "this host, the proxy and the CA's dates agree")]
