"""The floors hold: a module imports only from floors below its own; pure floors are pure; one place names the parts."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "realtime"

# From the ground up. Modules of one floor do not know each other.
FLOORS = [
    {"errors"},
    {"config", "metrics", "logs", "frames"},
    {"protocol"},
    {"addresses", "audience", "limits", "pace", "waiting", "places", "replica", "rights", "shared", "tasks"},
    {"session", "client"},
    {"subscription"},
    {"hub", "redis_pubsub"},
    {"brokers", "stores"},
    {"resets", "auth"},
    {"channels", "sources", "feeds", "refusals"},
    {"joins", "items"},
    {"node"},
    {"handlers"},
    {"embedded", "demo", "app"},
    {"serve"},
    {"verify", "admin"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
PURE = {"errors", "config", "frames", "protocol", "audience", "pace", "waiting", "places", "replica", "session"}
PURE |= {
    "client.answers",
    "client.inbox",
    "client.messages",
    "client.selections",
    "limits",
    "rights",
    "subscription",
    "hub",
    "stores.pgoutput",
    "stores.pgtypes",
}
CLIENT = {"errors", "protocol", "replica", "tasks"}  # all that the client knows of us: no server's library
IMPURE = {"asyncio", "time", "tornado", "redis", "asyncpg", "psycopg", "motor", "pymongo", "socket", "threading"}


def modules() -> Iterator[tuple[str, Path]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        if name := ".".join(part for part in parts if part != "__init__"):
            yield name, file


def imports(name: str, file: Path) -> Iterator[str]:
    """What a module imports, absolute: `realtime.x.y` for our own."""
    package = name.split(".") if file.stem == "__init__" and name else name.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            above = package[: len(package) - node.level + 1]
            base = ".".join(["realtime", *above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" if node.module is None else base for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def floor(name: str) -> int:
    top = name.split(".")[0]
    found = [number for number, names in enumerate(FLOORS) if top in names]
    assert found, f"{name} has no floor: give it one in FLOORS"
    return found[0]


@pytest.mark.parametrize(("name", "file"), [pytest.param(*each, id=each[0]) for each in modules()])
def test_imports_go_downward_only(name: str, file: Path) -> None:
    mine = name.split(".")[0]
    for imported in imports(name, file):
        other = imported.removeprefix("realtime.")
        if other in (imported, "__version__") or other.split(".")[0] == mine:
            continue
        assert floor(other) < floor(name), f"{name} (floor {floor(name)}) imports {other} (floor {floor(other)})"


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_import_no_clock_and_no_io(name: str) -> None:
    files = dict(modules())
    taken = {imported.split(".")[0] for imported in imports(name, files[name])}
    assert not taken & IMPURE


def test_only_the_composition_root_names_concrete_parts() -> None:
    concrete = {"memory", "redis", "postgres", "mongo", "weather"}
    for name, file in modules():
        if name.split(".")[0] in {"app", "serve", "brokers", "stores", "embedded"}:
            continue
        for imported in imports(name, file):
            parts = imported.split(".")
            named = len(parts) > 2 and parts[1] in {"brokers", "stores"} and parts[2] in concrete
            assert not named, f"{name} names {imported}"


def test_nothing_is_read_that_could_run() -> None:
    """What came from outside is never unpickled, evaluated or given to a shell."""
    for name, file in modules():
        taken = {imported.split(".")[0] for imported in imports(name, file)}
        assert not taken & {"pickle", "marshal", "shelve", "dill", "yaml", "xml"}, name
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.id if isinstance(node.func, ast.Name) else ""
                assert called not in {"eval", "exec", "compile", "__import__"}, name
                assert not any(keyword.arg == "shell" for keyword in node.keywords), name


def test_every_dependency_has_an_end() -> None:
    """A version that nobody has seen does not come by itself."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    for needed in [*project["dependencies"], *project["optional-dependencies"]["embedded"]]:
        assert "<" in needed.partition(";")[0], needed


def test_the_client_stands_by_itself() -> None:
    for name, file in modules():
        if name.split(".")[0] == "client":
            for imported in imports(name, file):
                top = imported.split(".")[1] if imported.startswith("realtime.") else None
                assert top in {None, "client", *CLIENT}, f"{name} imports {imported}"


def test_brokers_and_stores_do_not_know_each_other() -> None:
    for name, file in modules():
        for imported in imports(name, file):
            if name.startswith("brokers"):
                assert not imported.startswith("realtime.stores"), name
            if name.startswith("stores"):
                assert not imported.startswith("realtime.brokers"), name
