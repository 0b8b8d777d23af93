"""What real clients make of leaves: within and outside of name constraints, and while a CA is replaced.

Go (skopeo, and a program of its own where a compiler is there), OpenSSL (its own command, curl, Python) and
GnuTLS.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from regproxy.config.sources.assembly import load as configure
from regproxy.tls import ca_rotation
from regproxy.tls.authority import Authority
from regproxy.tls.ca_files import CaFiles, CaPair, load
from regproxy.tls.ca_scope import wanted
from tests.support.authorities import drp_ca, subordinate_ca
from tests.support.tls_programs import PROGRAMS, LeafServer, Program

REGISTRIES = "reg.example *.corp.example 127.9.0.0 ~^r[0-9]+\\.regex\\.example$"


@pytest.fixture(params=PROGRAMS, ids=str)
def program(request: pytest.FixtureRequest) -> Program:
    found: Program = request.param
    if found.missing:
        pytest.skip(f"{found.name} is not installed (Debian's {found.package})")
    return found


@dataclass(frozen=True)
class Place:
    """CA files, and servers that show leaves."""

    directory: Path
    stack: ExitStack

    @property
    def files(self) -> CaFiles:
        return CaFiles(self.directory / "ca.crt", self.directory / "ca.key")

    def prepare(self, **env: str) -> tuple[CaPair, ...]:
        return ca_rotation.prepare(self.files, wanted(configure(env)), time.time())[0]

    def trusted(self, pairs: tuple[CaPair, ...], name: str = "trusted") -> Path:
        path = self.directory / f"{name}.pem"
        path.write_bytes(Authority(pairs, time.time).certificate_pem)
        return path

    def serve(self, pairs: tuple[CaPair, ...], host: str) -> tuple[str, int]:
        leaf = Authority(pairs, time.time).leaf(host)
        address = None if host[0].isalpha() else host
        place = self.directory / f"served-{host}"
        return self.stack.enter_context(LeafServer(place, leaf.chain_pem, leaf.key_pem, address)).address


@pytest.fixture
def place(tmp_path: Path, stack: ExitStack) -> Place:
    return Place(tmp_path, stack)


@pytest.mark.parametrize(
    "host, within",
    [
        ("reg.example", True),
        ("a.corp.example", True),
        ("a.b.corp.example", True),
        ("r7.regex.example", True),
        ("registry-1.docker.io", True),
        ("docker.caching.proxy.internal", True),
        ("other.example", False),
        ("notreg.example", False),
        ("reg.example.org", False),
        ("127.9.0.0", True),
        ("127.9.0.1", False),
    ],
)
def test_name_constraints(
    program: Program, place: Place, host: str, within: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = place.prepare(REGISTRIES=REGISTRIES)
    assert pairs[0].covers(host) is within
    # The proxy itself makes no such leaf: whoever has stolen the key does.
    monkeypatch.setattr(CaPair, "covers", lambda *_: True)
    assert program.accepts(place.trusted(pairs), host, place.serve(pairs, host)) is within


def test_no_addresses_at_all(program: Program, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = place.prepare(REGISTRIES="reg.example")
    monkeypatch.setattr(CaPair, "covers", lambda *_: True)
    assert not program.accepts(place.trusted(pairs), "127.9.0.2", place.serve(pairs, "127.9.0.2"))


# --- while a CA is replaced ------------------------------------------------------------------------------


def ours(place: Place) -> tuple[CaPair, ...]:
    return place.prepare(REGISTRIES="reg.example")


@functools.cache
def drp_files() -> tuple[bytes, bytes]:
    """Return certificate and key, which take a while to make."""
    with tempfile.TemporaryDirectory() as directory:
        crt, key = Path(directory) / "ca.crt", Path(directory) / "ca.key"
        drp_ca(crt, key)
        return crt.read_bytes(), key.read_bytes()


def drp(place: Place) -> tuple[CaPair, ...]:
    for path, text in zip((place.files.crt, place.files.key), drp_files(), strict=True):
        path.write_bytes(text)
    return place.prepare(REGISTRIES="reg.example")


@pytest.mark.parametrize("first", [ours, drp], ids=lambda make: make.__name__)
def test_rotation(program: Program, place: Place, first: Callable[[Place], tuple[CaPair, ...]]) -> None:
    before = first(place)
    old = place.trusted(before, "old")
    now = time.time()
    want = wanted(configure({"REGISTRIES": "reg.example new.example"}))
    during = ca_rotation.rotate(place.files, want, now)
    both, new = place.trusted(during, "both"), place.trusted(during[1:], "new")
    known = place.serve(during, "reg.example")
    # Whatever a client has of it, a host that was there before is reached.
    for ca in (old, both, new):
        assert program.accepts(ca, "reg.example", known)
    if first is ours:
        added = place.serve(during, "new.example")
        assert [program.accepts(ca, "new.example", added) for ca in (old, both, new)] == [False, True, True]

    after = ca_rotation.finish(place.files, want, now)
    assert len(after) == 1
    known = place.serve(after, "reg.example")
    for ca in (old, both, new):  # the old one by its link to the new one
        assert program.accepts(ca, "reg.example", known)
    added = place.serve(after, "new.example")
    accepted = [program.accepts(ca, "new.example", added) for ca in (old, both, new)]
    assert accepted == [first is drp, True, True]


def test_a_third_ca(program: Program, place: Place) -> None:
    """Several may wait: what clients had goes on, and the newest is enough for everything."""
    for names in ("reg.example", "reg.example b.example", "reg.example b.example c.example"):
        pairs = place.prepare(REGISTRIES=names)
    assert len(pairs) == 3
    known, second = place.serve(pairs, "reg.example"), place.serve(pairs, "b.example")
    first, newest = place.trusted(pairs[:1], "first"), place.trusted(pairs[2:], "newest")
    assert [program.accepts(ca, "reg.example", known) for ca in (first, newest)] == [True, True]
    both = place.trusted(pairs[:2], "both")
    assert [program.accepts(ca, "b.example", second) for ca in (first, both, newest)] == [False, True, True]
    assert program.accepts(both, "reg.example", known)


def test_an_intermediate_of_the_companys(program: Program, place: Place) -> None:
    root = subordinate_ca(place.directory / "root", place.files.crt, place.files.key, permitted="reg.example")
    pairs = load(place.files, time.time())
    assert (pairs[0].covers("reg.example"), pairs[0].covers("b.example")) == (True, False)
    assert program.accepts(root, "reg.example", place.serve(pairs, "reg.example"))
