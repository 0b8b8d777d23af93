"""Pulls through the proxy, over a line to the registry that delays, loses, stalls and breaks: all end well.

What goes wrong between the proxy and the registry is the proxy's to mend, and no client sees a body that
breaks off. Where nobody can be reached for long, a client that has not begun may be told so, as clients know
it: with a 502, 503 or 504, after which it asks again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import pytest

from tests.support import netem
from tests.support.client import Reply
from tests.support.images import INDEX, MANIFEST, make_image
from tests.support.netem import FAR, Fault, Lab, Way
from tests.support.origin import Origin
from tests.support.proxy import Proxy
from tests.support.real_clients import Skopeo
from tests.support.trust import Trust

BAD = Way(delay=0.05, loss=0.02)
PORT, TAG = 8443, "latest"
CLIENTS, LAYERS, SIZE = 4, 6, 1_500_000
EVERY = 250_000  # bytes from the registry between two breaks: several in each layer's time
PATIENCE = 90.0  # seconds until a client is taken to hang
TOLD = (502, 503, 504)
ACCEPT = [("Accept", MANIFEST), ("Accept", INDEX)]

MISSING = netem.missing()
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=f"no bad lines here: {MISSING}"),
    pytest.mark.timeout(180),
]


class Toxic:
    """A registry at the far end of a bad line, a proxy and clients at the near one."""

    def __init__(self, place: Path, trust: Trust, stack: ExitStack, timeout: str) -> None:
        self.lab = stack.enter_context(Lab(BAD))
        with self.lab.far.entered():
            self.origin = stack.enter_context(Origin(trust, "reg.test", address=(FAR, PORT)))
        self.image = make_image(size=SIZE, layers=LAYERS, seed=31)
        self.origin.publish("app", self.image, TAG)
        stack.enter_context(self.lab.near.entered())
        self.proxy = stack.enter_context(
            Proxy(
                place,
                {"REGPROXY_WORKERS": "2", "PROXY_CONNECT_TIMEOUT": timeout, "PROXY_READ_TIMEOUT": timeout},
                registries=(self.origin.authority,),
                resolve=self.origin.resolve,
                ca=trust.path,
            )
        )

    def pull(self, chance: random.Random, *, again: bool) -> list[str]:
        """Pull the image as one client; return what went wrong. `again`: it asks again when it is told to."""
        tag = f"/v2/app/manifests/{TAG}"
        wanted = {tag: self.image.digest}
        wanted |= {f"/v2/app/blobs/{digest}": digest for digest in self.image.blobs}
        wrong = []
        for path in (tag, *chance.sample(sorted(wanted.keys() - {tag}), len(wanted) - 1)):
            reply = self._get(path)
            ends = time.monotonic() + PATIENCE
            while again and reply.complete and reply.status in TOLD and time.monotonic() < ends:
                # As clients do: nothing happens that could be waited for.
                time.sleep(chance.uniform(0.1, 0.5))
                reply = self._get(path)
            if (reply.status, reply.complete) != (200, True) or reply.digest != wanted[path]:
                said = reply.body[:500] if reply.status != 200 else f"{len(reply.body)} bytes"
                wrong.append(f"{path}: {reply.status} {said!r} {reply.end}")
        return wrong

    def _get(self, path: str) -> Reply:
        with self.proxy.client(self.origin.authority, timeout=PATIENCE) as client:
            return client.get(path, ACCEPT)


@pytest.fixture
def toxic(tmp_path: Path, trust: Trust, stack: ExitStack, request: pytest.FixtureRequest) -> Toxic:
    """Where no client may be told of anything, what TCP sends again after a silence comes within the timeout,
    on a machine that is busy too: the line itself is a process.
    """
    callspec = getattr(request.node, "callspec", None)
    may_be_told = callspec is not None and callspec.params["again"]
    return Toxic(tmp_path / "proxy", trust, stack, "2s" if may_be_told else "6s")


def together(pulls: Iterable[Callable[[], list[str]]]) -> list[str]:
    """Run these at once; return what went wrong in any of them."""
    wrong: list[str] = []

    def run(pull: Callable[[], list[str]]) -> None:
        try:
            wrong.extend(pull())
        except (OSError, AssertionError) as error:
            wrong.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=run, args=(pull,)) for pull in pulls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


# What the line does, and whether clients may be told that there is nobody.
PLAGUES: dict[str, tuple[tuple[Fault, ...], bool]] = {
    "loss and delay alone": ((), False),
    "connections that are reset": ((Fault("reset"),), False),
    "short silences": ((Fault("drop", 0.5),), False),
    "a registry that refuses for a second": ((Fault("reset", 1.0),), True),
    "silences longer than the timeout": ((Fault("drop", 3.0),), True),
    "all of it": ((Fault("reset"), Fault("drop", 0.5), Fault("reset", 1.0), Fault("drop", 3.0)), True),
}


@pytest.mark.parametrize("faults, again", PLAGUES.values(), ids=PLAGUES)
def test_every_pull_completes_and_is_right(toxic: Toxic, faults: tuple[Fault, ...], again: bool) -> None:
    line = toxic.lab.line
    line.plague(EVERY, cycle(faults) if faults else ())
    pulls = [lambda seed=seed: toxic.pull(random.Random(seed), again=again) for seed in range(CLIENTS)]
    assert together(pulls) == []
    assert line.lost > 0
    assert all(line.faults[fault.kind] for fault in faults)
    toxic.proxy.wait_kept(*toxic.image.blobs)


def test_a_client_that_knows_nothing_of_it(toxic: Toxic, tmp_path: Path) -> None:
    toxic.lab.line.plague(EVERY, cycle((Fault("reset"), Fault("drop", 0.5))))
    skopeo = Skopeo(tmp_path / "skopeo", proxy=toxic.proxy.url, ca=toxic.proxy.ca_path)
    pulled = skopeo.copy(f"{toxic.origin.authority}/app:{TAG}")
    assert pulled.digest == toxic.image.digest
    assert toxic.lab.line.faults.total() > 1
