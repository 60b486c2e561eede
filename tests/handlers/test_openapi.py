"""The document that the service serves: valid, and of the routes, messages and examples that there are."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

import pytest
import schemathesis
from schemathesis.core.result import Ok
from tornado.httpclient import AsyncHTTPClient
from tornado.routing import PathMatches, RuleRouter
from tornado.web import Application, RequestHandler

from realtime import errors
from realtime.app import Service, application
from realtime.config import Auth, Config
from realtime.handlers.base import Missing
from realtime.handlers.openapi import document
from realtime.protocol import REQUESTS, Message
from tests.test_docs import PROTOCOL, blocks

SAID = document(asks=False, metrics=True)
NAMES = {
    "/v1/([^/]+)/([^/]+)": "/v1/{store}/{collection}",
    "/v1/([^/]+)/([^/]+)/([^/]+)": "/v1/{store}/{collection}/{key}",
    "/static/(.*)": "/static/{path}",
}


def methods(handler: type[RequestHandler]) -> set[str]:
    """HEAD is as GET, and said to be so once for all."""
    verbs = [each.lower() for each in handler.SUPPORTED_METHODS if each != "HEAD"]
    return {each for each in verbs if getattr(handler, each) is not getattr(RequestHandler, each)}


def routes(app: Application) -> dict[str, set[str]]:
    """Of the application: methods by path, as the document writes it."""
    found = {}
    [ours, *_] = app.wildcard_router.rules
    assert isinstance(ours.target, RuleRouter)
    for rule in ours.target.rules:
        assert issubclass(rule.target, RequestHandler)
        if rule.target is Missing:
            break
        assert isinstance(rule.matcher, PathMatches)
        path = rule.matcher.regex.pattern.rstrip("$").replace("\\", "")
        found[NAMES.get(path, path)] = methods(rule.target)
    return found


@pytest.mark.parametrize("config", [Config(), Config(metrics_port=0)], ids=["alone", "metrics apart"])
def test_every_route_is_in_it_and_nothing_else(service: Service, config: Config) -> None:
    paths = document(asks=False, metrics=config.metrics_port is None)["paths"]
    said = {path: set(item) - {"parameters"} for path, item in paths.items()}
    assert said == routes(application(service.door, config))


def test_pages_are_in_it_where_the_service_asks() -> None:
    urls = {
        "postgres": "postgresql://127.0.0.1:1/x",
        "redis": "redis://127.0.0.1:1",
        "mongo": "mongodb://127.0.0.1:1/x",
    }
    service = Service.of(Config(port=0, auth=Auth(on=True)), urls)  # which is never opened
    said = {path: set(item) - {"parameters"} for path, item in document(asks=True, metrics=False)["paths"].items()}
    assert said == routes(application(service.door, service.config))


@pytest.mark.parametrize("asks", [False, True])
def test_it_is_valid(asks: bool) -> None:
    schema = schemathesis.openapi.from_dict(json.loads(json.dumps(document(asks=asks, metrics=False))))
    schema.validate()
    assert all(isinstance(each, Ok) for each in schema.get_all_operations())


def test_it_is_served_to_everybody(service: Service, io_loop: Any, http_client: AsyncHTTPClient, base_url: str) -> None:
    answer = io_loop.run_sync(lambda: http_client.fetch(f"{base_url}/v1/openapi.json"))
    assert json.loads(answer.body) == json.loads(json.dumps(SAID))


def test_credentials_are_asked_for_where_the_service_asks() -> None:
    paths = document(asks=True, metrics=False)["paths"]
    assert paths["/v1/live"]["get"]["security"][:2] == [{"bearer": []}, {"cookie": []}]
    assert "401" in paths["/v1/live"]["get"]["responses"]
    assert paths["/healthz"]["get"]["security"] == []
    assert "401" not in SAID["paths"]["/v1/live"]["get"]["responses"]


def test_every_error_is_somewhere_in_it() -> None:
    text = json.dumps(document(asks=True, metrics=False))
    codes = {each.code for each in vars(errors).values() if isinstance(each, type) and hasattr(each, "code")}
    assert [code for code in codes if f'"{code}"' not in text] == []


def test_every_message_is_in_it() -> None:
    messages, schemas = SAID["x-messages"], SAID["components"]["schemas"]
    named = {side: [each["$ref"].rpartition("/")[2] for each in messages[side]] for side in messages}
    client = {schemas[name]["properties"]["type"]["enum"][0] for name in named["client"]}
    assert client == set(REQUESTS)
    assert {*named["server"]} == {"Event", *(each.__name__ for each in get_args(Message))}


def _of(path: str) -> dict[str, Any]:
    """What the document has for a path of an example."""
    bare = path.partition("?")[0]
    patterns = {re.sub(r"\{\w+\}", "[^/]+", template): item for template, item in SAID["paths"].items()}
    [item, *_] = [item for pattern, item in patterns.items() if re.fullmatch(pattern, bare)]
    return dict(item)


def test_the_examples_of_the_protocol_are_as_it_says() -> None:
    examples = [part for block in blocks(PROTOCOL, "http") for part in block.strip().split("\n\n")]
    for example in examples:
        method, path = example.splitlines()[0].removeprefix("> ").split(" ", 1)
        [status] = re.findall(r"^< (\d{3})$", example, re.MULTILINE)
        operation = _of(path)[method.lower()]
        assert status in operation["responses"], example
        code = re.search(r'"code": "(\w+)"', example)
        assert code is None or code[1] in json.dumps(operation["responses"][status]), example
