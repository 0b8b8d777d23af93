"""Write what an image is made of as CycloneDX 1.6: Debian's packages and Python's.

    python sbom.py DPKG VENV > regproxy.cdx.json

DPKG: lines of package, version, architecture and source package, as the Dockerfile has them.
VENV: the virtual environment. Runs while the image is built, by a Python with cyclonedx-python-lib. What does
not fit the format's schema is an error. With SOURCE_DATE_EPOCH the same packages give the same bytes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

OWN = "regproxy"


def main(dpkg: Path, venv: Path) -> int:
    """Print the document; return 1, with the reason on stderr, where it does not fit the schema."""
    python = list(python_packages(venv))
    own = next(each for each in python if each.name == OWN)
    own.type = ComponentType.APPLICATION
    rest = [*debian_packages(dpkg.read_text()), *(each for each in python if each is not own)]
    text = document(own, rest)
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        print(f"not CycloneDX 1.6: {fault.data}", file=sys.stderr)
        return 1
    print(text)
    return 0


def debian_packages(listing: str) -> Iterator[Component]:
    """Return a component for each line of dpkg-query's."""
    for line in listing.splitlines():
        name, version, architecture, source = line.split("\t")
        qualifiers = {"arch": architecture, "distro": "debian-13"}
        purl = PackageURL("deb", "debian", name, version, qualifiers)
        yield Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            purl=purl,
            bom_ref=str(purl),
            group="debian",
            description=None if source == name else f"built from the source package {source}",
        )


def python_packages(venv: Path) -> Iterator[Component]:
    """Return a component for each distribution that is installed in a virtual environment."""
    (packages,) = venv.glob("lib/python3*/site-packages")
    for each in metadata.distributions(path=[str(packages)]):
        name, version = each.metadata["Name"], each.version
        purl = PackageURL("pypi", None, name.lower().replace("_", "-"), version)
        yield Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            purl=purl,
            bom_ref=str(purl),
            licenses=licences(each.metadata),
        )


def licences(told: metadata.PackageMetadata) -> list[DisjunctiveLicense]:
    """Return the licence as the package names it, where it does in one line."""
    for field in ("License-Expression", "License"):
        text = (told.get(field) or "").strip()
        if text and "\n" not in text and len(text) < 100:
            return [DisjunctiveLicense(name=text)]
    return []


def document(own: Component, rest: Iterable[Component]) -> str:
    """Return the text, the same for the same packages and time."""
    bom = Bom(components=rest)
    bom.metadata.component = own
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    when = datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)
    bom.metadata.timestamp = when
    named = "\n".join(sorted(str(each.purl) for each in (own, *bom.components)))
    bom.serial_number = uuid5(NAMESPACE_URL, f"{when.isoformat()}\n{named}")
    bom.register_dependency(own, bom.components)
    return JsonV1Dot6(bom).output_as_string(indent=1)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
