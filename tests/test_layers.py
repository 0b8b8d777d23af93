"""Imports go downward only. Who may import whom is the table here; a new module has to be entered in it."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the bottom to the top: a module imports its own layer (without cycles) and those ahead of it.
LAYERS = {
    "package": ["__init__"],
    "pure": [
        "errors",
        "units",
        "config",
        "oci",
        "heads",
        "tiers",
        "auth",
        "policy",
        "ratelimit",
        "proxies",
        "origintables",
        "origins",
        *("addresses", "lending", "sharing"),
        *("bounded", "challenges", "dockerconfig", "sites", "sources", "standing", "tokenserver"),
    ],
    "ext": [
        *("openssl", "posix", "status"),
        *("_reactor", "_tls", "_stream", "_relay", "_connect", "_tally", "_seal", "_board", "_follow"),
        *("_extents", "_wire", "_trial"),
    ],
    "services": [
        *("layout", "statefile", "loading"),
        "store",
        "index",
        "indexchanges",
        "indexfile",
        "indexrows",
        "indexwriter",
        "claims",
        "parts",
        "follow",
        "tagask",
        "tagclaims",
        "filling",
        *("asking", "gate", "bodies", "leases", "transfer"),
        "download",
        *("tagsaid", "tagrows", "taglooks", "tags"),
        "fill",
        "evict",
        "reconcile",
        "verify",
        "pins",
        "certs",
        "contexts",
        "connections",
        "lookups",
        "resolving",
        "proxying",
        "trust",
        "dialing",
        *("flights", "watched", "helpers", "providers", "logins", "tokencache", "canary", "realms"),
        *("trials", "tokens"),
        "upstream",
        "quota",
        "quotafile",
        "breaker",
        "metrics",
        "shelf",
        "accesslog",
        "directories",
    ],
    "sessions": ["services", "answer", "asktags", "asktokens", "ask", "session", "tunnel", "pages", "admin"],
    "worker": ["boot", "worker", "janitor"],
    "supervisor": ["listeners", "children", "supervisor"],
    "cli": ["cachecli", "cli", "__main__"],
}
LAYER_OF = {module: layer for layer, modules in LAYERS.items() for module in modules}
RANK = {layer: rank for rank, layer in enumerate(LAYERS)}
# The pure core is tested without a socket, and is told the time.
NOT_PURE = {"asyncio", "os", "socket", "ssl", "time", "uvloop"}
ADD = "add it to its layer in tests/test_layers.py"

CYTHON_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<origin>[\w.]+)[ \t]+c?import[ \t]+(?P<names>\([^)]*\)|[^\n]*)"
    r"|c?import[ \t]+(?P<plain>[^\n]*))",
    re.MULTILINE,
)


def names_of(origin: str, level: int, names: list[str]) -> set[str]:
    """Return the dotted modules that `from origin import names` reaches; `level` counts its leading dots."""
    base = ".".join(["regproxy"] * bool(level) + [origin] * bool(origin))
    return {f"regproxy.{name}" for name in names} if base == "regproxy" else {base}


def python_imports(source: str) -> set[str]:
    """Return the dotted modules that Python source imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= names_of(node.module or "", node.level, [alias.name for alias in node.names])
    return found


def cython_imports(source: str) -> set[str]:
    """Return the dotted modules that Cython source imports or cimports."""
    found: set[str] = set()
    for match in CYTHON_IMPORT.finditer(source):
        text = match["plain"] if match["names"] is None else match["names"]
        names = [word.split()[0] for word in re.sub(r"#[^\n]*|[()]", "", text).split(",") if word.split()]
        if match["origin"] is None:
            found |= set(names)
        else:
            origin = match["origin"]
            found |= names_of(origin.lstrip("."), len(origin) - len(origin.lstrip(".")), names)
    return found


def ours(imports: set[str]) -> set[str]:
    """Return those of our own modules that are among `imports`, without the package's name."""
    reached = {name.split(".")[1] if "." in name else "__init__" for name in imports if is_ours(name)}
    # A name that is no module of ours is one that the package itself defines.
    return {name if name in LAYER_OF or is_module(name) else "__init__" for name in reached}


def is_ours(name: str) -> bool:
    return name.split(".")[0] == "regproxy"


def is_module(name: str) -> bool:
    return any((ROOT / place).exists() for place in (f"regproxy/{name}.py", f"ext/regproxy/{name}.pyx"))


def complaints(module: str, imports: set[str]) -> list[str]:
    """Return what is wrong with `module` importing `imports`, one line each."""
    layer = LAYER_OF.get(module)
    if layer is None:
        return [f"{module} is in no layer: {ADD}"]
    found = []
    for name in sorted(ours(imports)):
        other = LAYER_OF.get(name)
        if other is None:
            found.append(f"{module} imports {name}, which is in no layer: {ADD}")
        elif layer == "ext" and other != "ext":
            found.append(f"{module} imports {name}, but the data plane imports no Python of ours")
        elif RANK[other] > RANK[layer]:
            found.append(f"{module} ({layer}) imports {name} ({other}), which is above it")
    if layer == "pure":
        impure = sorted({name.split(".")[0] for name in imports} & NOT_PURE)
        found += [f"{module} is pure, but imports {name}" for name in impure]
    return found


def modules() -> dict[str, set[str]]:
    """Return what every module of the project imports, sources and stubs of one name taken together."""
    found: dict[str, set[str]] = {}
    package = ROOT / "regproxy"
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.pyi")]):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        found.setdefault(name, set()).update(python_imports(path.read_text()))
    extension = ROOT / "ext" / "regproxy"
    for path in sorted([*extension.rglob("*.pyx"), *extension.rglob("*.pxd"), *extension.rglob("*.pxi")]):
        name = ".".join(path.relative_to(extension).with_suffix("").parts)
        found.setdefault(name, set()).update(cython_imports(path.read_text()))
    return found


MODULES = modules()


def test_there_is_something_to_check() -> None:
    assert {"errors", "heads", "oci", "auth"} <= MODULES.keys()
    assert ours(MODULES["auth"]) >= {"errors", "heads"}


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


def test_no_cycles() -> None:
    assert cycle({module: ours(imports) - {module} for module, imports in MODULES.items()}) == []


def test_every_module_is_entered_once() -> None:
    assert len(LAYER_OF) == sum(len(entries) for entries in LAYERS.values())


# The checker itself, on sources that aren't there.
PYTHON = [
    ("heads", "from regproxy.errors import HeadError", None),
    ("heads", "import regproxy.errors", None),
    ("heads", "from regproxy import __version__", None),
    ("heads", "import re, json", None),
    ("heads", "def f():\n    import asyncio", "imports asyncio"),
    ("heads", "import os.path", "imports os"),
    ("heads", "from time import monotonic", "imports time"),
    ("heads", "import socket as s, ssl", "imports socket"),
    ("heads", "import uvloop", "imports uvloop"),
    ("heads", "from regproxy import store", "imports store"),
    ("heads", "from . import store", "imports store"),
    ("heads", "from .store import Store", "imports store"),
    ("heads", "import regproxy._tls", "imports _tls"),
    ("heads", "if TYPE_CHECKING:\n    from regproxy.session import Session", "imports session"),
    ("store", "import os, time, asyncio\nfrom regproxy._relay import send\nfrom regproxy import heads", None),
    ("store", "from regproxy.session import Session", "imports session"),
    ("session", "from regproxy.worker import Worker", "imports worker"),
    ("worker", "from regproxy.supervisor import run", "imports supervisor"),
    ("supervisor", "from regproxy.cli import main", "imports cli"),
    ("cli", "from regproxy import supervisor, heads, _tls", None),
    ("_tls", "from regproxy.errors import HeadError", "imports errors"),
    ("_tls", "from regproxy._stream import Stream", None),
    ("__init__", "from regproxy.heads import Request", "imports heads"),
    ("novelty", "", "novelty is in no layer"),
    ("sub.heads", "", "sub.heads is in no layer"),
    ("heads", "from regproxy.novelty import x", None),
]


@pytest.mark.parametrize("module, source, want", PYTHON)
def test_python_is_read(module: str, source: str, want: str | None) -> None:
    found = complaints(module, python_imports(source))
    assert found == [] if want is None else want in found[0]


CYTHON = [
    ("_tls", "from regproxy.openssl cimport *\nfrom libc.string cimport memset", None),
    ("_tls", "from .openssl cimport SSL, SSL_CTX", None),
    ("_tls", "from . cimport openssl", None),
    ("_tls", "cimport regproxy.posix as posix", None),
    ("_tls", "from regproxy cimport (\n    _stream,  # why\n    _relay,\n)", None),
    ("_tls", "import time, os", None),
    ("_tls", "from regproxy import errors", "imports errors"),
    ("_tls", "    from .errors import HeadError", "imports errors"),
    ("_tls", "from . import _stream, config", "imports config"),
    ("_tls", "from regproxy import (\n    _stream,\n    store,\n)", "imports store"),
    ("_tls", "import regproxy.session", "imports session"),
    ("_tls", "import time, regproxy.heads as h", "imports heads"),
    ("novelty", "", "novelty is in no layer"),
]


@pytest.mark.parametrize("module, source, want", CYTHON)
def test_cython_is_read(module: str, source: str, want: str | None) -> None:
    found = complaints(module, cython_imports(source))
    assert found == [] if want is None else want in found[0]


def test_cycles_are_found() -> None:
    assert set(cycle({"store": {"index"}, "index": {"store"}})) == {"store", "index"}
    assert cycle({"store": {"index"}, "index": set()}) == []
