"""docs/openapi.json is what the route table says, and a good OpenAPI document.

`python -m tests.project.test_openapi` writes it anew.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from regproxy.admin.operations import Operation
from regproxy.admin.visitors import Scope
from regproxy.process.admin_wiring import document, operations
from tests.support import ROOT

FILE = ROOT / "docs" / "openapi.json"
OPERATIONS = [each for each in operations() if each.is_api]


def written() -> str:
    """Return the document as the file has it."""
    return json.dumps(document(), indent=1) + "\n"


def test_the_file_is_what_the_table_says() -> None:
    assert FILE.read_text() == written(), "run: python -m tests.project.test_openapi"


def test_it_is_good() -> None:
    OpenAPIV31SpecValidator(json.loads(FILE.read_text())).validate()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
def test_everything_is_described(operation: Operation) -> None:
    assert operation.summary.endswith(".")
    if operation.name == "prove_token":  # before a token is shown
        assert (operation.scope, operation.method) == (Scope.OPEN, "POST")
    else:
        assert operation.scope is not Scope.OPEN
        assert (operation.scope is Scope.WRITE) == (operation.method != "GET")
    for kind in filter(None, (operation.query, operation.body)):
        assert kind.__struct_config__.forbid_unknown_fields
        msgspec.json.Decoder(kind)  # raises where constraints do not fit


def test_every_list_is_bounded() -> None:
    """What has items has a limit, and a cursor."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    schemas = found["components"]["schemas"]
    for path, methods in found["paths"].items():
        for operation in methods.values():
            good = next(iter(operation["responses"].values())).get("content", {})
            schema = good.get("application/json", {}).get("schema", {})
            name = schema.get("$ref", "").rpartition("/")[2]
            if "items" in schemas.get(name, {}).get("properties", {}):
                names = {each["name"] for each in operation["parameters"]}
                assert {"limit", "cursor"} <= names, path


def main() -> None:
    """Write the file anew."""
    FILE.write_text(written())


if __name__ == "__main__":
    main()
