"""The digests that were seen under tags, and when: rows of the index, shared by all processes.

They stay when content is evicted, and are lost with the index. See `policy.tag_history`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from regproxy.cache.index.rows import SEEN, TagRow
from regproxy.policy.tag_history import SEEN_MAX, Seen, kept, noted
from regproxy.registry.accept import Accept, bits_above

_FIRST: Final = "first "


class HistoryRows(Protocol):
    """The index, as far as it has rows of tags."""

    def tag(self, host: str, port: int, repository: str, tag: str) -> tuple[TagRow, ...]:
        """Return the rows of a tag."""

    def put_tag(self, host: str, port: int, repository: str, tag: str, row: TagRow) -> None:
        """Enter a row."""

    def drop_tag(self, host: str, port: int, repository: str, tag: str) -> float:
        """Drop all rows of a tag."""


class TagHistory:
    """The history of tags. `age`: the highest that a rule wants of a digest, in seconds."""

    def __init__(self, index: HistoryRows, age: float) -> None:
        self._index = index
        self._age = age

    def seen(self, place: tuple[str, int, str], tag: str) -> tuple[Seen, ...]:
        """Return the history of a tag (of a host, port and repository), whatever its requests accept."""
        return tuple(_seen(row) for row in self._index.tag(*place, SEEN + tag))

    def note(
        self,
        place: tuple[str, int, str],
        tag: str,
        digest: str,
        media_type: str,
        accept: Accept,
        now: float,
    ) -> tuple[Seen, ...]:
        """Note what a tag (of a host, port and repository) is now; return its history for this Accept."""
        rows = self._index.tag(*place, SEEN + tag)
        # What this request has got may answer it, whoever has seen it before.
        usable = [row for row in rows if _may_answer(row, accept) or _seen(row).digest == digest]
        foreign = [row for row in rows if row not in usable]
        others, history = [_seen(row) for row in foreign], [_seen(row) for row in usable]
        replaced = any(row.media_type == media_type for row in foreign)
        new = noted(history, others, digest, age=self._age, now=now, replaced=replaced)
        if new is None:
            return tuple(history)
        named = accept.named & bits_above(media_type)
        for row in usable:
            named |= row.named if _seen(row).digest == digest else 0
        variant = _FIRST + digest if new.first else digest
        row = TagRow(variant, "", media_type, int(new.last_at), new.first_at, named)
        self._index.put_tag(*place, SEEN + tag, row)
        if len(rows) >= SEEN_MAX:
            self._shorten(place, tag, usable, now)
        return (*(seen for seen in history if seen.digest != digest), new)

    def _shorten(self, place: tuple[str, int, str], tag: str, usable: Iterable[TagRow], now: float) -> None:
        """Drop what matters no more; what others see under the tag stays."""
        rows = self._index.tag(*place, SEEN + tag)
        known = {row.variant for row in usable}
        mine = [row for row in rows if row.variant in known or row.fetched_at >= now]
        keep = {seen.digest for seen in kept([_seen(row) for row in mine], age=self._age, now=now)}
        self._index.drop_tag(*place, SEEN + tag)
        for row in rows:
            if row not in mine or _seen(row).digest in keep:
                self._index.put_tag(*place, SEEN + tag, row)


def _may_answer(row: TagRow, accept: Accept) -> bool:
    """Return whether a digest may be what a request with this Accept gets: see variants.choose_variant()."""
    return accept.accepts(row.media_type) and not accept.named & bits_above(row.media_type) & ~row.named


def _seen(row: TagRow) -> Seen:
    first = row.variant.startswith(_FIRST)
    return Seen(row.variant.removeprefix(_FIRST), row.fetched_at, float(row.size), first)
