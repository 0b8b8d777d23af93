"""Names that somebody has mistyped."""

from __future__ import annotations

import pytest

from regproxy.config.misspelt import key_hint, setting_hint, unread

KNOWN = ("REGPROXY_LISTEN", "CACHE_MAX_SIZE", "ENABLE_MANIFEST_CACHE", "HTTPS_PROXY", "VERIFY_SSL", "DEBUG")


@pytest.mark.parametrize(
    ("key", "lists", "hint"),
    [
        ("verifi", True, "; did you mean verify?"),
        ("VERIFY", True, "; did you mean verify?"),
        ("zzz", True, "; there are verify, access"),
        ("zzz", False, ""),
    ],
)
def test_keys(key: str, lists: bool, hint: str) -> None:
    assert key_hint(key, ("verify", "access"), lists=lists) == hint


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("REGPROXY_LISTN", "; did you mean REGPROXY_LISTEN?"),
        ("REGPROXY_CACHE_MAX_SIZE", "; did you mean CACHE_MAX_SIZE?"),  # the prefix alone is wrong
        ("REGPROXY_ZZZ", ""),
    ],
)
def test_settings(name: str, hint: str) -> None:
    assert setting_hint(name, KNOWN) == hint


@pytest.mark.parametrize("name", ["ENABLE_MANIFEST_CACH", "CACHE_MAXSIZE", "REGPROXY_ZZZ", "REGPROXY_LISTN"])
def test_what_is_meant_for_the_proxy(name: str) -> None:
    assert unread({name, "PATH", "HOME"}, KNOWN) == [name]


@pytest.mark.parametrize(
    "name",
    [
        *("HTTP_PROXY", "VERIFY_TLS"),  # near, and other programs'
        *("cache_maxsize", "DEBU", "CACHE"),  # no name of that kind, or too short to tell
        *("REGPROXY_PORT_3128_TCP", "REGPROXY_SERVICE_HOST", "REGPROXY_HEADLESS_SERVICE_PORT"),  # Kubernetes'
        *KNOWN,
    ],
)
def test_what_is_not(name: str) -> None:
    assert unread({name}, KNOWN) == []
