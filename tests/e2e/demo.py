"""A demonstration: an image is pushed to a registry, pulled twice through the proxy, and watched.

`make demo`, or `python -m tests.e2e.demo`. Everything runs on loopback below a temporary directory.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.support.docker_registry import Registry
from tests.support.images import make_image
from tests.support.proxy import Proxy
from tests.support.real_clients import Skopeo
from tests.support.trust import Trust

LAYERS = 4
SIZE = 48_000_000
NAME = "registry.test"
REPOSITORY = "demo/app"

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pull:
    """One pull: the proxy's access log of it, the seconds it took, and how often the registry was asked."""

    lines: list[Line]
    seconds: float
    asked: int


def main() -> None:
    """Run it and print."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="regproxy-demo-") as place:
        directory = Path(place)
        trust = Trust(directory / "trust")
        with Registry(directory / "registry", trust, name=NAME) as registry:
            console.print(f"docker-registry is {registry.authority}, over TLS")
            image = registry.push(REPOSITORY, "1.0.0", make_image(size=SIZE, layers=LAYERS))
            console.print(f"pushed {image}: {LAYERS} layers, {SIZE / 1e6:.0f} MB")
            with proxy_for(directory / "proxy", registry, trust) as proxy:
                console.print(f"regproxy is {proxy.url}\n")
                first = pull(directory / "first", image, proxy, registry)
                second = pull(directory / "second", image, proxy, registry)
    console.print(table(first, second))
    for name, done in (("first", first), ("second", second)):
        console.print(
            f"{name} pull: {done.seconds:.2f} s by skopeo's clock, asked the registry {done.asked} times"
        )


def proxy_for(directory: Path, registry: Registry, trust: Trust) -> Proxy:
    """Return a proxy before the registry that also serves tags from its cache."""
    return Proxy(
        directory,
        {"ENABLE_MANIFEST_CACHE": "true"},
        registries=(registry.authority,),
        resolve=registry.resolve,
        ca=trust.path,
    )


def pull(directory: Path, image: str, proxy: Proxy, registry: Registry) -> Pull:
    """Pull with a skopeo that has seen nothing yet."""
    skopeo = Skopeo(directory, proxy=proxy.url, ca=proxy.ca_path)
    logged, asked = len(lines_of(proxy)), len(registry.requests())
    started = time.monotonic()
    pulled = skopeo.copy(image)
    seconds = time.monotonic() - started
    # The ping, the manifest, the config and each layer.
    lines = proxy.access_log(logged + 1 + 1 + len(pulled.blobs), check=is_request)[logged:]
    return Pull(lines, seconds, len(registry.requests()) - asked)


def lines_of(proxy: Proxy) -> list[Line]:
    return proxy.access_log(check=is_request)


def is_request(line: Line) -> bool:
    """Tell a request from a CONNECT."""
    return bool(line["method"] != "CONNECT")


def table(first: Pull, second: Pull) -> Table:
    """Return what both pulls asked for, a row each."""
    view = Table("request", title="The same pull, twice", title_justify="left")
    view.add_column("bytes", justify="right")
    for name in ("first", "second"):
        view.add_column(name)
        view.add_column("ms", justify="right")
    again = {line["uri"]: line for line in second.lines}
    for line in sorted(first.lines, key=lambda line: str(line["access_time"])):
        uri, sent = line["uri"], int(line["bytes_sent"])
        view.add_row(shortened(uri), f"{sent:,}", *cells(line), *cells(again.get(uri)))
    return view


def cells(line: Line | None) -> tuple[str, str]:
    """Return a request's cache status and its time."""
    if line is None:
        return "not asked for", ""
    status = line["upstream_cache_status"]
    colour = {"HIT": "green", "MISS": "yellow"}.get(status, "dim")
    return f"[{colour}]{status or line['request_type']}[/]", f"{float(line['request_time']) * 1000:.0f}"


def shortened(uri: str) -> str:
    """Return a path without its repository, and its digest cut to what tells it from others."""
    head, colon, digest = uri.removeprefix(f"/v2/{REPOSITORY}/").partition("sha256:")
    return f"{head}{colon}{digest[:8]}" if colon else head


if __name__ == "__main__":
    main()
