"""Records are msgspec structs: a dataclass takes fifty times as long to declare, and four times to make.

A dataclass is for a record with a field that must not show in its repr, which structs have no word for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.support import ROOT

# Read field by field, with what each of them is declared with.
OTHERS = {"regproxy/config/settings.py:Config", "regproxy/process/boot.py:Record"}


def dataclasses() -> Iterator[tuple[str, ast.ClassDef]]:
    for path in sorted((ROOT / "regproxy").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any(
                "dataclass" in ast.unparse(it) for it in node.decorator_list
            ):
                yield f"{path.relative_to(ROOT)}:{node.name}", node


def test_dataclasses_hide_something() -> None:
    found = dict(dataclasses())
    assert set(found) >= OTHERS
    plain = {name for name, node in found.items() if "repr=False" not in ast.unparse(node)}
    assert plain - OTHERS == set()
