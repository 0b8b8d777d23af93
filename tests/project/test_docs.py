"""The documents say what is so: settings, make targets, links, variables in the files for containers.

`python -m tests.project.test_docs` writes the table of docs/configuration.md anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from regproxy.config.settings import SETTINGS, Setting
from tests.support import ROOT

CONFIGURATION = ROOT / "docs" / "configuration.md"
BEGIN, END = "<!-- settings: python -m tests.project.test_docs -->\n", "<!-- end of settings -->\n"
ARCHITECTURE = ROOT / "docs" / "architecture"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
# Read by others than config/settings.py, REGPROXY_SETUP_ROOT by set-up scripts.
ELSEWHERE = {"REGPROXY_CONFIG", "REGPROXY_DEBUG", "REGPROXY_SETUP_ROOT"}

ENV_LINE = re.compile(r"^\s*(?:- |# )?\s*([A-Z][A-Z0-9_]+)[:=]", re.MULTILINE)
OWN_NAME = re.compile(r"\bREGPROXY_[A-Z0-9_]+\b")
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)")
# A file or folder of ours, as documents name it: `tests/project/test_docs.py`, `docs/`.
FILE = re.compile(r"`((?:regproxy|ext|tests|bench|docs|deploy|\.ci)/[\w./-]*)`")
# A class, or one of its members: `Stream`, `Policy.plan`, `Stream.send(head, body)`.
CLASS = re.compile(r"`([A-Z][a-z]\w*)(?:\.\w+|\([^`]*\))*`")
DEFINED = re.compile(r"^(?:cdef )?(?:class|enum) (\w+)", re.MULTILINE)
FIELDS = {"Accept", "Authorization", "Date", "Vary"}
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)\b")
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)


def row(setting: Setting) -> str:
    """Return a setting's row of the table."""
    default = f"`{setting.default}`" if setting.default.strip() else ("one space" if setting.default else "")
    cells = (f"`{setting.name}`", default, setting.meaning, f"`{setting.key}`")
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def table() -> str:
    """Return the table of all settings."""
    head = "| variable | default | meaning | TOML key |\n|---|---|---|---|\n"
    return head + "".join(f"{row(setting)}\n" for setting in SETTINGS)


def parts_of(text: str) -> tuple[str, str, str]:
    """Return what is before, within and after the marks."""
    before, _, rest = text.partition(BEGIN)
    within, _, after = rest.partition(END)
    return before, within, after


def variables(path: Path) -> set[str]:
    """Return the names in NAME=value, NAME: value and `- NAME=value` lines."""
    return set(ENV_LINE.findall(path.read_text()))


def test_every_setting_is_in_the_table() -> None:
    assert parts_of(CONFIGURATION.read_text())[1] == table(), "run: python -m tests.project.test_docs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_documents_name_settings_that_exist(document: Path) -> None:
    known = {setting.name for setting in SETTINGS} | ELSEWHERE
    assert set(OWN_NAME.findall(document.read_text())) <= known


def test_every_module_is_on_the_map() -> None:
    paths = {
        path.relative_to(base).with_suffix("")
        for base, pattern in ((ROOT / "regproxy", "*/**/*.py"), (ROOT / "ext" / "regproxy", "*/**/*.pyx"))
        for path in base.glob(pattern)
        if path.stem != "__init__"
    }
    on_the_map, package = set(), ""
    rows = re.findall(r"^\|([^|\n]*)\|([^|\n]*)\|.*\|$", (ARCHITECTURE / "modules.md").read_text(), re.M)
    for first, second in rows:
        package = first.strip(" `") or package
        on_the_map |= {f"{package}/{name}" for name in re.findall(r"`(\w+)`", second)}
    assert {str(path) for path in paths} == on_the_map


def test_the_architecture_names_classes_that_exist() -> None:
    sources = [path for name in ("regproxy", "ext", "tests") for path in (ROOT / name).rglob("*.p[yx]*")]
    sources = [path for path in sources if path.suffix in (".py", ".pyx", ".pxd")]
    defined = {name for path in sources for name in DEFINED.findall(path.read_text())}
    pages = [*ARCHITECTURE.glob("*.md"), ROOT / "CONTRIBUTING.md"]
    named = {name for page in pages for name in CLASS.findall(page.read_text())}
    assert "Stream" in named & defined
    assert sorted(named - defined - FIELDS) == []


def test_every_page_is_in_the_overview() -> None:
    linked = {target for target, _ in LINK.findall((ARCHITECTURE / "overview.md").read_text())}
    assert {path.name for path in ARCHITECTURE.glob("*.md")} - {"overview.md"} <= linked


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_documents_name_files_that_exist(document: Path) -> None:
    assert [name for name in FILE.findall(document.read_text()) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", ["Dockerfile", "deploy/compose.yaml"])
def test_containers_are_given_settings_that_exist(path: str) -> None:
    found = variables(ROOT / path) - {"ENV", "PATH", "PYTHONDONTWRITEBYTECODE"}
    assert found
    assert found <= {setting.name for setting in SETTINGS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_documents_name_make_targets_that_exist(document: Path) -> None:
    targets = set(TARGET.findall((ROOT / "Makefile").read_text()))
    in_code = re.findall(r"```.*?```|`[^`]+`", document.read_text(), re.DOTALL)
    assert {name for code in in_code for name in MAKE.findall(code)} <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in LINK.findall(document.read_text()):
        path = document.parent / target if target else document
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = {"#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, target + anchor


def test_security_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", text)
    assert named
    for file, function in named:
        source = (ROOT / "tests" / file).read_text()
        assert not function or re.search(rf"^ *def {function}\(", source, re.MULTILINE), (file, function)


def main() -> None:
    """Write the table anew."""
    before, _, after = parts_of(CONFIGURATION.read_text())
    CONFIGURATION.write_text(before + BEGIN + table() + END + after)


if __name__ == "__main__":
    main()
