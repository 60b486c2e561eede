"""Who may what: rules only give, patterns mean what they say, and a name in `{user}` is no pattern."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import Raw

from realtime.errors import ConfigError, Forbidden, Unauthorized
from realtime.protocol import Placed
from realtime.rights import ADMIN, EVERYTHING, Identity, Rights, parse_rules

RULES = """
[[rule]]
roles = ["*"]
channels = ["weather/*"]
read = true

[[rule]]
roles = ["anonymous", "reader"]
channels = ["postgres/entries"]
read = true
hide = ["salary", "notes"]

[[rule]]
roles = ["reader"]
channels = ["postgres/entries"]
keys = ["public-*"]
read = true
hide = ["salary"]

[[rule]]
roles = ["reader"]
channels = ["redis/{user}"]
read = true
write = true

[[rule]]
roles = ["reader"]
channels = ["redis/notes"]
keys = ["{user}", "{user}:*"]
read = true
write = true
"""


def of(user: str = "ada", *roles: str, scopes: tuple[str, ...] | None = None) -> Rights:
    return Rights(parse_rules(RULES, "rules.toml"), Identity(user, roles, "token", scopes=scopes))


def refused(call: Callable[[], object]) -> type[Exception] | None:
    try:
        call()
    except (Forbidden, Unauthorized) as error:
        return type(error)
    return None


def test_nothing_is_given_that_no_rule_gives() -> None:
    nobody, somebody = Rights(parse_rules(RULES, "r")), of("ada")
    for channel in ("redis/notes", "postgres/accounts", "nosuch/thing"):
        assert refused(lambda c=channel: nobody.view(c)) is Unauthorized  # type: ignore[misc]
        assert refused(lambda c=channel: somebody.view(c)) is Forbidden  # type: ignore[misc]
        assert refused(lambda c=channel: somebody.write(c, "1")) is Forbidden  # type: ignore[misc]
    assert refused(lambda: nobody.view("weather/current")) is Unauthorized
    assert somebody.view("weather/current") is None
    assert refused(lambda: somebody.write("weather/current", "berlin")) is Forbidden


def test_keys_of_ones_own() -> None:
    ada = of("ada", "reader")
    assert refused(lambda: ada.write("redis/notes", "ada:1")) is None
    assert refused(lambda: ada.write("redis/notes", "ada")) is None
    assert refused(lambda: ada.write("redis/notes", "adam")) is Forbidden
    assert refused(lambda: ada.write("redis/notes", "bob:ada:1")) is Forbidden
    assert refused(lambda: ada.write("redis/notes", None)) is Forbidden  # the store might make any
    assert refused(lambda: ada.write("redis/ada", None)) is None
    assert refused(lambda: ada.view("redis/notes", "bob:1")) is Forbidden
    view = ada.view("redis/notes")
    assert view is not None
    assert view.items({"ada:1": Raw(b"1"), "bob:1": Raw(b"2")}) == {"ada:1": Raw(b"1")}


@pytest.mark.parametrize("user", ["*", "a*", ".*", "[ab]", "?", "\\w+", "a\nb"])
def test_a_users_name_is_no_pattern(user: str) -> None:
    rights = of(user, "reader")
    assert refused(lambda: rights.write("redis/notes", f"{user}:1")) is None
    for other in ("ada:1", "a:1", "b:1", "w:1", ":1"):
        assert refused(lambda o=other: rights.write("redis/notes", o)) is Forbidden  # type: ignore[misc]


def test_a_column_is_hidden_where_no_rule_shows_it() -> None:
    view = of("ada", "reader").view("postgres/entries")
    assert view is not None
    row = Raw(b'{"id":1,"salary":9,"notes":"x"}')
    assert view.items({"7": row, "public-7": row}) == {
        "7": Raw(b'{"id":1}'),
        "public-7": Raw(b'{"id":1,"notes":"x"}'),
    }
    event = Placed.decode(
        b'{"type":"event","channel":"postgres/entries","key":"7","op":"put","version":"1","time":1,'
        b'"value":{"salary":9,"id":12345678901234567890},"cursor":"v1.e.1"}'
    )
    seen = view.event(event)
    assert seen is not None
    assert b"salary" not in seen.json + seen.msgpack + seen.sse + seen.frame("json") + seen.frame("msgpack")
    assert b'{"id":12345678901234567890}' in seen.json
    assert (seen.cursor, seen.event.cursor) == (event.cursor, "v1.e.1")


def test_equal_views_are_one() -> None:
    assert of("ada", "reader").view("postgres/entries") == of("bob", "reader").view("postgres/entries")
    assert of("ada", "reader").view("redis/notes") != of("bob", "reader").view("redis/notes")


def test_scopes_narrow_and_never_widen() -> None:
    assert refused(lambda: of("ada", "reader", scopes=("read",)).view("redis/ada")) is None
    assert refused(lambda: of("ada", "reader", scopes=("read",)).write("redis/ada", "1")) is Forbidden
    assert refused(lambda: of("ada", "reader", scopes=("write:redis/ada",)).write("redis/ada", "1")) is None
    assert refused(lambda: of("ada", "reader", scopes=("write:redis/notes",)).write("redis/ada", "1")) is Forbidden
    assert refused(lambda: of("ada", scopes=("read", "write")).view("redis/ada")) is Forbidden
    assert refused(lambda: of("ada", "reader", scopes=()).view("weather/current")) is Forbidden


def test_the_role_admin_may_all_where_no_rules_are_given() -> None:
    admin, other = Rights(ADMIN, Identity("a", ("admin",), "token")), Rights(ADMIN, Identity("b", ("user",), "token"))
    admin.write("redis/x", None)
    assert admin.view("mongo/x") is None
    assert refused(lambda: other.view("mongo/x")) is Forbidden
    assert EVERYTHING.view("mongo/x") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[rule]", "rules: r.toml: "),
        ('[[rule]]\nroles = ["a"]\nchannels = ["x/y"]', "read = true"),
        ('[[rule]]\nroles = ["a"]\nchannels = ["x"]\nread = true', "'x' is no pattern of channels"),
        ('[[rule]]\nroles = []\nchannels = ["x/y"]\nread = true', "names roles"),
        ('[[rule]]\nroles = ["a"]\nchannels = ["x/y"]\nread = 1', "bool"),
        ('[[rule]]\nroles = ["a"]\nchannels = ["x/y"]\nwrite = true\nhide = ["a"]', "hide is for rules"),
        ('[[rule]]\nrole = ["a"]\nchannels = ["x/y"]\nread = true', "role"),
        ("[[rules]]", "rules"),
    ],
)
def test_rules_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_rules(text, "r.toml")
    assert said in str(error.value)
