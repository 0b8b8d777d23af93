"""What the rules for images say of a pull or push."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from regproxy.admin.operations import Call, get
from regproxy.admin.replies import Problem
from regproxy.admin.visitors import Scope
from regproxy.config.image_rules import ANONYMOUS_WORD
from regproxy.core.errors import RegproxyError
from regproxy.server.explanations import Explained, Explanations


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pull or push. What is not said of it, and this proxy knows, it brings in."""

    image: Annotated[str, Meta(description="such as ghcr.io/team/app:1.0")]
    who: Annotated[str, Meta(description="a principal's name")] = msgspec.field(
        name="as", default=ANONYMOUS_WORD
    )
    digest: Annotated[str, Meta(description="the digest of the tag")] = ""
    media_type: Annotated[str, Meta(description="its manifest's type")] = ""
    push: Annotated[bool, Meta(description="a push, not a pull")] = False


class RuleQuestions:
    """The endpoint of the rules."""

    def __init__(self, explanations: Explanations) -> None:
        self._explanations = explanations

    @get("/api/v1/rules/explain", Scope.LOCAL)
    def explain_rules(self, call: Call[Question, None]) -> Explained:
        """Return which rule for images decides on a pull or push, and why.

        No registry is asked.
        """
        asked = call.query
        try:
            return self._explanations.explained(
                *(asked.image, asked.who, asked.digest, asked.media_type), push=asked.push
            )
        except RegproxyError as error:
            raise Problem(400, str(error)) from None
