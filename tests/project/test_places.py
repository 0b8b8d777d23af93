"""Tests stand where their names say: in one of the folders, in tests/unit beside what they test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.support import ROOT

TESTS = ROOT / "tests"
FOLDERS = {
    "bench",
    *("unit", "wire", "e2e", "faults", "processes", "load", "kernel", "project", "conformance", "fuzz"),
    *("deploy", "image"),
    *("support", "support_tests"),
}
FILES = sorted(path for path in TESTS.rglob("*.py") if "__pycache__" not in path.parts)
NO_TESTS = ("__init__.py", "conftest.py")
UNIT = [path for path in FILES if path.is_relative_to(TESTS / "unit") and path.name not in NO_TESTS]


def named(path: Path) -> str:
    return str(path.relative_to(TESTS))


def sources() -> Iterator[Path]:
    """The modules that may have tests, as <package>/<module>."""
    for base, suffix in ((ROOT / "regproxy", ".py"), (ROOT / "ext" / "regproxy", ".pyx")):
        for path in base.rglob(f"*{suffix}"):
            yield path.relative_to(base).with_suffix("")


MODULES = set(sources())


def subjects(path: Path) -> set[Path]:
    """The modules that a file in tests/unit is of: test_<module>.py, test_<module>_<aspect>.py."""
    folder = path.relative_to(TESTS / "unit").parent
    words = path.stem.removeprefix("test_").split("_")
    return {folder / "_".join(words[:count]) for count in range(1, len(words) + 1)} & MODULES


def test_folders() -> None:
    found = {path.relative_to(TESTS).parts[0] for path in FILES if path.parent != TESTS}
    assert found == FOLDERS
    assert {path.name for path in FILES if path.parent == TESTS} == {"__init__.py", "conftest.py"}


def test_every_folder_is_a_package() -> None:
    """Or else two files of one name would be one module to pytest."""
    folders = {folder for path in FILES for folder in path.parents if folder.is_relative_to(TESTS)}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_unit_tests_are_named_by_their_module() -> None:
    assert [named(path) for path in UNIT if not subjects(path)] == []


def test_unit_tests_import_from_the_package_that_they_are_in() -> None:
    """A string counts: code that another process runs."""
    assert [named(path) for path in UNIT if not imports_its_package(path)] == []


def imports_its_package(path: Path) -> bool:
    package, source = ".".join(path.parent.relative_to(TESTS / "unit").parts), path.read_text()
    return f"regproxy.{package}" in source or (package == "dataplane" and "tests.support.plane" in source)


def test_unit_tests_start_no_proxy() -> None:
    starts = re.compile(
        r"tests\.support\.(proxy|shared_proxy|two_workers|process_tree|docker_registry|real_clients)\b"
        r"|\bstart_(proxy|registry)\b"
    )
    assert [named(path) for path in UNIT if starts.search(path.read_text())] == []


def test_the_project_is_found_in_one_way() -> None:
    """By tests.support.ROOT: a path that counts folders is wrong as soon as its file is moved."""
    counted = re.compile(r"\(__file__\)(\.resolve\(\))?\.parent")
    found = {named(path) for path in FILES if counted.search(path.read_text())}
    assert found == {"support/__init__.py", "support/sanitized.py"}
