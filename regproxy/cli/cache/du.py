"""`regproxy cache du`: how much each registry and repository takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from regproxy.cli.cache.opening import ConfigOption, JsonOption, opened, place_of
from regproxy.cli.cache.text import say, show_columns, show_json, size_text, time_text

if TYPE_CHECKING:
    from regproxy.inventory.reading import IndexReader
    from regproxy.inventory.totals import Usage

_PAGE = 500

RegistryOption = Annotated[str, typer.Option("--registry", help="Of this registry alone, such as ghcr.io.")]
SumOption = Annotated[bool, typer.Option("--summarize", "-s", help="Registries alone, without repositories.")]


def du(
    registry: RegistryOption = "",
    summarize: SumOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Add up what is held of each registry and repository, the largest first.

    Content that several of them have is stored once, and counts for each: the last line has the cache's sum.
    """
    from regproxy.inventory.reading import index_reader
    from regproxy.inventory.totals import by_registry, totals

    with opened(config) as cache, index_reader(cache.root) as reader:
        repositories = list(_all(reader, place_of(registry)))
        whole = totals(reader)
    repositories.sort(key=lambda each: -each.bytes)
    registries = by_registry(repositories)
    if as_json:
        found = {"registries": registries, "totals": whole}
        show_json(found if summarize else {**found, "repositories": repositories})
        return
    head = ("SIZE", "TAGS", "OBJECTS", "LAST USED", "REGISTRY/REPOSITORY")
    shown = registries if summarize else repositories
    show_columns(head, map(_row, shown), right=(0, 1, 2))
    say(f"{size_text(whole.bytes)} in {whole.objects} objects; {size_text(whole.disk)} on disk")


def _all(reader: IndexReader, place: tuple[str, int] | None) -> Iterator[Usage]:
    from regproxy.inventory.totals import repositories

    start = None
    while True:
        page = repositories(reader, place=place, start=start, limit=_PAGE)
        yield from page.items
        start = page.next
        if start is None:
            return


def _row(usage: Usage) -> tuple[str, ...]:
    name = f"{usage.registry}/{usage.repository}" if usage.repository else usage.registry
    return size_text(usage.bytes), str(usage.tags), str(usage.objects), time_text(usage.last_used), name
