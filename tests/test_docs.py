"""What the documentation shows is what happens: the protocol's examples, and the README's commands as written."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websockets.sync.client
from tornado.httpclient import HTTPClient, HTTPRequest

from tests.process import data_directory, served

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TOP_LEVEL_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """The README's first command, as written; the environment says where it may do so here."""
    command = blocks(README, "sh")[0].split()
    with data_directory() as data, served(data, command=[str(ROOT / command[0]), *command[1:]]) as service:
        yield service.address()


def like(shown: Any, said: Any) -> bool:
    """Whether what was said is what is shown, `…` being anything."""
    if shown == "…":
        return said is not None
    if isinstance(shown, dict) and isinstance(said, dict):
        return shown.keys() == said.keys() and all(like(shown[name], said[name]) for name in shown)
    return bool(shown == said)


def test_http_examples(base: str) -> None:
    examples = [part for block in blocks(PROTOCOL, "http") for part in block.strip().split("\n\n")]
    assert len(examples) > 10
    client = HTTPClient()
    for example in examples:
        request = [line[2:] for line in example.splitlines() if line.startswith("> ")]
        status, body = [line[2:] for line in example.splitlines() if line.startswith("< ")]
        method, path = request[0].split(" ", 1)
        headers = dict(line.split(": ", 1) for line in request[1:] if re.match(r"[A-Z][A-Za-z-]+: ", line))
        sent = next((line for line in request[1:] if line.split(":")[0] not in headers), None)
        answer = client.fetch(
            HTTPRequest(base + path, method, headers, sent, allow_nonstandard_methods=True), raise_error=False
        )
        said = json.loads(answer.body)
        assert (answer.code, like(json.loads(body), said)) == (int(status), True), f"{example}\n\n{said}"
    client.close()


def test_websocket_examples(base: str) -> None:
    lines = [line for block in blocks(PROTOCOL, "websocket") for line in block.splitlines()]
    assert len(lines) > 8
    request = HTTPRequest(f"{base}/v1/redis/rooms/attic?wait=1", "PUT", body=b"20")  # what the other examples leave
    client = HTTPClient()
    client.fetch(request)
    client.close()
    with websockets.sync.client.connect(base.replace("http", "ws") + "/v1/ws") as connection:
        connection.recv(5)  # welcome
        for line in lines:
            if line.startswith("> "):
                connection.send(line[2:])
            else:
                said = json.loads(connection.recv(5))
                assert like(json.loads(line[2:]), said), f"{line}\n{said}"


def test_every_error_code_is_in_the_table() -> None:
    from realtime import errors

    codes = {each.code for each in vars(errors).values() if isinstance(each, type) and hasattr(each, "code")}
    assert [code for code in codes if f"`{code}`" not in PROTOCOL] == []


def test_readme_curl(base: str) -> None:
    if shutil.which("curl") is None and "CI" not in os.environ:
        pytest.skip("there is no curl here")
    commands = [line for block in blocks(README, "sh") for line in block.splitlines() if line.startswith("curl")]
    assert len(commands) == 10
    streaming, *others = commands
    here = base.removeprefix("http://")
    live = subprocess.Popen(
        ["sh", "-c", "exec " + streaming.replace("127.0.0.1:8888", here)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert live.stdout is not None
        while "subscribed" not in live.stdout.readline():
            pass
        for command in others:
            line = command.replace("127.0.0.1:8888", here) + " --silent --show-error --fail-with-body"
            done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=20, check=False)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            if "format=text" in command:
                assert re.fullmatch(r"Currently -?[\d.]+ degrees and [a-z ]+ in Berlin, DE\n", done.stdout)
        while '"temp":22.5' not in live.stdout.readline():
            pass
    finally:
        live.terminate()
        live.communicate()


@pytest.mark.parametrize("document", ["README.md", "docs/python.md"])
def test_python_examples(base: str, document: str) -> None:
    """Block by block, in one namespace, as in `python -m asyncio`."""
    examples = blocks((ROOT / document).read_text(), "python")
    assert examples
    names: dict[str, Any] = {}
    with asyncio.Runner() as runner:
        for example in examples:
            code = compile(example.replace("http://127.0.0.1:8888", base), document, "exec", TOP_LEVEL_AWAIT)
            if (awaited := eval(code, names)) is not None:
                runner.run(asyncio.wait_for(awaited, 20))


def test_links_lead_somewhere() -> None:
    for file in (ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", file.read_text()):
            assert (file.parent / link).exists(), f"{file.name}: {link}"


def test_every_threat_names_its_tests() -> None:
    threats = (ROOT / "docs" / "security.md").read_text().partition("## Threats\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in threats.splitlines() if "|" in line][2:]
    assert rows
    assert [int(row[0]) for row in rows] == sorted(int(row[0]) for row in rows)
    for row in rows:
        assert len(row) == 5, row
        named = re.findall(r"`(?:tests/)?([\w/]+\.py)::(\w+)`", row[4])
        assert named, f"row {row[0]} names no test"
        for path, name in named:
            module = ast.parse((ROOT / "tests" / path).read_text())
            there = {node.name for node in module.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
            assert name in there, f"row {row[0]}: no {name} in {path}"


def test_named_tests_exist() -> None:
    tests = {str(file.relative_to(ROOT / "tests")): file.read_text() for file in (ROOT / "tests").rglob("test_*.py")}
    for document in ("museum.md", "guarantees.md"):
        named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / document).read_text())
        assert len(named) > 10
        for path, name in named:
            file = path.removeprefix("tests/")
            assert file in tests, f"{document}: no {file}"
            assert not name or re.search(rf"def {name}\(", tests[file]), f"{document}: no {name} in {file}"
