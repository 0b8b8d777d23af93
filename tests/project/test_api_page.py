"""docs/api.md has every operation of docs/openapi.json, and every type.

`python -m tests.project.test_api_page` writes it anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from tests.support import ROOT

PAGE = ROOT / "docs" / "api.md"
DOCUMENT = ROOT / "docs" / "openapi.json"
BEGIN, END = "<!-- operations: python -m tests.project.test_api_page -->\n", "<!-- end of operations -->\n"
Schema = dict[str, Any]

PROBLEM: Final = "ProblemDetails"
SCOPES: Final = {
    "read": "either token",
    "write": "the token for everything",
    "open": "none",
    "local": "either token; none from the proxy's own machine",
}
LIMITS: Final = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "up to {}",
    "maxLength": "up to {} characters",
    "minItems": "at least {} of them",
    "maxItems": "up to {} of them",
}


def operations(document: Schema) -> str:
    """Return a section for each operation, and a last one for the types."""
    listed = [
        (method, path, said)
        for path, methods in sorted(document["paths"].items())
        for method, said in methods.items()
    ]
    # What each of them may answer is said once.
    answers = [set(map(_answer, said["responses"].items())) for _, _, said in listed]
    usual = set.intersection(*answers)
    head = "\nEvery operation may answer:\n\n" + _table(("status", "answer"), sorted(usual)) + "\n\n"
    parts = [operation(method, path, said, usual) for method, path, said in listed]
    schemas = document["components"]["schemas"]
    used = {key: schema for key, schema in schemas.items() if _is_linked(key, document)}
    return head + "\n".join(parts) + types(used)


def _is_linked(key: str, document: Schema) -> bool:
    """Return whether a body, an answer or another type has this one; parameters are in their operations."""
    return f'"#/components/schemas/{key}"' in json.dumps(document)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table without the columns in which nothing is said."""
    rows = [*rows]
    kept = [n for n, title in enumerate(head) if n == 0 or any(each[n] for each in rows)]
    lines = [[head[n] for n in kept], *([each[n] for n in kept] for each in rows)]
    lines.insert(1, ["---"] * len(kept))
    return (
        "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        .replace("| --- ", "|---")
        .replace("--- |", "---|")
    )


def operation(method: str, path: str, said: Schema, usual: set[tuple[str, str]]) -> str:
    """Return the section of one operation. `usual`: what all may answer."""
    lines = [f"## {method.upper()} {path}", "", said["summary"], ""]
    if "description" in said:
        lines += [said["description"], ""]
    lines += [f"**Token:** {SCOPES[said['x-scope']]}.", ""]
    if parameters := said.get("parameters"):
        lines += [_table(("parameter", "in", "type", "default", "meaning"), map(_parameter, parameters)), ""]
    if body := said.get("requestBody"):
        lines += [f"**Body:** {type_of(body['content']['application/json']['schema'])}.", ""]
    answers = [each for each in map(_answer, said["responses"].items()) if each not in usual]
    return "\n".join([*lines, _table(("status", "answer"), answers), ""])


def _parameter(said: Schema) -> tuple[str, ...]:
    default = "required" if said["required"] else default_of(said["schema"])
    return f"`{said['name']}`", said["in"], type_of(said["schema"]), default, meaning_of(said)


def _answer(told: tuple[str, Schema]) -> tuple[str, str]:
    status, said = told
    for media_type, content in said.get("content", {}).items():
        schema = content.get("schema", {})
        if not schema.get("$ref", "").endswith(f"/{PROBLEM}"):
            return status, type_of(schema) if schema else f"`{media_type}`"
    return status, cell(said["description"])


def types(schemas: dict[str, Schema]) -> str:
    """Return the section of all types: a table of fields for each."""
    parts = ["\n## Types\n"]
    for key, schema in sorted(schemas.items(), key=lambda each: shown(each[0]).lower()):
        required = schema.get("required", [])
        lines = [f"### {shown(key)}", "", *_lines(schema.get("description", "")), ""]
        if fields := schema.get("properties"):
            rows = [
                (
                    f"`{name}`",
                    type_of(field),
                    "" if name in required else default_of(field),
                    meaning_of(field),
                )
                for name, field in fields.items()
            ]
            lines.append(_table(("field", "type", "default", "meaning"), rows))
        parts.append("\n".join([*lines, ""]))
    return "\n".join(parts)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n")]


def shown(key: str) -> str:
    """Return a type's name for people: `Page_Image_` is "Page of Image", a dotted name its last two parts."""
    if found := re.fullmatch(r"Page_(.+)_", key):
        return f"Page of {'objects' if found[1].startswith('dict') else found[1]}"
    return ".".join(key.split(".")[-2:])


def anchor(key: str) -> str:
    """Return the anchor of a type's heading, as GitHub and the site make it."""
    return re.sub(r"[^\w -]", "", shown(key).lower()).replace(" ", "-")


def type_of(schema: Schema) -> str:
    """Return a type: a link to a section, or JSON's word, with its limits."""
    if "$ref" in schema:
        key = schema["$ref"].rpartition("/")[2]
        return f"[{shown(key)}](#{anchor(key)})"
    if "anyOf" in schema:
        return " or ".join(type_of(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    word = str(schema.get("type", "anything"))
    if word == "array":
        word = f"array of {type_of(schema['items'])}"
    if "minimum" in schema and "maximum" in schema:
        return f"{word}, {schema['minimum']:,} to {schema['maximum']:,}"
    limits = [text.format(f"{schema[name]:,}") for name, text in LIMITS.items() if name in schema]
    return ", ".join((word, *limits))


def default_of(schema: Schema) -> str:
    """Return what counts where nothing is said, "" for nothing worth saying."""
    default = schema.get("default")
    return "" if default in (None, "", [], {}) else f"`{json.dumps(default)}`"


def meaning_of(schema: Schema) -> str:
    """Return what is said of a field, itself or by the type that it may have."""
    said = schema.get("description", "")
    for each in schema.get("anyOf", schema.get("schema", {}).get("anyOf", [])):
        said = said or each.get("description", "")
    return cell(said)


def cell(text: str) -> str:
    """Return a text as a table's cell."""
    return " ".join(text.split()).replace("|", r"\|")


def page() -> str:
    """Return the page as it should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return before + BEGIN + operations(json.loads(DOCUMENT.read_text())) + END + rest.partition(END)[2]


def test_every_operation_is_in_the_page() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.project.test_api_page"


def test_every_type_has_a_section_that_is_linked() -> None:
    text = PAGE.read_text()
    titles = re.findall(r"^###? (.+)$", text, re.MULTILINE)
    assert len(set(titles)) == len(titles) > 50
    assert all(f"(#{anchor(title)})" in text for title in titles[titles.index("Types") + 1 :])
    assert set(re.findall(r"\(#([\w.-]+)\)", text)) <= {anchor(title) for title in titles}


def main() -> None:
    """Write the page anew."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
