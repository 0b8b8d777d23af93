"""Imports go downward only. The table of packages is here; a new package has to be entered in it."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support import ROOT

# From the bottom to the top: a module imports its own package (without circles) and those on lower floors.
FLOORS = (
    ("core", "dataplane"),
    ("http",),
    ("config.values",),
    ("config",),
    ("config.sources",),
    ("registry",),
    ("policy",),
    ("onboarding",),
    ("tls",),
    ("telemetry.meters", "telemetry.usage"),
    ("telemetry",),
    ("auth",),
    ("auth.clients",),
    ("upstream.connections",),
    ("upstream",),
    ("cache.index",),
    ("cache",),
    ("fill",),
    ("tags",),
    ("inventory",),
    ("bundles", "jobs"),
    ("server",),
    ("server.sessions",),
    ("debug",),
    ("admin",),
    ("admin.endpoints",),
    ("web",),
    ("tracing",),
    ("process",),
    ("doctor",),
    ("cli.common",),
    ("cli.cache",),
    ("cli",),
)
FLOOR_OF = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
# What belongs to no package: the version, below everything; `python -m regproxy`, above.
FLOOR_OF |= {"__init__": -1, "__main__": len(FLOORS)}
# Packages, and modules of others, that are tested without a socket and are told the time.
PURE = {
    *("http", "registry", "policy", "onboarding", "config.values"),
    "core.addresses",
    *("core.errors", "core.lru"),
    *("config.principal_tables", "auth.clients.htpasswd"),
    *("config.drop_in", "config.hosts", "config.image_rules"),
    *("config.credentials", "config.origin_tables", "config.parent_proxy"),
    *("config.settings", "config.signing_keys", "config.tag_tiers"),
    *("config.faults", "config.misspelt"),
    *("config.sources.assembly", "config.sources.given", "config.sources.toml_file"),
    "config.sources.without_effect",
    *("auth.docker_config", "auth.lockout"),
}
NOT_PURE = {"asyncio", "os", "socket", "ssl", "time", "uvloop"}
ADD = "add it to its floor in tests/project/test_layers.py"

CYTHON_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<origin>[\w.]+)[ \t]+c?import[ \t]+(?P<names>\([^)]*\)|[^\n]*)"
    r"|c?import[ \t]+(?P<plain>[^\n]*))",
    re.MULTILINE,
)


def package_of(module: str) -> str:
    """Return the package of the table that a module is in, "" for none."""
    while module and module not in FLOOR_OF:
        module = module.rpartition(".")[0]
    return module


def names_of(module: str, origin: str, level: int, names: list[str]) -> set[str]:
    """Return the dotted modules that `from origin import names` in `module` reaches.

    `level` counts the leading dots of `origin`.
    """
    above = ["regproxy", *([] if module == "__init__" else module.split("."))]
    base = ".".join([*(above[:-level] if level else []), *([origin] if origin else [])])
    is_package = base == "regproxy" or base.removeprefix("regproxy.") in FLOOR_OF
    return {f"{base}.{name}" for name in names} if is_package else {base}


def python_imports(module: str, source: str) -> set[str]:
    """Return the dotted modules that the Python source of a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= names_of(module, node.module or "", node.level, [alias.name for alias in node.names])
    return found


def cython_imports(module: str, source: str) -> set[str]:
    """Return the dotted modules that the Cython source of a module imports or cimports."""
    found: set[str] = set()
    for match in CYTHON_IMPORT.finditer(source):
        text = match["plain"] if match["names"] is None else match["names"]
        names = [word.split()[0] for word in re.sub(r"#[^\n]*|[()]", "", text).split(",") if word.split()]
        if match["origin"] is None:
            found |= set(names)
        else:
            origin = match["origin"].lstrip(".")
            found |= names_of(module, origin, len(match["origin"]) - len(origin), names)
    return found


def ours(imports: set[str]) -> set[str]:
    """Return those of our own modules that are among `imports`, without the first package's name."""
    return {module_of(name.partition(".")[2]) for name in imports if name.split(".")[0] == "regproxy"}


def module_of(name: str) -> str:
    """Return the module that a dotted name is, or is defined in."""
    while name and name not in FLOOR_OF and not is_module(name):
        name = name.rpartition(".")[0]
    return name or "__init__"


def is_module(name: str) -> bool:
    path = name.replace(".", "/")
    places = (f"regproxy/{path}.py", f"regproxy/{path}/__init__.py", f"ext/regproxy/{path}.pyx")
    return any((ROOT / place).exists() for place in (*places, f"ext/regproxy/{path}.pxd"))


def is_pure(module: str) -> bool:
    return module in PURE or package_of(module) in PURE


def complaints(module: str, imports: set[str]) -> list[str]:
    """Return what is wrong with `module` importing `imports`, one line each."""
    package = package_of(module)
    if not package:
        return [f"{module} is in no package: {ADD}"]
    found = []
    for name in sorted(ours(imports) - {"__init__", module}):
        other = package_of(name)
        if not other:
            found.append(f"{module} imports {name}, which is in no package: {ADD}")
        elif package == "dataplane" != other:
            found.append(f"{module} imports {name}, but the data plane imports no Python of ours")
        elif other != package and FLOOR_OF[other] >= FLOOR_OF[package]:
            found.append(f"{module} imports {name}, which is not below it")
        elif is_pure(module) and not is_pure(name):
            found.append(f"{module} is pure, but imports {name}")
    if is_pure(module):
        impure = sorted({name.split(".")[0] for name in imports} & NOT_PURE)
        found += [f"{module} is pure, but imports {name}" for name in impure]
    return found


def modules() -> dict[str, set[str]]:
    """Return what every module of the project imports, sources and stubs of one name taken together."""
    found: dict[str, set[str]] = {}
    package = ROOT / "regproxy"
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.pyi")]):
        name = dotted(path.relative_to(package))
        found.setdefault(name, set()).update(python_imports(inside(path, name), path.read_text()))
    extension = ROOT / "ext" / "regproxy"
    for path in sorted([*extension.rglob("*.pyx"), *extension.rglob("*.pxd"), *extension.rglob("*.pxi")]):
        name = dotted(path.relative_to(extension))
        found.setdefault(name, set()).update(cython_imports(inside(path, name), path.read_text()))
    return found


def dotted(path: Path) -> str:
    """Return a module's name; a package's own is that of its folder."""
    name = ".".join(path.with_suffix("").parts)
    return name.removesuffix(".__init__")


def inside(path: Path, name: str) -> str:
    """Return the name that relative imports count from."""
    return f"{name}.__init__" if path.stem == "__init__" and name != "__init__" else name


MODULES = modules()


def test_there_is_something_to_check() -> None:
    assert {"core.errors", "http.messages", "registry.targets", "dataplane.stream"} <= MODULES.keys()
    assert ours(MODULES["http.origin"]) >= {"core.errors", "http.messages"}
    assert ours(MODULES["dataplane.growing_file"]) >= {"dataplane.body", "dataplane.openssl"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downward(module: str) -> None:
    assert complaints(module, MODULES[module]) == []


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one cycle of imports, [] when there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", [package for floor in FLOORS for package in floor])
def test_no_circle_in_a_package(package: str) -> None:
    own = {module for module in MODULES if package_of(module) == package}
    assert own - {package}
    assert cycle({module: (ours(MODULES[module]) - {module}) & own for module in own}) == []


def test_no_cycles() -> None:
    assert cycle({module: ours(imports) - {module} for module, imports in MODULES.items()}) == []


def test_every_package_is_entered_once() -> None:
    entered = [package for floor in FLOORS for package in floor]
    assert len(entered) == len(set(entered))
    folders = {path.parent.relative_to(ROOT / "regproxy") for path in (ROOT / "regproxy").rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} - {""} == set(entered)


def test_what_is_pure_is_there() -> None:
    assert not [name for name in PURE if name not in MODULES]


# The checker itself, on sources that aren't there.
PYTHON = [
    ("http.messages", "from regproxy.core.errors import HeadError", None),
    ("http.messages", "import regproxy.core.errors", None),
    ("http.messages", "from regproxy import __version__", None),
    ("http.messages", "import re, json", None),
    ("http.messages", "def f():\n    import asyncio", "imports asyncio"),
    ("http.messages", "import os.path", "imports os"),
    ("http.messages", "from time import monotonic", "imports time"),
    ("http.messages", "import socket as s, ssl", "imports socket"),
    ("http.messages", "import uvloop", "imports uvloop"),
    ("http.messages", "from regproxy.cache import blobs", "imports cache.blobs"),
    ("http.messages", "from regproxy import cache", "imports cache,"),
    ("http.messages", "from .. import cache", "imports cache,"),
    ("http.messages", "from ..cache import blobs", "imports cache.blobs"),
    ("http.messages", "from ..cache.blobs import Store", "imports cache.blobs"),
    ("http.messages", "from . import origin", None),
    ("http.messages", "from .origin import Origin", None),
    ("http.messages", "import regproxy.dataplane.tls", "is pure, but imports dataplane.tls"),
    ("http.messages", "from regproxy.core.file_lock import lock", "is pure, but imports core.file_lock"),
    (
        "http.messages",
        "if TYPE_CHECKING:\n    from regproxy.server.sessions.session import Session",
        "imports server.sessions.session",
    ),
    ("config.settings", "import os", "imports os"),
    ("config.directories", "import os\nfrom regproxy.config.settings import Config", None),
    ("registry.targets", "from regproxy.config import directories", "is pure, but imports config.d"),
    (
        "cache.blobs",
        "import os, time\nfrom regproxy.dataplane.file import File\nfrom regproxy.http import messages",
        None,
    ),
    (
        "cache.blobs",
        "from regproxy.server.sessions.session import Session",
        "imports server.sessions.session",
    ),
    ("cache.eviction", "from regproxy.cache.index.index import Index", None),
    ("cache.index.rows", "from regproxy.cache.blobs import Store", "imports cache.blobs"),
    ("cache.index.rows", "from ..blobs import Store", "imports cache.blobs"),
    ("server.sessions.session", "from regproxy.process.worker import Worker", "imports process.worker"),
    ("process.supervisor", "from regproxy.cli.main import main", "imports cli.main"),
    ("cli.main", "from regproxy.process import supervisor\nfrom regproxy.dataplane import tls", None),
    ("cli.main", "from regproxy.__main__ import main", "imports __main__"),
    ("__main__", "from regproxy.cli.main import main", None),
    ("core.file_lock", "from regproxy.dataplane.board import Board", "imports dataplane.board"),
    ("dataplane.tls", "from regproxy.core.errors import HeadError", "imports core.errors"),
    ("dataplane.tls", "from regproxy.dataplane.stream import Stream", None),
    ("__init__", "from regproxy.http.messages import Request", "imports http.messages"),
    ("fill.fill", "from regproxy.tags.resolver import Tags", "imports tags.resolver"),
    ("novelty", "", "novelty is in no package"),
    ("sub.messages", "", "sub.messages is in no package"),
    ("http.messages", "from regproxy.novelty import x", None),
]


@pytest.mark.parametrize("module, source, want", PYTHON)
def test_python_is_read(module: str, source: str, want: str | None) -> None:
    found = complaints(module, python_imports(module, source))
    assert found == [] if want is None else want in found[0]


CYTHON = [
    ("dataplane.tls", "from regproxy.dataplane.openssl cimport *\nfrom libc.string cimport memset", None),
    ("dataplane.tls", "from .openssl cimport SSL, SSL_CTX", None),
    ("dataplane.tls", "from . cimport openssl", None),
    ("dataplane.tls", "cimport regproxy.dataplane.posix as posix", None),
    ("dataplane.tls", "from regproxy.dataplane cimport (\n    stream,  # why\n    sinks,\n)", None),
    ("dataplane.tls", "import time, os", None),
    ("dataplane.tls", "from regproxy.core import errors", "imports core.errors"),
    ("dataplane.tls", "    from ..core.errors import HeadError", "imports core.errors"),
    ("dataplane.tls", "from regproxy import config", "imports config,"),
    ("dataplane.tls", "from .. import dataplane, config", "imports config,"),
    ("dataplane.tls", "from regproxy.cache import (\n    parts,\n    blobs,\n)", "imports cache.blobs"),
    ("dataplane.tls", "import regproxy.server.sessions.session", "imports server.sessions.session"),
    ("dataplane.tls", "import time, regproxy.http.messages as h", "imports http.messages"),
    ("novelty", "", "novelty is in no package"),
]


@pytest.mark.parametrize("module, source, want", CYTHON)
def test_cython_is_read(module: str, source: str, want: str | None) -> None:
    found = complaints(module, cython_imports(module, source))
    assert found == [] if want is None else want in found[0]


def test_cycles_are_found() -> None:
    assert set(cycle({"blobs": {"index"}, "index": {"blobs"}})) == {"blobs", "index"}
    assert cycle({"blobs": {"index"}, "index": set()}) == []
