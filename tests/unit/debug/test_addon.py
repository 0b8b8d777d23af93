"""What the addon masks, without mitmproxy: messages stand in for its own."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest


class Fields(dict[str, list[str]]):
    """The part of mitmproxy's Headers that is used."""

    def get_all(self, name: str) -> list[str]:
        return self.get(name, [])

    def set_all(self, name: str, values: list[str]) -> None:
        self[name] = values


class Message:
    """The part of mitmproxy's Request that is used."""

    def __init__(self, path: str = "/v2/", **fields: str) -> None:
        self.path = path
        self.headers = Fields({name.replace("_", "-"): [value] for name, value in fields.items()})

    def copy(self) -> Message:
        return copy.deepcopy(self)

    def shown(self) -> str:
        return f"{self.path} {dict(self.headers)}"


@pytest.fixture
def addon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("mitmproxy", "ctx", "http", "net", "net.http", "net.http.http1", "version"):
        full = name if name == "mitmproxy" else f"mitmproxy.{name}"
        monkeypatch.setitem(sys.modules, full, ModuleType(full))
    monkeypatch.delitem(sys.modules, "regproxy.debug.addon", raising=False)
    import regproxy.debug.addon as module

    yield module
    sys.modules.pop("regproxy.debug.addon", None)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("authorization", "Bearer s3cret.token", "Bearer (masked)"),
        ("authorization", "Basic dXNlcjpwYXNz", "Basic (masked)"),
        ("authorization", "s3cret", "(masked)"),
        ("proxy-authorization", "Basic dXNlcjpwYXNz", "Basic (masked)"),
        ("cookie", "session=s3cret; other=s3cret", "session=(masked)"),
        ("set-cookie", "session=s3cret; Path=/", "session=(masked)"),
        (
            "location",
            "https://cdn.test/b?X-Amz-Signature=s3cret&n=1",
            "https://cdn.test/b?X-Amz-Signature=(masked)&n=1",
        ),
        ("location", "/v2/a/blobs/uploads/u?_state=s3cret", "/v2/a/blobs/uploads/u?_state=(masked)"),
        ("referer", "https://reg.test/?sig=s3cret", "https://reg.test/?sig=(masked)"),
        ("link", "</v2/_catalog?last=a&n=2>; rel=next", "</v2/_catalog?last=a&n=2>; rel=next"),
    ],
)
def test_fields(name: str, value: str, shown: str, addon: Any) -> None:
    assert addon.masked_field(name, value) == shown


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/token?scope=repository:a:pull&service=s", "/token?scope=repository:a:pull&service=s"),
        ("/token?account=me&password=s3cret", "/token?account=(masked)&password=(masked)"),
        (
            "/v2/a/blobs/uploads/?digest=sha256:1&_state=s3cret",
            "/v2/a/blobs/uploads/?digest=sha256:1&_state=(masked)",
        ),
        ("/blob?Expires=1;Signature=s3cret", "/blob?Expires=(masked);Signature=(masked)"),
        ("/v2/a/manifests/1", "/v2/a/manifests/1"),
    ],
)
def test_queries(path: str, shown: str, addon: Any) -> None:
    assert addon.masked_query(path) == shown


def test_the_wire_has_what_was_sent(addon: Any) -> None:
    message = Message("/v2/a?sig=s3cret", authorization="Bearer s3cret", accept="*/*", location="/?t=s3cret")
    before = message.shown()
    addon.mask(message)
    assert "s3cret" not in message.shown()
    assert addon.real(message).shown() == before
    assert "s3cret" not in message.shown()


def test_what_was_edited_stays(addon: Any) -> None:
    """By whoever uses the page; nothing secret is put beside it."""
    message = Message("/v2/a?sig=s3cret", authorization="Bearer s3cret")
    addon.mask(message)
    message.path = "/v2/b"
    message.headers.set_all("authorization", ["Basic mine"])
    assert addon.real(message).shown() == message.shown()


def test_a_message_without_secrets_is_itself(addon: Any) -> None:
    message = Message("/v2/a/manifests/1", accept="*/*")
    addon.mask(message)
    assert addon.real(message) is message


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/v2/", True),
        ("/v2/_catalog", True),
        ("/v2/a/b/manifests/1", True),
        ("/v2/a/blobs/sha256:1", True),
        ("/v2/a/blobs/uploads/u", False),
        ("/token", False),
        ("/oauth2/token", False),
        ("/v2/token", False),
        ("/", False),
    ],
)
def test_bodies_that_are_kept(path: str, kept: bool, addon: Any) -> None:
    """None but a registry's content: others may be tokens."""
    assert bool(addon._CONTENT.match(path)) is kept
