"""Who may ask which rule decides."""

from __future__ import annotations

from typing import Any

import pytest

from regproxy.policy.image_rules import ImageRules
from regproxy.server.explanations import Explanations


class NoRows:
    """An index that knows nothing."""

    def tag(self, *place: object) -> tuple[()]:
        return ()


@pytest.mark.parametrize(
    ("peer", "status"),
    [
        ("127.0.0.1", 200),
        ("127.9.9.9", 200),
        ("::1", 200),
        ("10.0.0.1", 403),
        ("192.0.2.1", 403),
        ("2001:db8::1", 403),
        ("", 403),
    ],
)
def test_for_this_machine_alone(peer: str, status: int) -> None:
    index: Any = NoRows()
    page = Explanations(ImageRules(()), index).page("image=reg.test/app:1", peer)
    assert page.status == status
