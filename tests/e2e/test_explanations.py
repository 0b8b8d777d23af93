"""The admin port says which rule for images decides, with what the proxy knows of the tag."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from tests.support.client import Client, Reply
from tests.support.images import INDEX, MANIFEST, make_image
from tests.support.origin import Origin
from tests.support.proxy import Proxy
from tests.support.trust import Trust

IMAGE = make_image(seed=961)
PATH = "/api/v1/rules/explain"
RULES = f"""
[[rule]]
name = "bad"
digest = "{IMAGE.digest}"
action = "deny"
message = "It is broken"

[[rule]]
name = "young"
repository = "team/**"
min_tag_age = "3d"
action = "allow"

[[rule]]
name = "rest"
principal = "ci"
action = "warn"
"""


@pytest.fixture(scope="module")
def origin(trust: Trust) -> Iterator[Origin]:
    with Origin(trust, "reg.test") as origin:
        yield origin


@pytest.fixture(scope="module")
def proxy(origin: Origin, trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    place = tmp_path_factory.mktemp("proxy")
    (place / "rules.toml").write_text(RULES)
    settings = {"ENABLE_MANIFEST_CACHE": "true", "REGPROXY_CONFIG": str(place / "rules.toml")}
    with Proxy(
        place, settings, registries=(origin.authority,), resolve=origin.resolve, ca=trust.path
    ) as proxy:
        yield proxy


def ask(proxy: Proxy, query: str, method: str = "GET") -> Reply:
    with Client.connect(proxy.admin_address) as admin:
        return admin.request(method, f"{PATH}?{query}")


def explain(proxy: Proxy, **asked: str) -> dict[str, object]:
    reply = ask(proxy, urlencode(asked))
    assert (reply.status, reply.get("Content-Type")) == (200, "application/json")
    found: dict[str, object] = json.loads(reply.body)
    return found


def test_by_digest(proxy: Proxy) -> None:
    found = explain(proxy, image=f"reg.test/team/app@{IMAGE.digest}")
    assert found["decision"]["rule"] == "bad"  # type: ignore[index]
    assert found["decision"]["message"] == "It is broken"  # type: ignore[index]


def test_what_it_does_not_know(proxy: Proxy) -> None:
    """It asks nobody."""
    found = explain(proxy, image="reg.test/team/none:v1")
    assert found["decision"] is None
    assert [need["kind"] for need in found["needs"]] == ["digest"]  # type: ignore[attr-defined]
    found = explain(proxy, image="reg.test/team/none:v1", digest="sha256:" + "0" * 64)
    assert found["decision"] is None
    assert [need["kind"] for need in found["needs"]] == ["history"]  # type: ignore[attr-defined]


def test_what_a_tag_was_last(proxy: Proxy, origin: Origin) -> None:
    other = make_image(seed=962)
    origin.publish("team/app", other, "v1")
    with proxy.client(origin.authority) as client:
        assert client.get("/v2/team/app/manifests/v1", [("Accept", f"{INDEX}, {MANIFEST}")]).status == 200
    asked = len(origin.requests)
    found = explain(proxy, image=f"{origin.authority}/team/app:v1", **{"as": "ci"})
    assert found["known"]["digest"] == other.digest  # type: ignore[index]
    assert [seen["digest"] for seen in found["known"]["history"]] == [other.digest]  # type: ignore[index]
    assert found["decision"]["rule"] == "young"  # type: ignore[index]
    assert found["principal"] == "ci"
    # What the question says goes before what is known.
    found = explain(proxy, image=f"{origin.authority}/team/app:v1", digest=IMAGE.digest)
    assert found["decision"]["rule"] == "bad"  # type: ignore[index]
    assert len(origin.requests) == asked


def test_who_asks_matters_not_but_who_pulls(proxy: Proxy) -> None:
    rules = [
        explain(proxy, image="reg.test/x/y:1", digest="sha256:" + "0" * 64, **{"as": name})["decision"]
        for name in ("ci", "anonymous")
    ]
    assert [decision["rule"] for decision in rules] == ["rest", ""]  # type: ignore[index]


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("", "object missing required field image"),
        ("image=", "the name of an image"),
        ("image", "not name=value&name=value"),
        ("image=a:b:c", "a:b:c"),
        ("image=x/y&image=x/z", "a field more than once"),
        ("image=x/y&who=ci", "unknown field who; there are image, as, digest, media_type, push"),
        ("image=x/y&push=yes", "push: expected bool, got str"),
        ("image=x/y&digest=sha256:12", "digest sha256:12: sha256: and 64 hex digits"),
        ("image=%ff", "not name=value&name=value"),
    ],
)
def test_bad_questions(query: str, why: str, proxy: Proxy) -> None:
    reply = ask(proxy, query)
    assert reply.status == 400
    assert why in json.loads(reply.body)["detail"]


def test_methods(proxy: Proxy) -> None:
    query = urlencode({"image": "reg.test/x/y:1"})
    assert ask(proxy, query, "HEAD").body == b""
    assert ask(proxy, query, "POST").status == 405
