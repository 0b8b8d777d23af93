"""Print what each client asks a registry for, straight and through the proxy: the table of docs/clients.md.

    python -m tests.load.client_sequences

The registry's access log has it; a registry is new for each client, and open to everybody.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

from tests.e2e.test_client_matrix import PROGRAMS, WORDS, by_client, save, serving
from tests.support.connect_relay import Relay
from tests.support.docker_registry import Logged, Registry
from tests.support.images import make_image
from tests.support.trust import Trust

HOST = "reg.test"
KINDS = (
    (re.compile(r"/v2/"), "/v2/"),
    (re.compile(r"/v2/.+/manifests/sha256:.*"), "manifest"),
    (re.compile(r"/v2/.+/manifests/.*"), "tag"),
    (re.compile(r"/v2/.+/blobs/sha256:.*"), "blob"),
    (re.compile(r"/v2/.+/blobs/uploads/.*"), "upload"),
)


def word(request: Logged) -> str:
    """Return a request in two words, and its status where that is an error."""
    kind = next((word for pattern, word in KINDS if pattern.fullmatch(request.path)), request.path)
    if request.method == "POST" and "mount=" in request.target:
        kind = "mount"
    return f"{request.method} {kind}" + (f" ({request.status})" if request.status >= 400 else "")


def text(words: Iterable[str]) -> str:
    """Return requests as text; the same one several times in a row is said once."""
    runs = ((name, len(list(group))) for name, group in groupby(words))
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in runs) or "none"


def operations(
    program: str, place: Path, registry: Registry, name: str, proxy: str, ca: Path, seed: int
) -> dict[str, list[str]]:
    """Return what arrives for each operation of a client behind a proxy, by the operation's name.

    `name`: what it calls the registry.
    """
    found: dict[str, list[str]] = {}
    count = len(registry.requests())

    def arrived(operation: str) -> None:
        nonlocal count
        requests = registry.requests()
        found[operation] = [word(request) for request in requests[count:]]
        count = len(requests)

    app, other, new = (f"{name}/lib/{repository}:v1" for repository in WORDS)
    with ExitStack() as stack:
        client = by_client(stack, program, place, proxy, ca)
        client.pull(app)
        arrived("pull, cold")
        client.remove(app)
        client.pull(app)
        arrived("pull, warm")
        client.push(app, other)
        arrived("push to another repository")
        client.load(save(place, make_image(seed=seed), new)[0])
        client.push(new, new)
        arrived("push, new")
        client.push(new, new)
        arrived("push, again")
    return found


def compare(program: str, place: Path, trust: Trust) -> list[tuple[str, str, str]]:
    """Return operation, requests without and with the proxy; of two layers and a configuration.

    podman and buildah note for the whole machine which registry has which content: none is used twice.
    """
    image, new = random.randrange(1 << 32), random.randrange(1 << 32)
    with Registry(place / "direct", trust, name=HOST) as registry:
        registry.push("lib/app", "v1", make_image(seed=image))
        with Relay(registry.resolve) as relay:
            own = place / "straight"
            straight = operations(program, own, registry, registry.authority, relay.url, trust.path, new)
    with serving(place / "served", trust, HOST) as (registry, proxy):
        registry.push("lib/app", "v1", make_image(seed=image + 1))
        through = operations(program, place / "through", registry, HOST, proxy.url, proxy.ca_path, new + 1)
    # What is done side by side comes in any order.
    return [
        (
            operation,
            text(words),
            "the same" if Counter(words) == Counter(through[operation]) else text(through[operation]),
        )
        for operation, words in straight.items()
    ]


def main() -> int:
    """Print the table."""
    print("| client | operation | without the proxy | through the proxy |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="sequences-") as work:
        trust = Trust(Path(work) / "trust")
        for program in PROGRAMS:
            for operation, straight, through in compare(program, Path(work) / program, trust):
                print(f"| {program} | {operation} | {straight} | {through} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
