"""An origin that answers twice: the second answer is nobody's."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.client import Client
from tests.support.origin import Answer, Origin, Seen
from tests.support.proxy import Proxy


def test_an_origin_that_answers_twice(
    start_origin: Callable[..., Origin],
    start_proxy: Callable[..., Proxy],
    talk: Callable[..., Client],
) -> None:
    """Whenever the second one comes, nobody is given it."""
    origin = start_origin("reg.test")
    more = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

    def twice(seen: Seen) -> Answer:
        return Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood" + more)

    origin.on("/token", *[twice] * 20, Answer(b"good"))
    client = talk(start_proxy(origin), origin)
    for _ in range(25):
        assert client.get("/token").body == b"good"
