"""`regproxy cache export` and `import`: images as an OCI image layout, for a site without a network."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regproxy.cli.cache.opening import Cache, opened, place_of
from regproxy.cli.cache.progress import bytes_view
from regproxy.cli.common.ending import fail
from regproxy.cli.common.exit_codes import FAILED, INTERRUPTED
from regproxy.cli.common.options import ConfigOption, JsonOption
from regproxy.cli.common.text import say, show_json
from regproxy.core.errors import RegproxyError
from regproxy.core.sizes import size_text

if TYPE_CHECKING:
    from regproxy.bundles.exporting import Exported
    from regproxy.bundles.importing import Import

TargetArgument = Annotated[
    str, typer.Argument(metavar="TO", help="Directory, archive (*.tar), or - for standard output.")
]
NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="IMAGE", help="Image name, as for docker pull.")
]
SourceArgument = Annotated[
    str, typer.Argument(metavar="FROM", help="Directory, archive, or - for standard input.")
]
RegistryOption = Annotated[str, typer.Option("--registry", help="Export all images of this registry.")]
RepositoryOption = Annotated[str, typer.Option("--repository", help="Export all images of this repository.")]
PlatformsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--platform", help="Platform, such as linux/amd64. Can be repeated. Default: all that are cached."
    ),
]
OverwriteOption = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace an archive that is there already, once the new one is whole."),
]
NameOption = Annotated[
    str,
    typer.Option(
        "--name", help="Name for the only image of a layout that has none: registry/repository:tag."
    ),
]


def export_images(
    target: TargetArgument,
    names: NamesArgument = None,
    registry: RegistryOption = "",
    repository: RepositoryOption = "",
    platforms: PlatformsOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Write images as an OCI image layout, to a directory or a tar archive. Every blob is verified.

    Of a multi-platform image, the platforms that are completely cached are written. A directory keeps the
    blobs it already has. Exit code 1: an image is not completely cached, and nothing is written; or a blob
    is damaged, and the export stops: a directory keeps the blobs written so far, without index.json, an
    archive file is removed, and what was sent to standard output is not a complete archive. 2: the cache
    can't be used, or TO can't be written, or is an archive that is there already.
    """
    from regproxy.bundles.exporting import export, plan
    from regproxy.bundles.oci_layout import BundleError
    from regproxy.bundles.writing import writer_for

    if target == "-" and as_json:
        raise typer.BadParameter("--json can't be used with -: both write to standard output")
    if target.endswith(".tar") and os.path.lexists(target) and not overwrite:
        fail(f"{target} is there already: --overwrite replaces it")
    with opened(config) as cache:
        wanted = list(names or ()) + _names_of(cache, registry, repository)
        if not wanted:
            raise typer.BadParameter("name at least one image, or pass --registry or --repository")
        found = list(plan(cache.root, cache.index, wanted, tuple(platforms or ())))
        bad = [each for each in found if each.error]
        if not bad:
            with bytes_view("exporting", sum(each.bytes for each in found)) as shown:
                try:
                    export(cache.root, found, writer_for(target, sys.stdout.buffer, shown.add))
                except BundleError as error:
                    _end(error)
                except OSError as error:
                    fail(f"{error.filename or target}: {error.strerror or error}")
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
            more = f"; {each.missing} blobs of other platforms are left out" if each.missing else ""
            text = f"{each.name}: {each.objects} blobs, {size_text(each.bytes)}{more}"
            say(text, err=target == "-")
    if any(each.error for each in found):
        say("regproxy: nothing was written", err=True)


def import_images(
    source: SourceArgument,
    name: NameOption = "",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Import the images of an OCI image layout into the cache, as if fetched now. Every blob is verified.

    Run it again to continue an interrupted import: blobs that are cached are not written again. Exit code 1:
    an image was not imported, or the layout can't be used. 2: the cache can't be used.
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
                say("regproxy: interrupted: the blobs stored so far are kept, without a name", err=True)
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
            more = f"; {each.missing} of its blobs are not in the layout" if each.missing else ""
            say(f"{each.name}: {each.objects} blobs{more}")
    text = f"{result.stored} blobs stored, {size_text(result.bytes)}; {result.skipped} were cached already"
    say(text)


def _end(error: RegproxyError) -> None:
    say(f"regproxy: {error}", err=True)
    raise typer.Exit(FAILED)
