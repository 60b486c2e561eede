"""What each route takes and gives: a table, of which `openapi` makes the document.

Limits and patterns are those of the code. A route that is added to `app` has to be added here:
`tests/handlers/test_openapi.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from .. import errors
from ..config import Limits
from ..errors import RealtimeError
from ..metrics import CONTENT_TYPE
from ..protocol import CHANNEL, CURSOR, LEAST_RATE, MAX_DEPTH, MOST_RATE
from .base import MERGE_PATCH
from .forms import FORM, MAX_FIELD
from .live import LONGEST_POLL
from .rest import LONGEST_PAGE, PAGE
from .websocket import SUBPROTOCOLS

Json = dict[str, Any]
Errors = tuple[type[RealtimeError], ...]

JSON, HTML, EVENTS, LINES = "application/json", "text/html", "text/event-stream", "application/x-ndjson"
TEXT = "text/plain"
_STORE, _COLLECTION = CHANNEL.pattern.split("/")


class Answer(Struct, frozen=True):
    """`content`: schemas by content type; none: no body."""

    says: str
    content: Mapping[str, Json] = {}
    headers: tuple[str, ...] = ()


class Operation(Struct, frozen=True):
    """What a method of a route takes and gives. `known`: it wants to know who asks, where anybody is asked."""

    says: str
    answers: Mapping[int, Answer]
    errors: Errors = ()
    parameters: tuple[str, ...] = ()
    body: tuple[str, ...] = ()  # content types
    known: bool = True
    page: bool = False  # errors come as one, too


def ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def schema(name: str) -> Json:
    return ref("schemas", name)


def _given(where: str, name: str, says: str, *, required: bool = False, **schema: Any) -> Json:
    return {"name": name, "in": where, "required": required, "description": says, "schema": schema}


def _query(name: str, says: str, **schema: Any) -> Json:
    return _given("query", name, says, **schema)


PARAMETERS: dict[str, Json] = {
    "store": _given(
        "path", "store", "See GET /v1/stores.", required=True, type="string", pattern=f"^{_STORE}$", example="redis"
    ),
    "collection": _given(
        "path",
        "collection",
        "A table, a collection of documents, a prefix.",
        required=True,
        type="string",
        pattern=f"^{_COLLECTION}$",
        example="rooms",
    ),
    "key": _given(
        "path", "key", "Percent-encoded.", required=True, type="string", minLength=1, maxLength=200, example="attic"
    ),
    "path": _given("path", "path", "Of a file.", required=True, type="string", minLength=1, maxLength=200),
    "limit": _query("limit", "Items of a page.", type="number", minimum=1, maximum=LONGEST_PAGE, default=PAGE),
    "after": _query("after", "The last key of the page before.", type="string", maxLength=200),
    "cursor": _query(
        "cursor",
        "Where to go on from; of several selections, joined by `~`. With it the answer waits for news.",
        type="string",
        pattern=f"^{CURSOR.pattern}(~{CURSOR.pattern})*$",
    ),
    "wait": _query("wait", "Seconds of a long-poll.", type="number", minimum=0, maximum=LONGEST_POLL),
    "heard": _query(
        "wait",
        "Above 0: the answer comes when the write's event is in the log.",
        type="number",
        minimum=0,
        maximum=LONGEST_POLL,
        default=0,
    ),
    "max_rate": _query(
        "max_rate", "Of a stream: events of a key a second.", type="number", minimum=LEAST_RATE, maximum=MOST_RATE
    ),
    "stream": _query("stream", "`ndjson`: one message a line, until you go.", type="string", enum=["ndjson"]),
    "format": _query("format", "`text`: in words, of a store that has some.", type="string", enum=["json", "text"]),
    "subscribe": _query(
        "subscribe",
        "store/collection or store/collection/key, once for each selection.",
        type="array",
        items={"type": "string", "pattern": f"^{_STORE}/{_COLLECTION}(/.+)?$"},
        minItems=1,
        maxItems=128,
        uniqueItems=True,
        example=["redis/rooms"],
    ),
    "if_match": _given("header", "If-Match", "An ETag, several, or `*`.", type="string", maxLength=200),
    "if_none_match": _given("header", "If-None-Match", "Only where there is none.", type="string", enum=["*"]),
    "if_changed": _given("header", "If-None-Match", "304 where it is still this.", type="string", maxLength=200),
    "last_event_id": _given("header", "Last-Event-ID", "As `cursor`, of an event stream.", type="string"),
}
PARAMETERS["subscribe"] |= {"required": True, "explode": True}

HEADERS: dict[str, Json] = {
    "ETag": {"description": "Names the value: equal values, equal names.", "schema": {"type": "string"}},
    "Realtime-Cursor": {"description": "Subscribe from here.", "schema": {"type": "string"}},
    "Location": {"description": "Of the new item.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}},
}

VALUE: Json = {"description": f"Any JSON: at most {Limits().body_bytes} bytes unless set, and {MAX_DEPTH} levels deep."}

FIELDS: Json = {"type": "object", "additionalProperties": {"type": "string", "maxLength": MAX_FIELD}}

EVERYWHERE: Errors = (
    RealtimeError,
    errors.ProtocolError,
    errors.WrongHost,
    errors.Unsupported,
    errors.TooMany,
    errors.Unavailable,
    errors.Draining,
)
ASKED: Errors = (errors.Unauthorized, errors.Forbidden)
READ: Errors = (errors.UnknownChannel, errors.StoreDown, errors.BrokerDown)
LIVE: Errors = (*READ, errors.Full, errors.BadCursor, errors.TooLarge, errors.Refused, errors.TooSlow)
WRITE: Errors = (
    *READ,
    errors.Forbidden,
    errors.NotFound,
    errors.ReadOnly,
    errors.Conflict,
    errors.Duplicate,
    errors.Refused,
    errors.TooLarge,
)

_STREAMS = {EVENTS: {"type": "string"}, LINES: {"type": "string"}}
_READ_ON = ("cursor", "wait", "stream", "max_rate", "last_event_id")
_CONDITIONS = ("if_match", "if_none_match")
_WRITTEN = Answer("Written.", {JSON: schema("Receipt")}, ("ETag",))
_UNHEARD = Answer("Written; its event has not come yet.", {JSON: schema("Receipt")}, ("ETag",))
_THING: Json = {"type": "object"}
_TEXT: Json = {"type": "string"}


def _write(says: str, *answers: tuple[int, Answer], **more: Any) -> Operation:
    more = {"errors": WRITE, "parameters": ("heard", *_CONDITIONS), "body": (JSON,)} | more
    return Operation(says, {**dict(answers), 202: _UNHEARD}, **more)


def _plain(says: str, content: str, shape: Json, *, known: bool = False, errors: Errors = ()) -> Operation:
    return Operation(says, {200: Answer("Here it is.", {content: shape})}, errors, known=known)


_CHANGES = (errors.Refused, errors.Duplicate, errors.NotFound)


def _page(says: str, *, known: bool = True, then: int = 303) -> Operation:
    answers = {200: Answer("Here it is.", {HTML: _TEXT}), then: Answer("See there.", headers=("Location",))}
    return Operation(says, answers, (errors.StoreDown, errors.NotFound), known=known, page=True)


def _form(says: str, *more: type[RealtimeError], known: bool = True) -> Operation:
    answers = {200: Answer("What is shown once.", {HTML: _TEXT}), 303: Answer("Done.", headers=("Location",))}
    failures = (*ASKED, errors.StoreDown, errors.TooLarge, errors.Unsupported, *more)
    return Operation(says, answers, failures, body=(FORM,), known=known, page=True)


ROUTES: dict[str, dict[str, Operation]] = {
    "/": {
        "get": Operation(
            "The dashboard",
            {200: Answer("Here it is.", {HTML: _TEXT}), 302: Answer("Sign in first.", headers=("Location",))},
            known=False,
            page=True,
        )
    },
    "/healthz": {"get": _plain("Whether the process answers", JSON, _THING)},
    "/readyz": {
        "get": Operation(
            "Whether every store answers",
            {200: Answer("They do.", {JSON: _THING}), 503: Answer("One does not, or the node stops.", {JSON: _THING})},
            known=False,
        )
    },
    "/metrics": {"get": _plain("Numbers for Prometheus", CONTENT_TYPE.partition(";")[0], {"type": "string"})},
    "/v1/openapi.json": {"get": _plain("This document", JSON, _THING)},
    "/v1/stores": {"get": _plain("What there is, and how current it is", JSON, _THING, known=True)},
    "/v1/me": {"get": _plain("Who asks, as this service sees them", JSON, _THING, known=True)},
    "/v1/ticket": {
        "post": Operation(
            "A ticket, good once: `?ticket=` of /v1/ws or of a stream",
            {201: Answer("Here it is.", {JSON: _THING})},
            (errors.BrokerDown,),
        )
    },
    "/v1/live": {
        "get": Operation(
            "Several selections at once, live",
            {200: Answer("What is new, or a stream.", {JSON: schema("Poll"), **_STREAMS})},
            LIVE,
            ("subscribe", *_READ_ON),
        )
    },
    "/v1/ws": {
        "get": Operation(
            f"A WebSocket; subprotocols {', '.join(SUBPROTOCOLS)}. `x-messages` has what is said on it",
            {
                101: Answer("Go on with RFC 6455."),
                400: Answer("No upgrade to a WebSocket.", {HTML: {"type": "string"}}),
                426: Answer("No version of WebSocket that we speak."),
            },
            (errors.Forbidden, errors.Full),
        )
    },
    "/v1/{store}/{collection}": {
        "get": Operation(
            "The items of a collection in pages; with `cursor`, `wait` or `stream`, live",
            {200: Answer("A page; what is new; or a stream.", {JSON: {"anyOf": [schema("Page"), schema("Poll")]}})},
            LIVE,
            ("limit", "after", *_READ_ON),
        ),
        "post": _write(
            "A new item under a key that the store makes",
            (201, Answer("Made.", {JSON: schema("Receipt")}, ("Location", "ETag"))),
            parameters=("heard",),
        ),
    },
    "/v1/{store}/{collection}/{key}": {
        "get": Operation(
            "An item; with `cursor`, `wait` or `stream`, live",
            {
                200: Answer("The value; what is new; or a stream.", {JSON: {}, TEXT: {}}, ("ETag", "Realtime-Cursor")),
                304: Answer("It is still what you have."),
            },
            (*LIVE, errors.NotFound),
            ("format", *_READ_ON, "if_changed"),
        ),
        "put": _write("Write the whole value", (200, _WRITTEN)),
        "post": _write("As PUT, answered without a body", (204, Answer("Written."))),
        "patch": _write(
            "Merge into the value (RFC 7396)",
            (200, _WRITTEN),
            body=(MERGE_PATCH, JSON),
            errors=(*WRITE, errors.Unsupported),
        ),
        "delete": _write("Remove it", (200, _WRITTEN), body=()),
    },
    "/static/{path}": {
        "get": Operation(
            "Scripts and styles of the dashboard",
            {
                200: Answer("The file.", {"*/*": {}}),
                206: Answer("A part of the file.", {"*/*": {}}),
                304: Answer("It is still what you have."),
                403: Answer("Not a file of these.", {HTML: {"type": "string"}}),
                404: Answer("No such file.", {HTML: {"type": "string"}}),
                416: Answer("No such part of the file."),
            },
            known=False,
        )
    },
}

# Where the service asks who somebody is; for people, who have a cookie.
PAGES: dict[str, dict[str, Operation]] = {
    "/sign-in": {
        "get": _page("A form to sign in with, or to choose a password", known=False, then=302),
        "post": _form("Sign in", errors.Refused, known=False),
    },
    "/sign-out": {"post": _form("Sign out", known=False)},
    "/account": {"get": _page("Who is signed in, and their tokens"), "post": _form("Change it", *_CHANGES)},
    "/accounts": {"get": _page("Everybody, for admins"), "post": _form("Change somebody", *_CHANGES)},
}
