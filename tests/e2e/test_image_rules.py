"""Rules for images: what users see, and that what was judged is what is served, by every way in."""

from __future__ import annotations

import base64
import functools
import json
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client, Reply
from tests.support.images import INDEX, MANIFEST, Image, Index, digest_of, make_image, make_index
from tests.support.origin import Answer, Origin, Seen, manifest_answer
from tests.support.processes import wait_until
from tests.support.proxies import Proxies
from tests.support.proxy import Proxy
from tests.support.trust import Trust

StartProxy = Callable[..., Proxy]
StartOrigin = Callable[..., Origin]

REPOSITORY = "team/app"
ACCEPT = [("Accept", f"{INDEX}, {MANIFEST}")]
IMAGE, OTHER = make_image(seed=951), make_image(seed=952)
WHOLE = make_index(seed=953)
DAY = 86_400.0


class Ruled:
    """A proxy with rules before an origin."""

    def __init__(self, proxy: Proxy, origin: Origin) -> None:
        self.proxy, self.origin = proxy, origin

    def ask(
        self,
        reference: str,
        method: str = "GET",
        *,
        repository: str = REPOSITORY,
        section: str = "manifests",
        headers: list[tuple[str, str]] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        return self.path(f"/v2/{repository}/{section}/{reference}", method, headers, body)

    def path(
        self,
        path: str,
        method: str = "GET",
        headers: list[tuple[str, str]] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        with self.proxy.client(self.origin.authority) as client:
            return client.request(method, path, [*ACCEPT, *(headers or [])], body)

    def publish(self, image: Image | Index, *tags: str, repository: str = REPOSITORY) -> None:
        self.origin.publish(repository, image, *tags)


def told(reply: Reply) -> tuple[str, str]:
    """Return code and message of an error."""
    (error,) = json.loads(reply.body)["errors"]
    return error["code"], error["message"]


@pytest.fixture
def ruled(start_proxy: StartProxy, start_origin: StartOrigin, tmp_path: Path) -> Callable[..., Ruled]:
    def start(rules: str, **env: Any) -> Ruled:
        origin = start_origin()
        config = tmp_path / "rules.toml"
        config.write_text(rules)
        settings = {"ENABLE_MANIFEST_CACHE": "true", "REGPROXY_CONFIG": str(config), **env}
        return Ruled(start_proxy(origin, **settings), origin)

    return start


DENY_LATEST = """
[[rule]]
name = "no-latest"
repository = "team/**"
tag = ["latest", "*-dev"]
action = "deny"
message = "Use a release"
"""


def test_a_denied_tag(ruled: Callable[..., Ruled]) -> None:
    scene = ruled(DENY_LATEST)
    scene.publish(IMAGE, "latest", "1.0-dev", "1.0")
    scene.publish(IMAGE, "latest", repository="other/app")
    for tag in ("latest", "1.0-dev"):
        reply = scene.ask(tag)
        assert reply.status == 403
        code, message = told(reply)
        assert code == "DENIED"
        assert "Use a release" in message
        assert "'no-latest'" in message
        assert scene.ask(tag, "HEAD").status == 403
    assert scene.origin.count(part="latest") == 0
    assert scene.ask("1.0").digest == IMAGE.digest
    assert scene.ask("1.0", "HEAD").status == 200
    assert scene.ask("latest", repository="other/app").status == 200
    labels = {"rule": "no-latest", "action": "deny"}
    wait_until(lambda: scene.proxy.metric("regproxy_rule_decisions_total", **labels) == 4, "four are counted")


# --- only what is allowed -----------------------------------------------------------------------------------

ONLY_RELEASES = """
[[rule]]
name = "releases"
repository = "team/**"
tag = "v*"
action = "allow"

[[rule]]
name = "nothing-else"
action = "deny"
"""


def pull_by_digest(scene: Ruled, index: Index) -> list[int]:
    """Fetch an index, a child, and what that names, as containerd does; return the statuses."""
    child = index.images[0]
    statuses = [scene.ask(digest).status for digest in (index.digest, child.digest)]
    return statuses + [scene.ask(digest, section="blobs").status for digest in child.blobs]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_key_in_a_header_of_its_own_lets_a_client_in(method: str, ruled: Callable[..., Ruled]) -> None:
    """Rules leave such fields out of what they find out, and not of requests for content that passes."""
    scene = ruled(DENY_LATEST)

    def answer(seen: Seen) -> Answer:
        return manifest_answer(IMAGE) if seen.get("x-key") else Answer(b"{}", 401)

    scene.origin.on(f"/v2/{REPOSITORY}/manifests/{IMAGE.digest}", answer)
    assert scene.ask(IMAGE.digest, method).status == 401
    other = "HEAD" if method == "GET" else "GET"
    assert scene.ask(IMAGE.digest, other, headers=[("X-Key", "1")]).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_can_not_be_stored(method: str, ruled: Callable[..., Ruled]) -> None:
    """It is passed on as without rules, where the tag alone decides; what has to be judged is not."""
    scene = ruled(DENY_LATEST)
    body = b'{"schemaVersion": 2, "mediaType": 7}'
    for tag in ("1", "latest"):
        scene.origin.on(f"/v2/{REPOSITORY}/manifests/{tag}", Answer(body, headers={"Content-Type": MANIFEST}))
    for _ in range(2):
        reply = scene.ask("1", method)
        assert (reply.status, reply.body) == (200, body if method == "GET" else b"")
        assert scene.ask("latest", method).status == 403
    scene = ruled(deny_digest(OTHER.digest))
    scene.origin.on(f"/v2/{REPOSITORY}/manifests/1", Answer(body, headers={"Content-Type": MANIFEST}))
    assert scene.ask("1", method).status >= 400


def test_a_pull_of_an_allowed_image_works(ruled: Callable[..., Ruled]) -> None:
    """Its parts are asked for by digest, for which no rule is but that against everything."""
    scene = ruled(ONLY_RELEASES)
    scene.publish(WHOLE, "v1", "beta")
    # Nobody has asked for it by an allowed tag.
    assert set(pull_by_digest(scene, WHOLE)[:2]) == {403}
    assert scene.ask("beta").status == 403
    assert scene.ask("v1", "HEAD").status == 200
    assert set(pull_by_digest(scene, WHOLE)) == {200}
    assert scene.ask("v1").digest == WHOLE.digest
    assert scene.ask(OTHER.digest).status == 403
    assert scene.ask(OTHER.layers[0], section="blobs").status == 403


def test_what_is_allowed_is_known_after_a_restart(
    ruled: Callable[..., Ruled], start_proxy: StartProxy
) -> None:
    scene = ruled(ONLY_RELEASES, ENABLE_MANIFEST_CACHE="false")
    scene.publish(WHOLE, "v1")
    assert scene.ask("v1", "HEAD").status == 200
    assert scene.ask(WHOLE.digest).status == 200
    assert scene.proxy.stop() == 0
    config = scene.proxy.directory.parent / "rules.toml"
    scene.proxy = start_proxy(scene.origin, at=scene.proxy.directory, REGPROXY_CONFIG=str(config))
    assert set(pull_by_digest(scene, WHOLE)) == {200}


# --- digests ------------------------------------------------------------------------------------------------


def deny_digest(*digests: str) -> str:
    return f'[[rule]]\nname = "bad"\ndigest = {json.dumps(digests)}\naction = "deny"\n'


@pytest.mark.parametrize("cached", ["true", "false"])
def test_a_denied_digest_has_no_way_in(cached: str, ruled: Callable[..., Ruled]) -> None:
    """By tag, by digest, by its parts, by any method."""
    scene = ruled(deny_digest(WHOLE.digest), ENABLE_MANIFEST_CACHE=cached)
    scene.publish(WHOLE, "1", "2")
    scene.publish(IMAGE, "good")
    for method in ("GET", "HEAD"):
        for reference in ("1", "2", WHOLE.digest):
            assert scene.ask(reference, method).status == 403, (method, reference)
            assert scene.ask(reference, method, headers=[("Range", "bytes=0-9")]).status == 403
            known = [("If-None-Match", f'"{WHOLE.digest}"')]
            assert scene.ask(reference, method, headers=known).status == 403
        for child in WHOLE.images:
            assert scene.ask(child.digest, method).status == 403
    assert scene.ask("1?x=y").status == 403
    assert scene.ask("1", headers=[("X-Own", "1")]).status == 403
    assert scene.ask("good").digest == IMAGE.digest
    assert scene.ask("good").digest == IMAGE.digest


def test_a_denied_layer(ruled: Callable[..., Ruled]) -> None:
    scene = ruled(deny_digest(IMAGE.layers[0]))
    scene.publish(IMAGE, "1")
    assert scene.ask("1").status == 200
    for method in ("GET", "HEAD"):
        for headers in ([], [("Range", "bytes=5-9")], [("Range", "bytes=1-2,5-9")]):
            assert scene.ask(IMAGE.layers[0], method, section="blobs", headers=headers).status == 403
            assert scene.ask(IMAGE.layers[1], method, section="blobs", headers=headers).status in (200, 206)
    odd = f"/v2/{REPOSITORY}/blobs/sha512:{'0' * 128}"
    assert scene.path(odd).status == 403  # it may be the same


def test_a_tag_that_moves_to_what_is_denied(ruled: Callable[..., Ruled]) -> None:
    """A remembered decision is on the digest, not on the tag."""
    scene = ruled(deny_digest(OTHER.digest), MANIFEST_CACHE_DEFAULT_TIME="0")
    scene.publish(IMAGE, "main")
    assert scene.ask("main").digest == IMAGE.digest
    assert scene.ask("main", "HEAD").status == 200
    scene.publish(OTHER, "main")
    assert scene.ask("main").status == 403
    assert scene.ask("main", "HEAD").status == 403
    scene.publish(IMAGE, "main")
    assert scene.ask("main").digest == IMAGE.digest


def test_a_tag_that_moves_while_it_is_judged(ruled: Callable[..., Ruled]) -> None:
    """What was judged is what is served: the GET that follows is by digest, or has its content already."""
    scene = ruled(deny_digest(OTHER.digest), MANIFEST_CACHE_DEFAULT_TIME="0")
    scene.publish(IMAGE, "main")
    scene.publish(OTHER)
    assert scene.ask("main").digest == IMAGE.digest
    path = f"/v2/{REPOSITORY}/manifests/main"
    # HEAD says the good one, GET the bad one.
    scene.origin.on(path, lambda seen: manifest_answer(IMAGE if seen.method == "HEAD" else OTHER))
    assert scene.ask("main").digest == IMAGE.digest
    scene.origin.on(path, lambda seen: manifest_answer(OTHER if seen.method == "HEAD" else IMAGE))
    assert scene.ask("main").status == 403


MEDIA = f"""
[[rule]]
name = "single"
media_type = "{MANIFEST}"
repository = "team/**"
action = "deny"
"""


def test_media_types(ruled: Callable[..., Ruled]) -> None:
    """Of an index that is allowed, the manifests are, too."""
    scene = ruled(MEDIA)
    scene.publish(WHOLE, "index")
    scene.publish(IMAGE, "image")
    assert scene.ask("image").status == 403
    assert scene.ask(IMAGE.digest).status == 403
    assert scene.ask(IMAGE.digest, "HEAD").status == 403
    assert scene.ask("index").status == 200
    assert set(pull_by_digest(scene, WHOLE)) == {200}


@pytest.mark.parametrize("gone", ["offline", "down"])
def test_a_manifest_that_states_no_media_type(
    gone: str, ruled: Callable[..., Ruled], start_proxy: StartProxy
) -> None:
    """What its registry has called it is remembered: it is judged the same without that."""
    scene = ruled(MEDIA)
    content = {
        INDEX: b'{"schemaVersion": 2, "manifests": []}',
        MANIFEST: b'{"schemaVersion": 2, "layers": []}',
    }
    digests = {media_type: digest_of(body) for media_type, body in content.items()}
    for media_type, body in content.items():
        answer = Answer(body, headers={"Content-Type": media_type})
        scene.origin.on(f"/v2/{REPOSITORY}/manifests/{digests[media_type]}", answer)
    for media_type, status in ((INDEX, 200), (MANIFEST, 403)):
        assert scene.ask(digests[media_type]).status == status
        scene.proxy.wait_kept(digests[media_type])
    assert scene.proxy.stop() == 0
    for digest in digests.values():
        scene.origin.on(f"/v2/{REPOSITORY}/manifests/{digest}", Answer(b"", 503))
    scene.proxy = start_proxy(
        scene.origin,
        at=scene.proxy.directory,
        REGPROXY_CONFIG=str(scene.proxy.directory.parent / "rules.toml"),
        REGPROXY_OFFLINE="true" if gone == "offline" else "false",
    )
    assert scene.ask(digests[INDEX]).status == 200
    assert scene.ask(digests[MANIFEST]).status == 403


# --- warnings -----------------------------------------------------------------------------------------------

WARN = """
[[rule]]
name = "beside"
tag = "beta"
action = "hold"
dry_run = true

[[rule]]
name = "soon"
tag = "beta"
action = "warn"
message = 'Say "stable" instead'

[[rule]]
name = "later"
repository = "team/**"
tag = "old*"
action = "deny"
dry_run = true
"""
SAID = '299 - "Say \\"stable\\" instead (rule \'soon\')"'


def test_warnings(ruled: Callable[..., Ruled]) -> None:
    scene = ruled(WARN)
    scene.publish(IMAGE, "beta", "old", "1")
    for _ in range(3):  # also from the cache, whose heads are kept
        for method in ("GET", "HEAD"):
            assert scene.ask("beta", method).get("Warning") == SAID
            assert scene.ask("1", method).get("Warning") is None
            dry = scene.ask("old", method)
            assert dry.status == 200
            assert dry.get("Warning") == (
                "299 - \"the image policy is being tried out (rule 'later': this would be denied)\""
            )
    known = [("If-None-Match", f'"{IMAGE.digest}"')]
    assert scene.ask("beta", headers=known).get("Warning") == SAID
    for rule, action in (("soon", "warn"), ("later", "would-deny"), ("beside", "would-hold")):
        wait_until(functools.partial(_counted, scene, rule, action, 6), f"{rule} is counted")


def _counted(scene: Ruled, rule: str, action: str, least: int) -> bool:
    return scene.proxy.metric("regproxy_rule_decisions_total", rule=rule, action=action) >= least


# --- the age of a digest under its tag ----------------------------------------------------------------------

AGED = """
[[rule]]
name = "cool-down"
repository = "team/**"
min_tag_age = "3d"
action = "deny"
"""


def make_older(scene: Ruled, start_proxy: StartProxy, days: float, **env: str) -> None:
    """Restart the proxy as if all that it has seen under tags were that much longer ago."""
    assert scene.proxy.stop() == 0
    with closing(sqlite3.connect(scene.proxy.cache_dir / "index.sqlite3")) as index, index:
        changed = index.execute(
            "UPDATE tags SET fetched_at = fetched_at - ?1, size = size - ?1 WHERE tag GLOB 'seen:*'",
            (int(days * DAY),),
        )
        assert changed.rowcount > 0
    config = scene.proxy.directory.parent / "rules.toml"
    settings = {
        "REGPROXY_CONFIG": str(config),
        "ENABLE_MANIFEST_CACHE": "true",
        "MANIFEST_CACHE_DEFAULT_TIME": "0",
    }
    scene.proxy = start_proxy(scene.origin, at=scene.proxy.directory, **{**settings, **env})


def test_the_digest_before_is_served(ruled: Callable[..., Ruled], start_proxy: StartProxy) -> None:
    scene = ruled(AGED, MANIFEST_CACHE_DEFAULT_TIME="0")
    scene.publish(WHOLE, "main")
    assert scene.ask("main").digest == WHOLE.digest  # at first sight
    moved = make_index(seed=954)
    scene.publish(moved, "main")
    scene.origin.publish(REPOSITORY, WHOLE)
    for _ in range(2):
        for method in ("GET", "HEAD"):
            reply = scene.ask("main", method)
            assert (reply.status, reply.get("Docker-Content-Digest")) == (200, WHOLE.digest)
    assert scene.ask("main", headers=[("If-None-Match", f'"{WHOLE.digest}"')]).status == 304
    # Whoever has the digest from elsewhere has chosen it.
    assert scene.ask(moved.digest).status == 200
    make_older(scene, start_proxy, 2.9)
    assert scene.ask("main").digest == WHOLE.digest
    make_older(scene, start_proxy, 0.2)
    assert scene.ask("main").digest == moved.digest


def test_history_outlives_the_content(ruled: Callable[..., Ruled], start_proxy: StartProxy) -> None:
    scene = ruled(AGED, MANIFEST_CACHE_DEFAULT_TIME="0")
    scene.publish(IMAGE, "main")
    assert scene.ask("main").digest == IMAGE.digest
    scene.proxy.wait_kept(IMAGE.digest)
    scene.publish(OTHER, "main")
    scene.origin.publish(REPOSITORY, IMAGE)
    assert scene.ask("main").digest == IMAGE.digest
    make_older(scene, start_proxy, 0.5, CACHE_INACTIVE="1s")
    wait_until(lambda: IMAGE.digest not in scene.proxy.blobs(), "it is evicted", timeout=60)
    hits = scene.origin.count("GET", IMAGE.digest)
    assert scene.ask("main").digest == IMAGE.digest
    assert scene.origin.count("GET", IMAGE.digest) > hits


def test_first_sight(ruled: Callable[..., Ruled], start_proxy: StartProxy) -> None:
    rules = AGED + f'first_sight = "deny"\nat_once = ["{OTHER.digest}"]\n'
    scene = ruled(rules, MANIFEST_CACHE_DEFAULT_TIME="0")
    scene.publish(IMAGE, "main")
    scene.publish(OTHER, "listed")
    reply = scene.ask("main")
    assert reply.status == 403
    assert "3 days" in told(reply)[1]
    assert scene.ask("main", "HEAD").status == 403
    assert scene.ask("listed").digest == OTHER.digest
    make_older(scene, start_proxy, 3.1)
    assert scene.ask("main").digest == IMAGE.digest
    # Aged as the tag is, it goes back at once.
    scene.publish(OTHER, "main")
    assert scene.ask("main").digest == OTHER.digest


def test_each_kind_of_client_has_a_history(ruled: Callable[..., Ruled]) -> None:
    """A client without indexes gets no index for a digest that is too young, and the other way round."""
    scene = ruled(AGED, MANIFEST_CACHE_DEFAULT_TIME="0")
    child = WHOLE.images[0]

    def answer(seen: Any) -> Answer:
        return manifest_answer(WHOLE if INDEX in (seen.get("accept") or "") else child)

    scene.publish(WHOLE)
    scene.origin.on(f"/v2/{REPOSITORY}/manifests/main", answer)
    old = [("Accept", MANIFEST)]
    for _ in range(2):
        assert scene.ask("main").digest == WHOLE.digest
        with scene.proxy.client(scene.origin.authority) as client:
            reply = client.get(f"/v2/{REPOSITORY}/manifests/main", old)
        assert reply.digest == child.digest


# --- verdicts by others -------------------------------------------------------------------------------------


class Hook:
    """A service that gives verdicts, and counts who asks."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.verdicts: dict[str, dict[str, str]] = {}
        self.down = False
        origin.on("/verdict", self._answer)

    @property
    def url(self) -> str:
        return f"http://{self.origin.address[0]}:{self.origin.port}/verdict"

    def asked(self) -> list[dict[str, str]]:
        return [json.loads(seen.body) for seen in list(self.origin.requests)]

    def _answer(self, seen: Seen) -> Answer:
        if self.down:
            return Answer(b"out of order", 500)
        said = self.verdicts.get(json.loads(seen.body)["digest"], {"verdict": "pending"})
        return Answer(json.dumps(said).encode(), headers={"Content-Type": "application/json"})


@pytest.fixture
def hook(start_origin: StartOrigin) -> Hook:
    return Hook(start_origin("hook.test", tls=False))


def asking(verdict: str, more: str = "") -> str:
    return f'[[rule]]\nname = "scanned"\nverdict = "{verdict}"\naction = "deny"\n{more}'


def test_verdicts_by_a_service(ruled: Callable[..., Ruled], hook: Hook) -> None:
    scene = ruled(asking(hook.url), REGPROXY_PRIVATE_TARGETS="deny")
    scene.publish(WHOLE, "good")
    scene.publish(IMAGE, "bad")
    scene.publish(OTHER, "unknown")
    hook.verdicts[WHOLE.digest] = {"verdict": "allow"}
    hook.verdicts[IMAGE.digest] = {"verdict": "deny", "reason": "CVE-1"}
    for _ in range(2):
        assert scene.ask("good").digest == WHOLE.digest
        # Its parts go with it, though nothing is known of them.
        assert set(pull_by_digest(scene, WHOLE)) == {200}
        bad = scene.ask("bad")
        assert bad.status == 403
        assert "CVE-1" in told(bad)[1]
        assert scene.ask(IMAGE.digest).status == 403
        held = scene.ask("unknown")
        assert held.status == 503
        assert held.get("Retry-After") == "30"
        assert told(held)[0] == "UNAVAILABLE"
    authority = scene.origin.authority
    asked = [each for each in hook.asked() if each["digest"] == WHOLE.digest]
    assert asked == [{"registry": authority, "repository": REPOSITORY, "digest": WHOLE.digest}]
    # Of a layer nobody is asked.
    assert {each["digest"] for each in hook.asked()} <= {
        *(WHOLE.digest, IMAGE.digest, OTHER.digest),
        *(child.digest for child in WHOLE.images),
    }


@pytest.mark.parametrize("on_error, status", [("deny", 503), ("allow", 200)])
def test_a_service_that_is_down(on_error: str, status: int, ruled: Callable[..., Ruled], hook: Hook) -> None:
    scene = ruled(asking(hook.url, f'on_error = "{on_error}"'))
    scene.publish(IMAGE, "1")
    hook.down = True
    assert scene.ask("1").status == status
    assert scene.ask(IMAGE.digest).status == status


def test_verdicts_in_a_file(ruled: Callable[..., Ruled], tmp_path: Path) -> None:
    file = tmp_path / "verdicts"
    file.write_text(f"# by the scanner\n{IMAGE.digest} allow\n{OTHER.digest} deny too old\n* deny\n")
    scene = ruled(asking(str(file), 'verdict_ttl = "1ms"'))
    scene.publish(IMAGE, "1")
    scene.publish(OTHER, "2")
    assert scene.ask("1").status == 200
    denied = scene.ask("2")
    assert denied.status == 403
    assert "too old" in told(denied)[1]
    file.write_text(f"{OTHER.digest} allow\n")
    assert scene.ask("2").status == 200
    file.write_text("nonsense\n")
    assert scene.ask("2", "HEAD").status in (200, 503)  # it is remembered for some seconds


# --- ways around --------------------------------------------------------------------------------------------

NO_TEAM = '[[rule]]\nname = "no-team"\nrepository = "team/**"\naction = "deny"\n'
ODD = [
    "/v2/team%2Fapp/manifests/1",
    "/v2/team%252Fapp/manifests/1",
    "/v2//team/app/manifests/1",
    "/v2/./team/app/manifests/1",
    "/v2/x/../team/app/manifests/1",
    "/v2/team/app/manifests/1/",
    "/v2/team/app/manifests/1;x",
    "/v2/team/app/%6danifests%2F1",
    "/v2/Team/app/manifests/1",
    "/some/prefix/v2/team/app/manifests/1",
    f"/v2/team/app/manifests/sha512:{'0' * 128}",
    f"/v2/team/app/blobs/sha512:{'0' * 128}",
    "/v2/team/app/manifests/1?x=1",
    f"/v2/team/blobs/uploads/manifests/sha512:{'0' * 128}",
    f"/v2/team/blobs/uploads/blobs/sha512:{'0' * 128}",
    "/v2/team/app/blobs/uploads/x",
]


@pytest.fixture(scope="module")
def without_team(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ruled]:
    """A registry that has an image under every path, and rules against team/**."""
    config = tmp_path_factory.mktemp("rules") / "rules.toml"
    config.write_text(NO_TEAM)
    env = {"ENABLE_MANIFEST_CACHE": "true", "REGPROXY_CONFIG": str(config)}
    with Origin(trust) as origin, Proxies(tmp_path_factory, trust, origin) as proxies:
        origin.on("/*", Answer(IMAGE.manifest, headers={"Content-Type": MANIFEST}))
        yield Ruled(proxies(**env), origin)


@pytest.mark.parametrize("path", ODD)
def test_odd_paths(path: str, without_team: Ruled) -> None:
    scene = without_team
    reply = scene.path(path)
    expected = 200 if path.endswith("uploads/x") else 403  # what an upload has got so far is no content
    assert reply.status == expected, reply
    assert scene.path("/v2/team/app/tags/list").status == 200
    assert scene.path(f"/v2/team/app/referrers/{IMAGE.digest}").status == 200
    assert scene.path("/v2/").status == 200


def test_pushes(ruled: Callable[..., Ruled]) -> None:
    rules = """
[[rule]]
name = "read-only"
on = "push"
repository = "team/**"
action = "deny"

[[rule]]
name = "write-only"
on = "pull"
repository = "in/**"
action = "deny"
"""
    scene = ruled(rules, ALLOW_PUSH="true")
    scene.publish(IMAGE, "1")
    scene.publish(IMAGE, "1", repository="in/app")
    scene.origin.on("/v2/in/app/blobs/uploads/", Answer(b"", 202, {"Location": "/v2/in/app/blobs/uploads/1"}))
    assert scene.ask("1").status == 200
    assert scene.ask("1", "PUT", body=b"{}").status == 403
    assert scene.ask("1", "DELETE").status == 403
    assert scene.ask("uploads/", "POST", section="blobs", body=b"").status == 403
    assert scene.ask("1", repository="in/app").status == 403
    assert scene.ask("uploads/", "POST", section="blobs", repository="in/app", body=b"").status == 202
    assert scene.origin.count("PUT") == scene.origin.count("DELETE") == 0


def test_as_a_mirror(ruled: Callable[..., Ruled]) -> None:
    scene = ruled(DENY_LATEST + deny_digest(OTHER.digest))
    scene.publish(IMAGE, "latest", "1.0")
    scene.publish(OTHER, "2.0")
    path = f"/v2/{scene.origin.authority}/{REPOSITORY}/manifests"
    with Client.connect(scene.proxy.address) as client:
        for reference, status in (("latest", 403), ("1.0", 200), ("2.0", 403), (OTHER.digest, 403)):
            assert client.get(f"{path}/{reference}", ACCEPT).status == status, reference


@pytest.mark.parametrize("gone", ["offline", "down"])
def test_without_the_registry(gone: str, ruled: Callable[..., Ruled], start_proxy: StartProxy) -> None:
    """What is held is judged as what is fetched."""
    scene = ruled("", MANIFEST_CACHE_DEFAULT_TIME="0")
    scene.publish(IMAGE, "1")
    scene.publish(OTHER, "2")
    for tag, image in (("1", IMAGE), ("2", OTHER)):
        assert scene.ask(tag).digest == image.digest
        scene.proxy.wait_kept(image.digest)
    assert scene.proxy.stop() == 0
    config = scene.proxy.directory.parent / "rules.toml"
    config.write_text(deny_digest(OTHER.digest))
    env = {"REGPROXY_OFFLINE": "true"} if gone == "offline" else {}
    if gone == "down":
        scene.origin.on("/v2/*", Answer(b"", 503))
        for tag in ("1", "2"):
            scene.origin.on(f"/v2/{REPOSITORY}/manifests/{tag}", Answer(b"", 503))
    scene.proxy = start_proxy(
        scene.origin,
        at=scene.proxy.directory,
        REGPROXY_CONFIG=str(config),
        MANIFEST_CACHE_DEFAULT_TIME="0",
        **env,
    )
    assert scene.ask("1").digest == IMAGE.digest
    for reference in ("2", OTHER.digest):
        for method in ("GET", "HEAD"):
            assert scene.ask(reference, method).status == 403


def test_clients_that_wait_for_one_fill(ruled: Callable[..., Ruled], hold: threading.Event) -> None:
    """Who joins a download is judged as whoever began it."""
    scene = ruled(deny_digest(OTHER.digest))
    scene.publish(OTHER)
    path = f"/v2/{REPOSITORY}/manifests/main"
    scene.origin.on(path, replace(manifest_answer(OTHER), hold=hold, hold_at=10))
    with ThreadPoolExecutor(4) as pool:
        replies = [pool.submit(scene.ask, "main") for _ in range(4)]
        scene.origin.wait_for(lambda origin: origin.count(part="main") > 0)
        hold.set()
        assert {reply.result().status for reply in replies} == {403}


def test_two_workers_share_what_is_known(ruled: Callable[..., Ruled]) -> None:
    scene = ruled(ONLY_RELEASES, REGPROXY_WORKERS="2")
    scene.publish(WHOLE, "v1")
    assert scene.ask("v1", "HEAD").status == 200
    for _ in range(4):  # connections are spread
        assert set(pull_by_digest(scene, WHOLE)) == {200}


def test_a_lost_index_is_a_lost_history(ruled: Callable[..., Ruled], start_proxy: StartProxy) -> None:
    """Then what is seen next is seen for the first time."""
    scene = ruled(AGED, MANIFEST_CACHE_DEFAULT_TIME="0")
    scene.publish(IMAGE, "main")
    assert scene.ask("main").digest == IMAGE.digest
    scene.publish(OTHER, "main")
    scene.origin.publish(REPOSITORY, IMAGE)
    assert scene.ask("main").digest == IMAGE.digest
    assert scene.proxy.stop() == 0
    for path in scene.proxy.cache_dir.glob("index.sqlite3*"):
        path.unlink()
    config = scene.proxy.directory.parent / "rules.toml"
    env = {"REGPROXY_CONFIG": str(config), "MANIFEST_CACHE_DEFAULT_TIME": "0"}
    scene.proxy = start_proxy(scene.origin, at=scene.proxy.directory, **env)
    assert scene.ask("main").digest == OTHER.digest


def test_with_access_that_is_verified(ruled: Callable[..., Ruled]) -> None:
    """Whom the registry lets in is judged by the rules, each time; whom it does not hears nothing of them."""
    scene = ruled(DENY_LATEST + deny_digest(OTHER.digest), REGPROXY_ACCESS="verified")
    for image, tag in ((IMAGE, "1.0"), (IMAGE, "latest"), (OTHER, "2.0")):
        scene.publish(image, tag)
    for _ in range(3):
        assert scene.ask("1.0").digest == IMAGE.digest
        assert scene.ask("latest").status == 403
        assert scene.ask("2.0").status == 403
        assert scene.ask(IMAGE.layers[0], section="blobs").status == 200
    # Requests that would be passed on as they came.
    for headers in ([], [("X-Own", "1")]):
        for reference in ("latest?x=1", "2.0?x=1", f"{OTHER.digest}?x=1"):
            for method in ("GET", "HEAD"):
                assert scene.ask(reference, method, headers=headers).status == 403, (reference, method)
        assert scene.ask("1.0?x=1", headers=headers).digest == IMAGE.digest
    assert scene.ask("2.0", headers=[("X-Own", "1")]).status == 403
    closed = Answer(b"{}", 401, {"WWW-Authenticate": 'Basic realm="x"'})
    scene.publish(IMAGE, "1.0", repository="team/private")
    for reference in ("latest", "1.0", IMAGE.digest):
        scene.origin.on(f"/v2/team/private/manifests/{reference}", closed)
    assert scene.ask("1.0", repository="team/private").status == 401
    assert scene.ask("latest", repository="team/private").status == 401
    assert scene.ask(IMAGE.digest, repository="team/private").status == 401


def test_principals(ruled: Callable[..., Ruled], tmp_path: Path) -> None:
    """What one client is let have is not what others get."""
    users = tmp_path / "users"
    made = subprocess.run(["htpasswd", "-Bbn", "ci", "secret"], check=True, capture_output=True)
    users.write_bytes(made.stdout)
    allow = '[[rule]]\nname = "ci"\nprincipal = "ci"\naction = "allow"\n'
    scene = ruled(allow + deny_digest(IMAGE.digest), REGPROXY_HTPASSWD=str(users))
    scene.publish(IMAGE, "1")
    login = [("Proxy-Authorization", "Basic " + base64.b64encode(b"ci:secret").decode())]
    for _ in range(2):
        for reference in ("1", IMAGE.digest):
            assert scene.ask(reference).status == 403
            with Client.connect(scene.proxy.address) as client:
                assert client.connect_to(scene.origin.authority, headers=login).status == 200
                client.start_tls(scene.origin.name, scene.proxy.ca_pem)
                assert client.get(f"/v2/{REPOSITORY}/manifests/{reference}", ACCEPT).digest == IMAGE.digest
