"""Which request a task works for."""

from __future__ import annotations

import asyncio

import pytest

from regproxy.core.request_context import CURRENT, Attributes, RequestContext, TraceSpan, current_span, within


class Noted:
    """A span that notes how it ended."""

    traceparent = b""
    trace_id = ""

    def __init__(self) -> None:
        self.ends: list[BaseException | None] = []

    def child(self, name: str, attributes: Attributes) -> Noted:
        return Noted()

    apart = child

    def link(self, other: TraceSpan) -> None: ...

    def event(self, name: str, attributes: Attributes) -> None: ...

    def put(self, attributes: Attributes) -> None: ...

    def end(self, error: BaseException | None = None) -> None:
        self.ends.append(error)


def test_tasks_inherit_it() -> None:
    async def begun() -> RequestContext | None:
        return CURRENT.get()

    async def request(name: str) -> RequestContext | None:
        CURRENT.set(RequestContext(name))
        return await asyncio.create_task(begun())

    async def test() -> None:
        one, two = await asyncio.gather(request("one"), request("two"))
        assert (one, two) == (RequestContext("one"), RequestContext("two"))
        assert CURRENT.get() is None

    asyncio.run(test())


def test_work_within_a_span() -> None:
    outer, inner = Noted(), Noted()
    token = CURRENT.set(RequestContext("one", outer))
    with within(inner):
        assert (current_span(), CURRENT.get()) == (inner, RequestContext("one", inner))
    assert current_span() is outer
    assert (inner.ends, outer.ends) == ([None], [])
    error = ValueError("x")
    with pytest.raises(ValueError), within(inner):
        raise error
    assert inner.ends == [None, error]
    CURRENT.reset(token)
    assert current_span() is None
