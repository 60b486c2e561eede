"""/v1/openapi.json: what this service answers to, in OpenAPI 3.1, for programs that read that.

Made of the table in `routes`; error codes and the shapes of messages are those of the code, so that the document cannot
tell of others. `tests/fuzz/test_http.py` holds it to what the routes answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import get_args

import msgspec

from .. import __version__, errors
from ..errors import RealtimeError
from ..protocol import Event, Message, Request
from .base import Handler
from .credentials import SIGN_IN
from .door import Door
from .forms import FORM
from .rest import Page, Poll, Receipt
from .routes import (
    ASKED,
    EVERYWHERE,
    FIELDS,
    HEADERS,
    HTML,
    JSON,
    PAGES,
    PARAMETERS,
    ROUTES,
    VALUE,
    Answer,
    Json,
    Operation,
    ref,
    schema,
)


class OpenApiHandler(Handler):
    def initialize(self, door: Door, *, metrics: bool = True) -> None:
        """`metrics`: they are among the routes."""
        super().initialize(door)
        self._metrics = metrics

    async def prepare(self) -> None:
        """Whoever wants to know how to ask need not say who they are."""

    def get(self) -> None:
        self.answer(document(asks=self.door.gate.asks, metrics=self._metrics))


@cache
def document(*, asks: bool, metrics: bool) -> Json:
    """`asks`: the service wants to know who it speaks to. Not to be changed: it is made once."""
    routes = {path: each for path, each in ROUTES.items() if metrics or path != "/metrics"} | (PAGES if asks else {})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tornado-realtime",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "One live key space over several stores. HEAD is answered as GET, without the body. "
            "The pages on which people sign in and look after their accounts are not in here.",
        },
        "paths": {path: _path(path, operations, asks) for path, operations in routes.items()},
        "components": {
            "schemas": _schemas(),
            "parameters": PARAMETERS,
            "headers": HEADERS,
            **({"securitySchemes": _security_schemes()} if asks else {}),
        },
        "x-messages": {
            "client": [schema(each.__name__) for each in get_args(Request)],
            "server": [schema(each.__name__) for each in (*get_args(Message), Event)],
        },
    }


def _security_schemes() -> Json:
    return {
        "bearer": {"type": "http", "scheme": "bearer", "description": "A token of ours, or a JWT of the issuer."},
        "cookie": {
            "type": "apiKey",
            "in": "cookie",
            "name": SIGN_IN,
            "description": "Of a browser that is signed in; `__Host-` before the name behind TLS.",
        },
    }


def _path(path: str, operations: Mapping[str, Operation], asks: bool) -> Json:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    item: Json = {method: _operation(path, method, each, asks) for method, each in operations.items()}
    return item | ({"parameters": [ref("parameters", name) for name in names]} if names else {})


def _operation(path: str, method: str, operation: Operation, asks: bool) -> Json:
    failures = EVERYWHERE + operation.errors + (ASKED if asks and operation.known else ())
    answers = _failures(failures, HTML if operation.page else JSON) | {
        str(status): _answer(each) for status, each in operation.answers.items()
    }
    said: Json = {
        "summary": operation.says,
        "operationId": f"{method} {path}",
        "responses": dict(sorted(answers.items())),
    }
    if operation.parameters:
        said["parameters"] = [ref("parameters", name) for name in operation.parameters]
    if operation.body:
        said["requestBody"] = {
            "required": True,
            "content": {kind: {"schema": FIELDS if kind == FORM else VALUE} for kind in operation.body},
        }
    if asks:
        said["security"] = [{"bearer": []}, {"cookie": []}, {}] if operation.known else []
    return said


def _answer(answer: Answer) -> Json:
    said: Json = {"description": answer.says}
    if answer.content:
        said["content"] = {kind: {"schema": schema} for kind, schema in answer.content.items()}
    if answer.headers:
        said["headers"] = {name: ref("headers", name) for name in answer.headers}
    return said


def _failures(failures: Iterable[type[RealtimeError]], kind: str) -> Json:
    """By status; each says which codes there may be, on a page in words."""
    by_status: defaultdict[int, dict[str, type[RealtimeError]]] = defaultdict(dict)
    for each in failures:
        by_status[each.status][each.code] = each
    return {str(status): _failure(status, kinds, kind) for status, kinds in by_status.items()}


def _failure(status: int, kinds: Mapping[str, type[RealtimeError]], kind: str) -> Json:
    error = {"allOf": [schema("Error"), {"properties": {"code": {"enum": [*kinds]}}}]}
    current = {"current": {"description": "The value as it is."}} if errors.Conflict.code in kinds else {}
    shape = {"type": "object", "properties": {"error": error, **current}, "required": ["error"]}
    said: Json = {
        "description": " ".join(_first_line(each) for each in kinds.values()),
        "content": {kind: {"schema": shape if kind == JSON else {"type": "string"}}},
    }
    if status in (errors.Unavailable.status, errors.TooMany.status):
        said["headers"] = {"Retry-After": ref("headers", "Retry-After")}
    return said


def _first_line(kind: type[RealtimeError]) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0] if kind is not RealtimeError else "Our mistake."


def _schemas() -> Json:
    shapes = [*get_args(Request), *get_args(Message), Event, Page, Poll, Receipt]
    _, schemas = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    text = {"type": "string"}
    schemas["Error"] = {
        "type": "object",
        "properties": {"code": text, "message": text, "hint": text},
        "required": ["code", "message"],
    }
    return schemas
