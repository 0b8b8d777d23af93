"""`regproxy cache export` and `import`: images as an OCI image layout, for a site without a network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regproxy.cli.cache.opening import (
    FAILED,
    INTERRUPTED,
    Cache,
    ConfigOption,
    JsonOption,
    fail,
    opened,
    place_of,
)
from regproxy.cli.cache.progress import bytes_view
from regproxy.cli.cache.text import say, show_json, size_text
from regproxy.core.errors import RegproxyError

if TYPE_CHECKING:
    from regproxy.bundles.exporting import Exported
    from regproxy.bundles.importing import Import

TargetArgument = Annotated[
    str, typer.Argument(metavar="TO", help="A directory, an archive (.tar), or - for standard output.")
]
NamesArgument = Annotated[list[str] | None, typer.Argument(metavar="[IMAGE]...", help="As for docker pull.")]
SourceArgument = Annotated[
    str, typer.Argument(metavar="FROM", help="A directory, an archive, or - for standard input.")
]
RegistryOption = Annotated[str, typer.Option("--registry", help="All images of this registry.")]
RepositoryOption = Annotated[str, typer.Option("--repository", help="All images of this repository.")]
PlatformsOption = Annotated[
    list[str] | None, typer.Option("--platform", help="Of an index, such as linux/amd64; may be repeated.")
]
NameOption = Annotated[
    str, typer.Option("--name", help="registry/repository:tag of the one image of a layout that says none.")
]


def export_images(
    target: TargetArgument,
    names: NamesArgument = None,
    registry: RegistryOption = "",
    repository: RepositoryOption = "",
    platforms: PlatformsOption = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write images as an OCI image layout, a directory or a tar archive, each content verified.

    Of an index the platforms are written that are held whole. A directory keeps what is there already.
    Exit code 1: an image is not held whole, or a content is damaged, and nothing is written. 2: the cache
    can't be used.
    """
    from regproxy.bundles.exporting import export, plan
    from regproxy.bundles.oci_layout import BundleError
    from regproxy.bundles.writing import writer_for

    if target == "-" and as_json:
        raise typer.BadParameter("--json prints on standard output, where the archive would go")
    with opened(config) as cache:
        wanted = list(names or ()) + _names_of(cache, registry, repository)
        if not wanted:
            raise typer.BadParameter("name images, or --registry, or --repository")
        found = list(plan(cache.root, cache.index, wanted, tuple(platforms or ())))
        bad = [each for each in found if each.error]
        if not bad:
            with bytes_view("exporting", sum(each.bytes for each in found)) as shown:
                try:
                    export(cache.root, found, writer_for(target, sys.stdout.buffer, shown.add))
                except BundleError as error:
                    _end(error)
    _say_exported(found, target, as_json)
    raise typer.Exit(FAILED if bad else 0)


def _names_of(cache: Cache, registry: str, repository: str) -> list[str]:
    """Return the names of all images of a registry or repository."""
    from regproxy.inventory.images import ImageFilter, images
    from regproxy.inventory.reading import index_reader

    if not (registry or repository):
        return []
    names: dict[str, None] = {}
    start = None
    with index_reader(cache.root) as reader:
        while True:
            wanted = ImageFilter(place=place_of(registry), repository=repository)
            page = images(reader, wanted, start=start, limit=500)
            names.update((each.name, None) for each in page.items if each.current and each.content.stored)
            start = page.next
            if start is None:
                return list(names)


def _say_exported(found: list[Exported], target: str, as_json: bool) -> None:
    if as_json:
        fields = ("name", "digest", "objects", "bytes", "missing", "error")
        show_json({"images": [{name: getattr(each, name) for name in fields} for each in found]})
        return
    for each in found:
        if each.error:
            say(f"regproxy: {each.error}", err=True)
        else:
            more = f"; {each.missing} contents of other platforms are left out" if each.missing else ""
            text = f"{each.name}: {each.objects} contents, {size_text(each.bytes)}{more}"
            say(text, err=target == "-")
    if any(each.error for each in found):
        say("regproxy: nothing was written", err=True)


def import_images(
    source: SourceArgument,
    name: NameOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Take the images of an OCI image layout into the cache, each content verified, as fetched now.

    Once more, it goes on where it was: what is held is not written again. Exit code 1: an image was not
    taken, or the layout can't be used. 2: the cache can't be used.
    """
    from regproxy.bundles.importing import Importer
    from regproxy.bundles.oci_layout import BundleError

    with opened(config) as cache:
        size = Path(source).stat().st_size if Path(source).is_file() else 0
        with bytes_view("importing", size) as shown:
            importer = Importer(cache.root, cache.index, shown.add, cache.config.cache_max_size)
            try:
                result = importer.run(source, sys.stdin.buffer, name)
            except KeyboardInterrupt:
                say("regproxy: interrupted: what was stored stays, without a name", err=True)
                raise typer.Exit(INTERRUPTED) from None
            except FileNotFoundError:
                fail(f"{source}: no such file or directory")
            except BundleError as error:
                _end(error)
    _say_imported(result, as_json)
    raise typer.Exit(FAILED if any(each.error for each in result.images) else 0)


def _say_imported(result: Import, as_json: bool) -> None:
    if as_json:
        show_json(result)
        return
    for each in result.images:
        if each.error:
            say(f"regproxy: {each.name or each.digest}: {each.error}", err=True)
        else:
            more = f"; {each.missing} that it names are not in the layout" if each.missing else ""
            say(f"{each.name}: {each.objects} contents{more}")
    text = f"{result.stored} contents stored, {size_text(result.bytes)}; {result.skipped} were there"
    say(text)


def _end(error: RegproxyError) -> None:
    say(f"regproxy: {error}", err=True)
    raise typer.Exit(FAILED)
