"""Fixtures that several test modules share. What they start is ended with the test, or with the session."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support.client import Client
from tests.support.docker_registry import Registry
from tests.support.images import Image, make_image
from tests.support.origin import Origin
from tests.support.proxy import Proxy
from tests.support.shared_proxy import Lane
from tests.support.token_server import TokenServer
from tests.support.trust import Trust

pytest.register_assert_rewrite("tests.support.plane")


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    """A CA for servers of the test, one for the session."""
    return Trust(tmp_path_factory.mktemp("trust"))


@pytest.fixture(scope="session")
def image() -> Image:
    """A small image of two layers."""
    return make_image(seed=7)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes whatever a test enters into it, last in first out."""
    with ExitStack() as entered:
        yield entered


@pytest.fixture
def start_origin(stack: ExitStack, trust: Trust) -> Callable[..., Origin]:
    """Start a scriptable origin: `start_origin("origin.test", rate=...)`; `tls=False` for plain HTTP."""

    def start(*names: str, tls: bool = True, **options: Any) -> Origin:
        return stack.enter_context(Origin(trust if tls else None, *names, **options))

    return start


@pytest.fixture
def start_tokens(stack: ExitStack, trust: Trust) -> Callable[..., TokenServer]:
    """Start a token server: `start_tokens(users={"u": "p"})`."""
    return lambda **options: stack.enter_context(TokenServer(trust, **options))


@pytest.fixture
def start_registry(stack: ExitStack, trust: Trust, tmp_path: Path) -> Callable[..., Registry]:
    """Start a docker-registry: `start_registry("reg.test", users=..., tokens=..., cdn=..., storage=...)`."""

    def start(name: str = "reg.test", **options: Any) -> Registry:
        place = tmp_path / f"registry-{name}-{len(list(tmp_path.glob('registry-*')))}"
        return stack.enter_context(Registry(place, trust, name=name, **options))

    return start


@pytest.fixture
def start_proxy(stack: ExitStack, trust: Trust, tmp_path: Path) -> Callable[..., Proxy]:
    """Start the proxy before these origins: `start_proxy(registry, origin, VAR="value")`; it intercepts all.

    Takes Registry and Origin objects (anything with `authority` and `resolve`), and variables of the
    environment; see `Proxy` for the rest. `registries` replaces the list of what is intercepted, `at` is the
    directory of an earlier proxy whose cache and CA are to be taken over.
    """

    def start(
        *before: Any, registries: tuple[str, ...] | None = None, at: Path | None = None, **env: str | None
    ) -> Proxy:
        place = at or tmp_path / f"proxy-{len(list(tmp_path.glob('proxy-*')))}"
        resolve: dict[str, str] = {}
        for origin in before:
            resolve |= origin.resolve
        names = tuple(origin.authority for origin in before) if registries is None else registries
        return stack.enter_context(Proxy(place, env, registries=names, resolve=resolve, ca=trust.path))

    return start


@pytest.fixture
def talk(stack: ExitStack) -> Callable[..., Client]:
    """Return a client that is through the proxy to an origin: `talk(proxy, origin, early=True)`."""
    return lambda proxy, origin, **options: stack.enter_context(proxy.client(origin.authority, **options))


@pytest.fixture
def hold(stack: ExitStack) -> threading.Event:
    """What an origin waits for; set at the latest when the test ends."""
    event = threading.Event()
    stack.callback(event.set)
    return event


@pytest.fixture(scope="module")
def lane(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    """An origin and the proxies before it, for the tests of a module."""
    with Lane(tmp_path_factory.mktemp("lane"), trust) as lane:
        yield lane


def pytest_configure() -> None:
    """Have freed memory given back: else each thread of an origin keeps what it once needed (mallopt(3)).

    And let no test of hypothesis fail by how long an example took: that is the machine's business.
    """
    ctypes.CDLL(None).mallopt(-3, 131_072)  # M_MMAP_THRESHOLD: fixed from then on; -3 in malloc.h
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Let no collection of garbage look at what lives until the end: 13,000 tests, and all that is imported.

    Else each of them takes a second, and modules want one each.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _collect() -> Iterator[None]:
    """Free a module's origins, which are in cycles with their scripts, before the next module's come."""
    yield
    gc.collect()
