"""Ids of requests: 32 hex digits, of which no two are alike."""

from __future__ import annotations

import re

from regproxy.dataplane.request_ids import RequestIds


def test_they_count_in_hex() -> None:
    ids = RequestIds()
    given = [ids.next() for _ in range(70_000)]
    assert re.fullmatch(rb"[0-9a-f]{32}", given[0])
    assert len({one[:20] for one in given}) == 1
    numbers = [int(one[20:], 16) for one in given]
    assert numbers == list(range(numbers[0], numbers[0] + 70_000))
    assert ids.last == given[-1]


def test_processes_have_their_own() -> None:
    assert RequestIds().next()[:20] != RequestIds().next()[:20]
