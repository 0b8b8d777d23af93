"""Say which rule for images decides on a pull, and why: `regproxy policy explain`, and the admin port.

Nobody is asked. What the proxy knows itself, such as what a tag was last, the admin port brings in.
"""

from __future__ import annotations

import time

from msgspec import Struct
from msgspec.structs import replace

from regproxy.cache.index.index import Index
from regproxy.cache.pins import parse
from regproxy.config.image_rules import ANONYMOUS_WORD
from regproxy.core.errors import RegproxyError
from regproxy.policy.image_rules import Explanation, Facts, ImageRules
from regproxy.policy.tag_history import Seen
from regproxy.registry.targets import is_digest
from regproxy.tags.history import TagHistory
from regproxy.tags.rows import is_former


class BadQuestion(RegproxyError):
    """A question that can't be answered: says what is wrong with it, and what would be right."""


def facts_of(image: str, principal: str, digest: str, media_type: str, *, push: bool) -> Facts:
    """Return the facts of a pull or push. `principal`: ANONYMOUS_WORD for nobody by name; "" where unknown.

    Raises BadQuestion and PinError.
    """
    name = parse(image)
    if not name.host:
        raise BadQuestion(f"{image}: with its registry and repository, such as ghcr.io/team/app@{image}")
    if digest and not is_digest(digest):
        raise BadQuestion(f"digest {digest}: sha256: and 64 hex digits")
    return Facts(
        *(name.host, name.port, name.repository),
        tag=name.tag if not name.digest else "",
        digest=name.digest or digest or None,
        media_type=media_type or None,
        principal="" if principal == ANONYMOUS_WORD else principal,
        push=push,
        now=time.time(),
    )


class Known(Struct, frozen=True):
    """What was looked at besides the question: of the tag, what it was last, and what it was before."""

    digest: str | None
    media_type: str | None
    history: tuple[Seen, ...]


class Explained(Explanation, frozen=True, kw_only=True):
    """An explanation, and what this proxy knew for it."""

    known: Known


class Explanations:
    """The explanations of a running proxy. One object for each worker."""

    def __init__(self, rules: ImageRules, index: Index) -> None:
        self._rules = rules
        self._index = index
        self._history = TagHistory(index, rules.age)

    def explained(self, image: str, principal: str, digest: str, media_type: str, *, push: bool) -> Explained:
        """Answer a question. Raises as facts_of() does."""
        facts = self._with_known(facts_of(image, principal, digest, media_type, push=push))
        found = self._rules.explain(facts)
        known = Known(facts.digest, facts.media_type, tuple(facts.history or ()))
        values = (found.image, found.principal, found.steps, found.decision, found.needs)
        return Explained(*values, known=known)

    def _with_known(self, facts: Facts) -> Facts:
        """Return the facts with what the index knows of a tag, but for what the question says itself."""
        if not facts.tag or facts.repository is None or facts.push:
            return facts
        place = (facts.host, facts.port, facts.repository)
        rows = [row for row in self._index.tag(*place, facts.tag) if row.digest and not is_former(row)]
        named = {(row.digest, row.media_type) for row in rows}
        if len(named) == 1 and facts.digest is None:
            # Where requests by several kinds of Accept get several, none is what the tag is.
            ((digest, media_type),) = named
            facts = replace(facts, digest=digest, media_type=facts.media_type or media_type)
        # Without any, the rules have nothing to judge by: a pull would be the first to note what the tag is.
        history = self._history.seen(place, facts.tag) or None
        return replace(facts, history=history) if self._rules.age else facts
