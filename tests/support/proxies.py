"""Proxies that the tests of a module share: before the same origins, one for each setting."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import pytest

from tests.support.proxy import Proxy
from tests.support.trust import Trust


class Proxies:
    """`proxies(VAR="value")` is the proxy with these variables, started when it is first wanted.

    All of them are before the origins `before`, which they intercept, or `registries` in place of those;
    `env` is what all have in common. At the end each must stop without a leak (REGPROXY_DEBUG) and without a
    traceback in its log. Tests that share one need a registry's name, or a repository, of their own.
    """

    def __init__(
        self,
        places: pytest.TempPathFactory,
        trust: Trust,
        *before: Any,
        registries: tuple[str, ...] | None = None,
        **env: str,
    ) -> None:
        self._places, self._ca, self._env = places, trust.path, env
        self._resolve: dict[str, str] = {}
        for origin in before:
            self._resolve |= origin.resolve
        every = (f"{name}:{origin.port}" for origin in before for name in origin.names)
        self._registries = tuple(every) if registries is None else registries
        self._stack = ExitStack()
        self._proxies: dict[tuple[tuple[str, str], ...], Proxy] = {}

    def __call__(self, **env: str) -> Proxy:
        key = tuple(sorted(env.items()))
        if key not in self._proxies:
            proxy = Proxy(
                self._places.mktemp("proxy"),
                {**self._env, **env},
                registries=self._registries,
                resolve=self._resolve,
                ca=self._ca,
            )
            self._proxies[key] = self._stack.enter_context(proxy)
        return self._proxies[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        for proxy in self._proxies.values():
            assert "Traceback" not in proxy.log(), proxy.log()
