"""Requests made of the document that the service serves, sound ones and unsound ones: each answer is as it says.

No status that it does not have, no other content, no 5xx (the node is well and nothing of it is away), no traceback.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from realtime.embedded import Embedded
from tests.fuzz.node import FLOODED, in_thread, running, running_on
from tests.guarded import guarded

SEED = int(os.environ.get("SEED", "5"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
KNOWN: dict[str, list[Any]] = {
    "store": ["memory"],
    "collection": ["a"],
    "key": ["a", "ä/%"],
    "subscribe": [["memory/a"], ["memory/a/a"]],
    "path": ["app.mjs", "../pyproject.toml"],
}


def said(base: str, mode: GenerationMode, sound: dict[str, list[Any]]) -> Any:
    """What the node says of itself, without what never ends; what is sound asks for a few items, so that it meets."""
    document = requests.get(f"{base}/v1/openapi.json", timeout=5).json()
    for name, known in sound.items() if mode is GenerationMode.POSITIVE else ():
        document["components"]["parameters"][name]["schema"] = {"enum": known}
    for item in document["paths"].values():
        for operation in item.values():
            if isinstance(operation, dict) and "parameters" in operation:
                kept = [each for each in operation["parameters"] if not each["$ref"].endswith("/stream")]
                operation["parameters"] = kept
    return document


def operations(base: str, mode: GenerationMode, sound: dict[str, list[Any]]) -> Iterator[Any]:
    """Those that take nothing have nothing that could be wrong."""
    for found in schemathesis.openapi.from_dict(said(base, mode, sound)).get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        if mode is GenerationMode.POSITIVE or [*operation.iter_parameters(), *operation.body]:
            yield operation


def fuzz(base: str, session: requests.Session, mode: GenerationMode, operation: Any, examples: int) -> None:
    @seed(SEED)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode))
    def every_answer_is_as_said(case: Case[Any]) -> None:
        answer = case.call(base_url=base, session=session, timeout=10)
        assert "Traceback" not in answer.text
        case.validate_response(answer, checks=CHECKS)

    every_answer_is_as_said()


quiet = pytest.mark.filterwarnings("ignore:Do not use the .random. module")


def walk(base: str, examples: int, token: str = "", **known: Any) -> None:
    print(f"seed {SEED}")
    with requests.Session() as session:
        if token:
            session.headers["Authorization"] = f"Bearer {token}"
        for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
            for operation in operations(base, mode, KNOWN | known):
                fuzz(base, session, mode, operation, examples)


def walk_alone(examples: int) -> None:
    with running() as node:
        before = node.holds()
        walk(node.base, examples)
        node.settles(before)


@quiet
def test_every_answer_is_as_the_document_says() -> None:
    walk_alone(8)


@quiet
@pytest.mark.long
@pytest.mark.timeout(900)
def test_thousands_of_answers_are_as_the_document_says() -> None:
    walk_alone(150)


@quiet
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("channel", ["postgres/entries", "mongo/a", "redis/a", "weather/current"])
def test_every_store_answers_as_the_document_says(servers: Embedded, channel: str) -> None:
    store, collection = channel.split("/")
    keys = ["1", "berlin", "\u00e4/%", '{"$ne":1}', "a' OR 1=1"]
    with running_on(servers) as node:
        walk(node.base, 60, store=[store], collection=[collection], key=keys, subscribe=[[channel], [f"{channel}/1"]])


RULES = """
[[rule]]
roles = ["admin"]
channels = ["*"]
read = true
write = true

[[rule]]
roles = ["reader"]
channels = ["redis/a"]
keys = ["a"]
read = true
"""


@quiet
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("who", ["", "admin", "reader"])
def test_who_asks_is_answered_as_the_document_says(servers: Embedded, tmp_path: Path, who: str) -> None:
    """Nobody, somebody who may all, and somebody who may read one key."""
    people, limits = {"admin": ["admin"], "reader": ["reader"]}, FLOODED.limits
    with in_thread(guarded(servers, tmp_path, RULES, people, limits=limits)) as found:
        walk(found.bases[0], 60, found.tokens.get(who, ""), store=["redis"], subscribe=[["redis/a"], ["redis/a/a"]])


odd = st.sampled_from(["", "0", "2", "1e9", "nan", "-1", "x", "\0", "v1.x.0", "v1.x.0~v1.x.0", "v1", "ä", "%", "\n"])
PATHS = ["/v1/memory/a", "/v1/memory/a/a", "/v1/memory/none", "/v1/live", "/v1/oracle/a"]
names = st.sampled_from(["cursor", "max_rate", "wait", "limit", "after", "ticket"])
queries = st.dictionaries(names, odd, max_size=3)
headers = st.dictionaries(
    st.sampled_from(["Last-Event-ID", "If-None-Match", "Range"]), st.sampled_from(["v1.x.0", "*"])
)
STREAMS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "text/event-stream": ({}, {"Accept": "text/event-stream"}),
    "application/x-ndjson": ({"stream": "ndjson"}, {}),
}


@quiet
@pytest.mark.parametrize("kind", STREAMS)
def test_streams_begin_or_say_why_not_and_leave_nothing(kind: str) -> None:
    print(f"seed {SEED}")
    query, header = STREAMS[kind]
    kinds = set()
    with running() as node, requests.Session() as session:
        before = node.holds()
        session.put(f"{node.base}/v1/memory/a/a", json=1, timeout=5).raise_for_status()

        @seed(SEED)
        @settings(max_examples=50, deadline=None, database=None)
        @given(st.sampled_from(PATHS), queries, st.lists(st.sampled_from(["memory/a", "memory/a/a", "x", ""])), headers)
        def listen(path: str, more: dict[str, str], selections: list[str], sent: dict[str, str]) -> None:
            given = {**query, **more, "subscribe": selections}
            with session.get(node.base + path, params=given, headers=sent | header, stream=True, timeout=5) as answer:
                said = answer.headers["Content-Type"]
                assert (answer.status_code, said) == (200, kind) or said == "application/json"
                assert answer.status_code in {200, 400, 404}
                assert b"Traceback" not in next(answer.iter_content(1 << 16))
                kinds.add(answer.status_code)

        listen()
        session.close()
        node.settles(before)
    assert kinds == {200, 400, 404}
