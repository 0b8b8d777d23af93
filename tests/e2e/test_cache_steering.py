"""Purging, warming, exporting and importing with a real registry, beside clients that go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.admin_api import AdminApi
from tests.support.cache_command import command as run
from tests.support.client import Client
from tests.support.docker_registry import Registry
from tests.support.images import INDEX, Image, make_image, make_index
from tests.support.processes import wait_until
from tests.support.proxy import Proxy
from tests.support.real_clients import Failed, Skopeo
from tests.support.trust import Trust
from tests.support.two_workers import Pair

ONE = make_image(size=600_000, seed=1)
LARGE = make_image(size=24_000_000, layers=1, seed=2)
MULTI = make_index(size=300_000, seed=3)
AMD, ARM = MULTI.images


class Site:
    """A registry with images, and a proxy of two workers before it."""

    def __init__(self, stack: ExitStack, place: Path, trust: Trust) -> None:
        self.trust = trust
        self.registry = stack.enter_context(Registry(place / "registry", trust))
        for tag, image in (("one", ONE), ("large", LARGE), ("multi", MULTI), ("again", ONE)):
            self.registry.push("team/app", tag, image)
        self.proxy = stack.enter_context(
            Proxy(
                place / "proxy",
                {"REGPROXY_WORKERS": "2", "REGPROXY_STALE_AFTER": "0"},
                registries=(self.registry.authority,),
                resolve=self.registry.resolve,
                ca=trust.path,
            )
        )
        self.pair = Pair(self.proxy, self.registry.authority)
        self.api = stack.enter_context(AdminApi(self.proxy))

    def name(self, tag: str) -> str:
        return f"{self.registry.authority}/team/app:{tag}"

    def warm(self, *tags: str) -> None:
        """Have images in the cache, with all platforms."""
        job = self.ended(self.api.post("warm", {"images": [{"name": self.name(tag)} for tag in tags]}))
        assert [each["error"] for each in job["result"]["images"]] == [""] * len(tags), job

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return a job once it has ended."""

        def look() -> dict[str, Any] | None:
            found: dict[str, Any] = self.api.get(f"jobs/{job['id']}")
            return None if found["state"] in ("queued", "running") else found

        return wait_until(look, f"job {job['id']} has ended")

    def pull(self, image: Image, tag: str, client: Client) -> None:
        """Have an image in the cache."""
        assert get_tag(client, tag).body == image.manifest
        for digest, body in image.blobs.items():
            assert client.get(f"/v2/team/app/blobs/{digest}").body == body
        self.proxy.wait_kept(image.digest, *image.blobs)


@pytest.fixture(scope="module")
def site(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack, tmp_path_factory.mktemp("site"), trust)


def is_answered(client: Client) -> bool:
    return client.get(f"/v2/team/app/blobs/sha256:{'0' * 64}").status == 404


def get_tag(client: Client, tag: str) -> Any:
    return client.get(f"/v2/team/app/manifests/{tag}", {"Accept": f"{ONE.media_type}, {INDEX}"})


@pytest.fixture
def unreachable(site: Site) -> Iterator[Callable[[], None]]:
    """Stops the registry when it is called; it is back at the end of the test."""
    yield site.registry.stop
    site.registry.stop()
    site.registry.start()
    for pid in site.pair.pids():
        with site.pair.client(pid) as client:
            wait_until(lambda: is_answered(client), "the worker asks the registry again")


def test_a_purge_is_known_to_all_workers_at_once(site: Site, unreachable: Callable[[], None]) -> None:
    """And whoever reads what goes reads on."""
    with ExitStack() as stack:
        clients = [stack.enter_context(site.pair.client(pid)) for pid in site.pair.pids()]
        for client in clients:
            site.pull(LARGE, "large", client)
            site.pull(ONE, "one", client)
        (layer,) = LARGE.layers
        reader = stack.enter_context(site.proxy.client(site.registry.authority))
        reader.send(reader.head("GET", f"/v2/team/app/blobs/{layer}"))
        start = reader.read(100_000)
        order = {"images": [site.name("large")], "dry_run": True}
        listed = set(LARGE.blobs) | {LARGE.digest}
        wait_until(lambda: _known(site, "large"), "the janitor has read the manifests")
        dry = site.ended(site.api.post("purge", order))
        assert dry["state"] == "done" and dry["result"]["objects"] == len(listed), dry
        assert site.proxy.blobs().keys() >= listed
        done = site.ended(site.api.post("purge", order | {"dry_run": False}))
        assert (done["state"], done["kind"], done["result"]["done"]) == ("done", "purge", len(listed)), done
        assert done["result"]["images"] == [site.name("large")]
        unreachable()
        for client in clients:
            assert get_tag(client, "large").status >= 500
            assert client.get(f"/v2/team/app/blobs/{layer}").status >= 500
            assert get_tag(client, "one").body == ONE.manifest
        assert read_to(reader, len(LARGE.blobs[layer]), start) == LARGE.blobs[layer]
        assert not site.proxy.blobs().keys() & listed


def _known(site: Site, tag: str) -> bool:
    found = site.api.get(f"images?name={tag}")["items"]
    return bool(found) and found[0]["content"]["whole"]


def read_to(reader: Client, size: int, start: bytes) -> bytes:
    """Read the rest of an answer whose head and first bytes are in `start`; return its body."""
    head, _, body = start.partition(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0], head
    while len(body) < size:
        more = reader.read(size - len(body))
        assert more
        body += more
    return body


def test_warm_and_then_pull_without_a_registry(
    site: Site, unreachable: Callable[[], None], tmp_path: Path
) -> None:
    images = [
        {"name": site.name("multi"), "platforms": ["linux/arm64"]},
        {"name": site.name("again")},
        {"name": site.name("nothing")},
    ]
    before = site.registry.counted("GET", "/blobs/")
    job = site.ended(site.api.post("warm", {"images": images}))
    assert (job["state"], job["done"], job["total"], job["unit"]) == ("done", 3, 3, "images")
    multi, again, nothing = job["result"]["images"]
    assert (multi["name"], multi["digest"], multi["error"]) == (site.name("multi"), MULTI.digest, "")
    assert multi["objects"] == multi["fetched"] == 2 + len(ARM.blobs)
    assert (again["digest"], again["error"]) == (ONE.digest, "")
    assert f"{site.registry.name} answered 404" in nothing["error"]
    fetched = site.registry.counted("GET", "/blobs/") - before
    assert not site.proxy.blobs().keys() & {AMD.digest, *(AMD.blobs.keys() - ARM.blobs.keys())}
    once_more = site.ended(site.api.post("warm", {"images": images[:2]}))
    assert [each["fetched"] for each in once_more["result"]["images"]] == [0, 0]
    assert site.registry.counted("GET", "/blobs/") == before + fetched
    unreachable()
    skopeo = Skopeo(tmp_path, proxy=site.proxy.url, ca=site.proxy.ca_path)
    assert skopeo.copy(site.name("again")).blobs.keys() == ONE.blobs.keys()
    with site.proxy.client(site.registry.authority) as client:
        assert get_tag(client, "multi").body == MULTI.manifest
        for digest, body in ARM.blobs.items():
            assert client.get(f"/v2/team/app/blobs/{digest}").body == body


def test_warm_by_the_command(site: Site, tmp_path: Path) -> None:
    listed = tmp_path / "images"
    listed.write_text(
        f"# those of every node\n{site.name('one')}  # once\n{site.name('multi')} linux/amd64\n"
    )
    port = f"{site.proxy.admin_address[0]}:{site.proxy.admin_port}"
    done = command(site.proxy, "warm", "-f", str(listed), "--json", REGPROXY_ADMIN_LISTEN=port)
    assert done.returncode == 0, done.stderr
    one, multi = json.loads(done.stdout)["images"]
    assert (one["digest"], multi["digest"]) == (ONE.digest, MULTI.digest)
    failed = command(site.proxy, "warm", site.name("nothing"), REGPROXY_ADMIN_LISTEN=port)
    assert failed.returncode == 1 and "answered 404" in failed.stderr
    other = command(site.proxy, "warm", "other.test:5000/x:1", REGPROXY_ADMIN_LISTEN=port)
    why = "no client would get it from the cache: name other.test:5000 in REGISTRIES"
    assert (other.returncode, f"regproxy: other.test:5000/x:1: {why}" in other.stderr) == (1, True)
    nobody = command(site.proxy, "warm", site.name("one"), REGPROXY_ADMIN_LISTEN="127.0.0.1:1")
    assert nobody.returncode == 2 and "no proxy answers at 127.0.0.1:1" in nobody.stderr


def command(proxy: Proxy, *words: str, **env: str) -> Any:
    return run(proxy.cache_dir, *words, **env)


def test_out_of_one_cache_into_another(site: Site, stack: ExitStack, tmp_path: Path) -> None:
    """The other site has no registry."""
    site.warm("one")
    archive = tmp_path / "images.tar"
    done = command(site.proxy, "export", str(archive), site.name("one"))
    assert done.returncode == 0, done.stderr
    inside = stack.enter_context(
        Proxy(
            tmp_path / "inside",
            {"REGPROXY_OFFLINE": "true", "REGPROXY_WORKERS": "2"},
            registries=(site.registry.authority,),
            resolve=site.registry.resolve,
            ca=site.trust.path,
        )
    )
    skopeo = Skopeo(tmp_path / "skopeo", proxy=inside.url, ca=inside.ca_path)
    with pytest.raises(Failed):
        skopeo.copy(site.name("one"))
    done = command(inside, "import", str(archive), "--json")
    assert done.returncode == 0, done.stderr
    (image,) = json.loads(done.stdout)["images"]
    assert (image["name"], image["error"], image["missing"]) == (site.name("one"), "", 0)

    def pulled() -> bool:
        try:
            return skopeo.copy(site.name("one")).blobs.keys() == ONE.blobs.keys()
        except Failed:
            return False

    wait_until(pulled, "the workers have heard of it")


def test_lists_pages_and_details(site: Site) -> None:
    site.warm("one", "multi")
    wait_until(lambda: _known(site, "multi"), "the janitor has read the manifests")
    names = [each["name"] for each in site.api.items("images", limit=1)]
    assert {site.name("one"), site.name("multi")} <= set(names) and names == sorted(names)
    quoted = site.name("multi").replace("/", "%2F")
    details = site.api.get(f"images/{quoted}")
    assert details["digest"] == MULTI.digest
    assert [each["platform"] for each in details["tree"]["children"]] == ["linux/amd64", "linux/arm64"]
    assert site.api.get(f"tags/{quoted}")["variants"][0]["digest"] == MULTI.digest
    use = site.api.get(f"blobs/{ONE.layers[0]}")
    assert site.name("one") in use["images"] and use["blob"]["size"] == len(ONE.blobs[ONE.layers[0]])
    assert {each["digest"] for each in site.api.items("blobs", limit=3)} == site.proxy.blobs().keys()
    (usage,) = site.api.items("repositories")
    assert (usage["registry"], usage["repository"]) == (site.registry.authority, "team/app")
    assert site.api.get("totals")["objects"] == len(site.proxy.blobs())
    for path in ("images/nothing.test%2Fa:1", f"blobs/sha256:{'0' * 64}", "jobs/0123456789ab-01234567"):
        assert site.api.ask("GET", path).status == 404, path
    for path in ("images/NO", "blobs/NO", f"tags/{ONE.digest}", "images?registry=a%20b"):
        assert site.api.ask("GET", path).status == 400, path


def test_pins_and_what_they_keep(site: Site) -> None:
    site.warm("one")
    pinned = site.api.post("pin", {"images": [site.name("one"), site.name("nothing")]})["images"]
    assert (pinned[0]["name"], pinned[0]["held"]) == (site.name("one"), 1 + len(ONE.blobs))
    assert "is not in the cache" in pinned[1]["error"]
    job = site.ended(site.api.post("purge", {"images": [site.name("one")]}))
    kept = {(each["name"], each["why"]) for each in job["result"]["kept"]}
    assert (site.name("one"), "pinned") in kept and job["result"]["objects"] == 0
    assert site.proxy.blobs().keys() >= {ONE.digest, *ONE.blobs}
    assert site.api.post("unpin", {"images": [site.name("one")]})["images"][0]["error"] == ""
    assert site.api.ask("POST", "purge", {}).status == 400


def test_verify_and_the_history_of_jobs(site: Site) -> None:
    job = site.ended(site.api.post("verify"))
    assert (job["state"], job["result"]["wrong"]) == ("done", 0), job
    assert job["result"]["checked"] == len(site.proxy.blobs())
    assert job["by"].startswith("token from 127.")
    newest = site.api.items("jobs", limit=2)
    assert newest[0] == job
    assert [each["id"] for each in newest] == sorted((each["id"] for each in newest), reverse=True)
    cancelled = site.api.ask("DELETE", f"jobs/{job['id']}")
    assert (cancelled.status, cancelled.json()["state"]) == (202, "done")  # it has ended


@pytest.mark.parametrize("access", ["shared", "verified"])
def test_whose_login_warming_shows(
    start_registry: Callable[..., Registry], start_proxy: Callable[..., Proxy], access: str
) -> None:
    """Where content is not for everybody, a login without a list is for public content alone."""
    registry = start_registry(users={"puller": "secret"})
    registry.push("team/app", "one", ONE)
    login = f"{registry.authority}:::puller:::secret"
    env = {"AUTH_REGISTRY_DELIMITER": ":::", "AUTH_REGISTRIES": login, "REGPROXY_ACCESS": access}
    proxy = start_proxy(registry, **env)
    with AdminApi(proxy) as api:
        job = api.post("warm", {"images": [{"name": f"{registry.authority}/team/app:one"}]})
        ended = wait_until(
            lambda: (found := api.get(f"jobs/{job['id']}"))["state"] == "done" and found, "it has ended"
        )
    (image,) = ended["result"]["images"]
    if access == "shared":
        assert (image["error"], image["digest"]) == ("", ONE.digest)
    else:
        assert "answered 401" in image["error"]
        assert proxy.blobs() == {}
