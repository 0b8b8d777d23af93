"""Build the data plane's modules and the harnesses by clang: for libFuzzer, with ASan and UBSan.

All of it is in build/fuzz: `driver`, which has Python within and libFuzzer's main(), and the modules that it
imports. Only what is older than its source is built.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support import ROOT

BUILD: Final = ROOT / "build" / "fuzz"
DRIVER: Final = BUILD / "driver"
HERE: Final = ROOT / "tests" / "fuzz"
_HARNESS: Final = HERE / "harness"
_DATAPLANE: Final = ROOT / "ext" / "regproxy" / "dataplane"
# What the harnesses are about, and what that imports.
_MODULES: Final = ("http1", "block_map", "records", "tls_bio", "peer_records", "tls_contexts", "tls")
_SUFFIX: Final = sysconfig.get_config_var("EXT_SUFFIX")
_DIRECTIVES: Final = ("boundscheck=False", "wraparound=False", "cdivision=True", "initializedcheck=False")
_CHECKS: Final = (
    "-fsanitize=address,undefined",
    # Cython's own constructors add 0 to NULL.
    "-fno-sanitize=pointer-overflow",
    # Python calls C functions by a type that is not theirs (METH_FASTCALL); looked at from clang 17 on.
    "-fno-sanitize=function",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
)
_COMPILE: Final = ("clang", "-O2", "-g", "-fPIC", "-D_GNU_SOURCE", "-Wno-unused-function")


@dataclass(frozen=True, slots=True)
class _Module:
    """A Cython module: its full name, its source."""

    name: str
    source: Path

    @property
    def c_file(self) -> Path:
        return BUILD / "c" / f"{self.name}.c"

    @property
    def library(self) -> Path:
        return BUILD / f"{self.name.replace('.', '/')}{_SUFFIX}"


def build() -> None:
    """Build what is missing or older than its source. Raises CalledProcessError."""
    modules = [_Module(f"regproxy.dataplane.{name}", _DATAPLANE / f"{name}.pyx") for name in _MODULES]
    modules += [_Module(path.stem, path) for path in sorted(_HARNESS.glob("*.pyx"))]
    declared = [*_DATAPLANE.glob("*.pxd"), *_HARNESS.glob("*.pxd"), HERE / "build.py"]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda module: _build_module(module, declared), modules))
    driver = HERE / "driver.c"
    if _is_older(DRIVER, [driver, HERE / "build.py"]):
        _run(*_COMPILE, "-fsanitize=fuzzer", *_CHECKS, *_includes(), driver, "-o", DRIVER, *_libpython())
    _link_python()


def _build_module(module: _Module, declared: list[Path]) -> None:
    if not _is_older(module.library, [module.source, *declared]):
        return
    for path in (module.c_file, module.library):
        path.parent.mkdir(parents=True, exist_ok=True)
    directives = [word for directive in _DIRECTIVES for word in ("-X", directive)]
    cython: list[str | Path] = [
        sys.executable,
        "-m",
        "cython",
        "-3",
        *directives,
        "-I",
        ROOT / "ext",
        "-I",
        _HARNESS,
    ]
    _run(*cython, "--module-name", module.name, module.source, "-o", module.c_file)
    checks = ("-fsanitize=fuzzer-no-link", *_CHECKS)
    made = module.library.with_suffix(".new")
    _run(*_COMPILE, *checks, "-shared", *_includes(), module.c_file, "-o", made, "-lssl", "-lcrypto")
    made.replace(module.library)


def _link_python() -> None:
    """Beside the modules of clang, the package's Python files as they are."""
    package = BUILD / "regproxy"
    for path in (ROOT / "regproxy").iterdir():
        link = package / path.name
        if path.name not in ("dataplane", "__pycache__") and not link.is_symlink():
            link.symlink_to(path)
    init, link = ROOT / "regproxy" / "dataplane" / "__init__.py", package / "dataplane" / "__init__.py"
    if init.exists() and not link.is_symlink():
        link.symlink_to(init)


def _is_older(made: Path, sources: Iterable[Path]) -> bool:
    return not made.exists() or made.stat().st_mtime < max(source.stat().st_mtime for source in sources)


def _includes() -> list[str]:
    return [f"-I{sysconfig.get_path('include')}"]


def _libpython() -> list[str]:
    place, version = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDVERSION")
    return [f"-L{place}", f"-Wl,-rpath,{place}", f"-lpython{version}"]


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True)


if __name__ == "__main__":
    build()
