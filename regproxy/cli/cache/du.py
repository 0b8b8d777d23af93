"""`regproxy cache du`: how much each registry and repository takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from regproxy.cli.cache.opening import opened, place_of
from regproxy.cli.common.options import ConfigOption, JsonOption
from regproxy.cli.common.text import say, show_columns, show_json, time_text
from regproxy.core.sizes import size_text

if TYPE_CHECKING:
    from regproxy.inventory.reading import IndexReader
    from regproxy.inventory.totals import Usage

_PAGE = 500

RegistryOption = Annotated[str, typer.Option("--registry", help="Only this registry, such as ghcr.io.")]
SumOption = Annotated[
    bool, typer.Option("--summarize", "-s", help="Show registries only, without repositories.")
]


def du(
    registry: RegistryOption = "",
    summarize: SumOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show how much of the cache each registry and repository uses, the largest first.

    A blob that several of them share is stored once, but counts for each. The last line has the total.
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
    head = ("SIZE", "TAGS", "BLOBS", "LAST USED", "REGISTRY/REPOSITORY")
    shown = registries if summarize else repositories
    show_columns(head, map(_row, shown), right=(0, 1, 2))
    say(f"{size_text(whole.bytes)} in {whole.objects} blobs; {size_text(whole.disk)} on disk")


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
