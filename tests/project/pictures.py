"""Draw the pictures of the web page in docs/images, with made-up figures: `python -m tests.project.pictures`.

The pages are the proxy's own templates; Chromium draws them from files, with the style sheet beside them.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from importlib import metadata
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

from regproxy.admin.endpoints.activity import Download
from regproxy.admin.endpoints.inventory import ImageQuery
from regproxy.admin.endpoints.registries import Circuit, Errors, Quota, Registry
from regproxy.admin.endpoints.status import CacheUse, Counts, Offline, Status
from regproxy.admin.operations import Call
from regproxy.admin.visitors import Login, Scope, Token, Visitor
from regproxy.cache.pins import registry_name
from regproxy.inventory.images import Content, Image
from regproxy.telemetry.usage.records import ClientUse, ImageUse, Refusal, TagMove
from regproxy.web.rendering import Pages
from regproxy.web.troubles import Health, troubles
from tests.support import ROOT
from tests.support.chromium import screenshot
from tests.support.images import MANIFEST, digest_of

IMAGES: Final = ROOT / "docs" / "images"
NOW: Final = 1_794_744_000.0  # epoch
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
MB, GB = 10**6, 10**9
GIB: Final = 1 << 30
HUB: Final = "registry-1.docker.io"


def digest(seed: str) -> str:
    return digest_of(seed.encode())


# --- the overview ----------------------------------------------------------------------------------------


def status() -> Status:
    requests, hits, sent, saved = 1_263_112, 1_201_877, 9_400 * GB, 9_020 * GB
    return Status(
        version=metadata.version("regproxy"),
        started=NOW - 9 * DAY,
        uptime_seconds=9 * DAY,
        workers=2,
        ready=True,
        not_ready_because=None,
        offline=Offline(on=False, by=None),
        connections=214,
        downloads=2,
        answered=Counts(
            requests=1_284_210,
            cacheable_requests=requests,
            hits=hits,
            hit_ratio=hits / requests,
            bytes=sent + 3 * GB,
            cacheable_bytes=sent,
            saved_bytes=saved,
            byte_ratio=saved / sent,
        ),
        cache=CacheUse(
            objects=84_213,
            bytes=384 * GIB,
            max_bytes=466 * GIB,
            free_bytes=569 * GIB,
            oldest_use=NOW - 41 * DAY,
            pins=12,
        ),
        warnings=["CACHE_MAX_SIZE is larger than REGPROXY_MIN_FREE leaves of the disk"],
    )


def registries() -> list[Registry]:
    quota = Quota(
        credential="ci-bot",
        limit=200,
        remaining=14,
        window_seconds=6 * HOUR,
        seen_at=NOW - 2,
        per_hour=31,
        ends_at=NOW + 27 * MINUTE,
        refused_until={},
    )
    closed = Circuit(state="closed", failures=0, retry_at=None, cause=None, workers=0)
    cause = "connect: timed out after 5 s"
    broken = Circuit(state="open", failures=41, retry_at=NOW + 24, cause=cause, workers=2)
    no_errors = Errors(count=0, last=None, last_at=None)
    errors = Errors(count=41, last=f"quay.io: {cause}, at 3 addresses", last_at=NOW - 8)
    return [
        Registry(name="docker.io", circuit=closed, quotas=[quota], refused_429=0, errors=no_errors),
        Registry(name="quay.io", circuit=broken, quotas=[], refused_429=0, errors=errors),
    ]


def downloads() -> list[Download]:
    def one(registry: str, repository: str, done: int, total: int, rate: int, **more: Any) -> Download:
        found = {"resumes": 0, "worker": 1, "rate": float(rate), "bytes": done, "total": total} | more
        return Download(digest=digest(repository), registry=registry, repository=repository, **found)

    return [
        one("ghcr.io", "ml/training", 3_100 * MB, 4_400 * MB, 92 * MB, waiters=17, since=NOW - 35),
        one("docker.io", "library/postgres", 20 * MB, 110 * MB, 18 * MB, waiters=2, since=NOW - 2, resumes=1),
    ]


def used() -> dict[str, Any]:
    """What was used most, and what has happened last."""
    images = [
        (HUB, "library/alpine", "3.20", 41_822, 1),
        (HUB, "library/node", "22-slim", 20_113, 3),
        (HUB, "library/postgres", "16", 3_480, 80),
        ("ghcr.io", "ml/training", "v7", 912, 4),
    ]
    clients = [
        ("principal", "ci-runners", 612_034, 5_100 * GB, 4_900 * GB),
        ("principal", "cluster-a", 402_118, 3_200 * GB, 3_100 * GB),
        ("address", "10.20.4.17", 2_210, 40 * GB, 31 * GB),
    ]
    move = TagMove(
        at=NOW - 2 * HOUR,
        registry=HUB,
        port=443,
        repository="library/node",
        tag="22-slim",
        old=digest("old"),
        new=digest("new"),
    )
    refusal = Refusal(
        at=NOW - 12 * MINUTE,
        client_kind="address",
        client="10.20.4.17",
        address="10.20.4.17",
        registry=HUB,
        port=443,
        repository="somebody/miner",
        reference="latest",
        rule="known-publishers",
        kind="rule",
        message="only images of publishers on our list",
    )
    return {
        "usage_error": "",
        "top_images": [
            ImageUse(registry, 443, repository, tag, pulls, 0, 0, NOW - ago)
            for registry, repository, tag, pulls, ago in images
        ],
        "top_clients": [ClientUse(*each, NOW) for each in clients],
        "moves": [move],
        "refusals": [refusal],
    }


def overview(pages: Pages, call: Call[Any, Any]) -> bytes:
    now, known = status(), registries()
    health = Health(store_ok=True, index_complete=True, min_free=GB, ca_ends=NOW + 3000 * DAY)
    return pages.page(
        *("overview", call),
        status=now,
        troubles=troubles(now, known, health, now.workers, NOW),
        saved_requests=now.answered.hits,
        downloads=downloads(),
        more_downloads=0,
        registries=known,
        more_registries=0,
        name_of=registry_name,
        **used(),
    ).body


# --- the images ------------------------------------------------------------------------------------------


def images(pages: Pages, call: Call[Any, Any]) -> bytes:
    rows = [
        held("docker.io/library/alpine:3.20", 12_400_000, 41_822, 1, pinned=True),
        held("docker.io/library/node:22-slim", 164 * MB, 20_113, 3),
        held("docker.io/library/node:22-slim", 163 * MB, 8_204, 2 * HOUR, current=False),
        held("docker.io/library/postgres:16", 452 * MB, 3_480, 80, lacking=90 * MB),
        held("ghcr.io/ml/training:v7", 4_600 * MB, 912, 4, platforms=("linux/amd64",)),
        held("quay.io/prometheus/prometheus:v3.0.1", 298 * MB, 77, 3 * DAY),
        held("registry.k8s.io/pause:3.9", 1_300_000, 15_118, 20, pinned=True),
    ]
    link = "/images".format
    return pages.page("images", call, images=rows, asked=ImageQuery(), link=link, next="/images").body


def held(
    name: str,
    size: int,
    hits: int,
    ago: float,
    *,
    pinned: bool = False,
    current: bool = True,
    lacking: int = 0,
    platforms: tuple[str, ...] = ("linux/amd64", "linux/arm64"),
) -> Image:
    """A row of the list: last used `ago` seconds before NOW, but for `lacking` bytes in the cache."""
    content = Content(
        stored=True,
        whole=not lacking,
        size=size,
        objects=9,
        held_bytes=size - lacking,
        held_objects=8 if lacking else 9,
        platforms=platforms,
        last_used=NOW - ago,
        stored_at=NOW - 5 * DAY,
        hits=hits,
        pinned=pinned,
    )
    registry, _, rest = name.partition("/")
    repository, _, tag = rest.rpartition(":")
    known = digest(f"{name} {current}")
    return Image(name, registry, repository, tag, known, MANIFEST, NOW - 60, current, content)


# --- pictures --------------------------------------------------------------------------------------------


def visit() -> Call[Any, Any]:
    """A call of somebody who is logged in and may change things."""
    token = Token("made up", Scope.WRITE, local=True)
    visitor = Visitor(Scope.WRITE, "127.0.0.1", Login(token, int(NOW + DAY), "made up"), token)
    nothing: Any = None
    return Call(nothing, {}, None, None, visitor, nothing, nothing)


def write(page: bytes, place: Path) -> str:
    """Write a page as a file that Chromium can show; return its URL."""
    with as_file(files("regproxy.web") / "static" / "page.css") as style:
        text = page.decode().replace('href="/static/page.css"', f'href="{style.absolute().as_uri()}"')
    place.write_text(re.sub(r"<script.*?</script>", "", text))
    return place.as_uri()


def main() -> None:
    pages, call = Pages(metadata.version("regproxy"), clock=lambda: NOW), visit()
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        for name, page, size, dark in (
            ("web-overview", overview(pages, call), (1000, 1420), False),
            ("web-images", images(pages, call), (1000, 720), True),
        ):
            picture = work / f"{name}.png"
            screenshot(write(page, work / f"{name}.html"), picture, size, dark=dark)
            shutil.copyfile(picture, IMAGES / picture.name)
            print(IMAGES / picture.name)


if __name__ == "__main__":
    main()
