"""The OpenAPI 3.1 document of the admin API, made from the route table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec

from regproxy.admin.cookies import NAME as COOKIE
from regproxy.admin.operations import API, Operation
from regproxy.admin.replies import ProblemDetails, Reply, Streamed
from regproxy.admin.visitors import Scope

_REF: Final = "#/components/schemas/{name}"
_TITLE: Final = "regproxy admin API"
_ABOUT: Final = (
    "What a regproxy knows, and what an operator may have it do, on its admin port. See docs/admin-api.md."
)
_SECURITY: Final = {
    "token": {"type": "http", "scheme": "bearer", "description": "a token for reading, or for everything"},
    "cookie": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "see POST /login"},
}
# Answers that every operation may have.
_ALWAYS: Final = {
    400: "the request is not valid",
    401: "no token, or an unknown one",
    403: "not allowed with this token, or from this address",
    429: "too many wrong tokens",
    500: "an internal error",
}
_WITH_BODY: Final = {
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the Content-Type is not supported",
}


def document(operations: Iterable[Operation], version: str) -> dict[str, Any]:
    """Return the document, of the operations below /api/v1/ alone. It is the same for equal arguments."""
    every = sorted((each for each in operations if each.is_api), key=lambda each: (each.path, each.method))
    kinds = list(_kinds(every))
    described = msgspec.json.schema_components(kinds, ref_template=_REF)
    # Defaults in it may be tuples, which JSON has not.
    schemas, components = msgspec.to_builtins(described)
    known = {repr(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for each in every:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, known, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": _TITLE, "description": _ABOUT, "version": version},
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"cookie": []}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SECURITY},
    }


def _kinds(operations: Iterable[Operation]) -> Iterator[Any]:
    yield ProblemDetails
    seen = {repr(ProblemDetails)}
    for each in operations:
        for kind in (each.query, each.body, each.answer):
            if kind is not None and not _is_raw(kind) and repr(kind) not in seen:
                seen.add(repr(kind))
                yield kind


def _is_raw(kind: Any) -> bool:
    """Return whether an answer is no JSON that a kind describes."""
    return kind in (Reply, Streamed)


def _operation(
    operation: Operation, known: Mapping[str, Any], components: Mapping[str, Any]
) -> dict[str, Any]:
    made: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    if operation.description:
        made["description"] = operation.description
    made["tags"] = [operation.path.removeprefix(f"{API}/").partition("/")[0]]
    if operation.scope is Scope.OPEN:
        made["security"] = []
    if operation.scope is Scope.LOCAL:
        made["security"] = [{"token": []}, {"cookie": []}, {}]
    made["x-scope"] = operation.scope.value
    parameters = [*_in_path(operation), *_in_query(operation, components)]
    if parameters:
        made["parameters"] = parameters
    if operation.body is not None:
        content = {"application/json": {"schema": known[repr(operation.body)]}}
        made["requestBody"] = {"required": _needs(operation.body), "content": content}
    made["responses"] = _responses(operation, known)
    return made


def _needs(kind: Any) -> bool:
    """Return whether a body of that kind can't be left out."""
    return any(each.required for each in msgspec.structs.fields(kind))


def _in_path(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in operation.parameters
    ]


def _in_query(operation: Operation, components: Mapping[str, Any]) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    schema = components[operation.query.__name__]
    found = []
    for name, property_ in schema["properties"].items():
        kind = {key: value for key, value in property_.items() if key != "description"}
        made = {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": kind}
        if "description" in property_:
            made["description"] = property_["description"]
        found.append(made)
    return found


def _responses(operation: Operation, known: Mapping[str, Any]) -> dict[str, Any]:
    answer = operation.answer
    good: dict[str, Any] = {"description": HTTPStatus(operation.status).phrase}
    status = operation.status
    if answer is None:
        status, good = 204, {"description": HTTPStatus(204).phrase}
    elif _is_raw(answer):
        good["content"] = {operation.media: {}}
    else:
        good["content"] = {"application/json": {"schema": known[repr(answer)]}}
    problems = _ALWAYS | (_WITH_BODY if operation.body is not None else {}) | dict(operation.problems)
    schema = {"schema": {"$ref": _REF.format(name=ProblemDetails.__name__)}}
    bad = {
        str(code): {"description": text, "content": {"application/problem+json": schema}}
        for code, text in sorted(problems.items())
    }
    return {str(status): good, **bad}
