"""Say which rule for images decides on a pull, and why: `regproxy policy explain`, and the admin port.

Nobody is asked. What the proxy knows itself, such as what a tag was last, the admin port brings in.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from typing import Final
from urllib.parse import parse_qsl

from regproxy.cache.index.index import Index
from regproxy.cache.pins import parse
from regproxy.config.image_rules import ANONYMOUS_WORD
from regproxy.config.parent_proxy import is_loopback
from regproxy.core.errors import RegproxyError
from regproxy.policy.image_rules import Facts, ImageRules
from regproxy.registry.targets import is_digest
from regproxy.server.setup_pages import Page
from regproxy.tags.history import TagHistory
from regproxy.tags.rows import is_former

PATH: Final = "/api/v1/rules/explain"
_KEYS: Final = ("image", "as", "digest", "media_type", "push")
_YES: Final = {"": False, "false": False, "true": True}


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


class Explanations:
    """The page of the admin port. One for each worker."""

    def __init__(self, rules: ImageRules, index: Index) -> None:
        self._rules = rules
        self._index = index
        self._history = TagHistory(index, rules.age)

    def page(self, query: str, peer: str) -> Page:
        """Answer a question: image, and as, digest, media_type and push (true), by the query of its URL.

        For clients on this machine alone: the rules are nobody else's business. `peer`: the client's address.
        """
        if not is_loopback(peer):
            return _json(403, {"error": "for clients on this machine alone: ask at the loopback address"})
        try:
            return _json(200, self._explained(_asked(query)))
        except RegproxyError as error:
            return _json(400, {"error": str(error)})

    def _explained(self, asked: dict[str, str]) -> dict[str, object]:
        push = asked.get("push", "")
        if push not in _YES:
            raise BadQuestion(f"push={push}: true or false")
        principal = asked.get("as", ANONYMOUS_WORD)
        facts = facts_of(
            *(asked.get("image", ""), principal, asked.get("digest", ""), asked.get("media_type", "")),
            push=_YES[push],
        )
        facts = self._with_known(facts)
        known = {
            "digest": facts.digest,
            "media_type": facts.media_type,
            "history": [asdict(seen) for seen in facts.history or ()],
        }
        return asdict(self._rules.explain(facts)) | {"known": known}

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


def _asked(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), errors="strict")
    except ValueError:
        raise BadQuestion(f"not a query; it takes {', '.join(_KEYS)}") from None
    for key, _ in pairs:
        if key not in _KEYS:
            raise BadQuestion(f"{key}: not known; it takes {', '.join(_KEYS)}")
    asked = dict(pairs)
    if len(asked) < len(pairs):
        raise BadQuestion("each of them once")
    if not asked.get("image"):
        raise BadQuestion("image: which one, such as image=ghcr.io/team/app:1.0")
    return asked


def _json(status: int, content: object) -> Page:
    return Page(status, b"application/json", json.dumps(content, indent=2).encode() + b"\n")
