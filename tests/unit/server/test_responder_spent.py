"""An answer on a connection whose records are spent is its last."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from regproxy.dataplane.request_ids import RequestIds
from regproxy.server.responder import Responder


@pytest.mark.parametrize("spent", [False, True])
def test_an_answer_on_a_spent_connection(spent: bool) -> None:
    """It says that it is the last, and so it is: `keeps` is what both are decided by."""
    services: Any = SimpleNamespace(closes=False, config=None, ids=RequestIds())
    exchange: Any = SimpleNamespace(stream=SimpleNamespace(spent=spent), keeps=True, body_left=False)
    assert Responder(services).closes(exchange) is spent
    assert exchange.keeps is not spent
