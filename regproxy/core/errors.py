"""Define the exception tree. Each error has the HTTP status and the OCI error code of its answer."""

from __future__ import annotations

import logging


class RegproxyError(Exception):
    """Any error of regproxy. `status` is the HTTP status, `code` the OCI error code of its answer.

    `retry_after`: seconds after which it is worth asking again, for a Retry-After field; 0: unknown.
    """

    status = 500
    code = "UNKNOWN"
    retry_after = 0


class ConfigError(RegproxyError):
    """A setting that can't be used: names the variable, its value and what would be right.

    The value of a secret variable is never part of the message: pass `value=None` for it. `warnings`: what
    was found beside it.
    """

    warnings: tuple[str, ...] = ()

    def __init__(self, variable: str, value: str | None, expected: str) -> None:
        shown = "" if value is None else f"={value!r}"
        super().__init__(f"{variable}{shown}: {expected}")
        self.variable = variable
        self.value = value
        self.expected = expected


class CertificateError(RegproxyError):
    """The CA's files can't be used: names the file, what is wrong with it and what would be right."""


class HeadError(RegproxyError):
    """A client's message head that can't be parsed (RFC 9112)."""

    code = "UNSUPPORTED"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Refused(RegproxyError):
    """A request that policy does not allow."""

    status = 403
    code = "DENIED"


class OnHold(Refused):
    """A request that policy does not allow yet; it is worth asking again after `retry_after` seconds."""

    status = 503
    code = "UNAVAILABLE"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoreError(RegproxyError):
    """The cache directory can't be used."""

    status = 503
    code = "UNAVAILABLE"


class UpstreamError(RegproxyError):
    """The origin could not be asked, or its answer can't be used.

    `is_logged`: the log already says why, in one line for all the requests that fail for this reason.
    """

    status = 502
    code = "UNAVAILABLE"
    is_logged = False


class ConnectFailed(UpstreamError):
    """No connection to the origin: name resolution, TCP or TLS."""


class UnknownCA(ConnectFailed):
    """The origin's certificate is not signed by a CA that the proxy knows. It is logged where it is found."""

    is_logged = True


class UpstreamTimeout(UpstreamError):
    """The origin did not answer in time."""

    status = 504


class OffLimits(UpstreamError):
    """An origin's answer leads to an address that the configuration does not allow it to lead to."""


class Busy(UpstreamError):
    """The requester has so many name lookups under way that no other is started: no server was asked."""

    status = 503

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.retry_after = 1


class BadResponse(UpstreamError):
    """The origin's head or body breaks HTTP or the OCI distribution spec."""


class NotUnderstood(BadResponse):
    """The origin's answer can't be verified or stored, but a client may know what to do with it.

    `detail`: one of DETAILS, for Cache-Status (RFC 9211 2.8) and metrics.
    """

    DETAILS = frozenset(
        {"too-large", "content-coding", "media-type", "no-manifest", "signed-schema1", "not-shown"}
    )

    def __init__(self, message: str, detail: str) -> None:
        super().__init__(message)
        self.detail = detail


class NotShown(NotUnderstood):
    """Content is stored, or being fetched, and the registry does not show that this client may have it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "not-shown")


class DigestMismatch(UpstreamError):
    """The origin's bytes are not those that the digest names."""


class RateLimited(UpstreamError):
    """The origin has answered 429, and is not asked again before `retry_after` seconds are over."""

    status = 429
    code = "TOOMANYREQUESTS"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CircuitOpen(UpstreamError):
    """The origin failed several times in a row, and is not asked before `retry_after` seconds are over."""

    status = 503

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CredentialError(RegproxyError):
    """A configured credential can't be obtained: a file is missing, a helper fails. Names no secret."""

    status = 502
    code = "UNAVAILABLE"


class Unsatisfiable(RegproxyError):
    """A byte range that has no byte in common with the body of `total` bytes (RFC 9110 15.5.17)."""

    status = 416
    code = "RANGE_INVALID"

    def __init__(self, total: int) -> None:
        super().__init__(f"the range lies outside of the {total} bytes")
        self.total = total


def log_level(error: object, usual: int = logging.WARNING) -> int:
    """Return the level at which to log what an error has led to: DEBUG if its cause is logged already."""
    return logging.DEBUG if isinstance(error, UpstreamError) and error.is_logged else usual
