"""Which rule decides, with what an index knows."""

from __future__ import annotations

from typing import Any

import pytest

from regproxy.core.errors import RegproxyError
from regproxy.policy.image_rules import ImageRules
from regproxy.server.explanations import Explanations, Known


class NoRows:
    """An index that knows nothing."""

    def tag(self, *place: object) -> tuple[()]:
        return ()


def explanations() -> Explanations:
    index: Any = NoRows()
    return Explanations(ImageRules(()), index)


def test_without_rules() -> None:
    found = explanations().explained("reg.test/app:1", "ci", "", "", push=False)
    assert found.decision is not None
    assert (found.principal, found.decision.action) == ("ci", "allow")
    assert found.known == Known(None, None, ())


@pytest.mark.parametrize("image, digest", [("", ""), ("a:b:c", ""), ("reg.test/app:1", "sha256:12")])
def test_bad_questions(image: str, digest: str) -> None:
    with pytest.raises(RegproxyError):
        explanations().explained(image, "ci", digest, "", push=False)
