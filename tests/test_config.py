"""Flags over environment over file over defaults; and what nobody reads is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import fields

from realtime.config import PLACES, Config, Limits, load, names
from realtime.errors import ConfigError

FIRST, SECOND = "a" * 32, "b" * 32  # secrets


def test_defaults_are_safe() -> None:
    config = load({}, {})
    assert config.host == "127.0.0.1"
    assert config.weather.places == PLACES


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    file = tmp_path / "realtime.toml"
    file.write_text('port = 1\nnode = "file"\nhost = "::1"\n[weather]\nperiod = 60\n')
    environment = {"REALTIME_PORT": "2", "REALTIME_NODE": "environment", "REALTIME_WEATHER__PERIOD": "90"}
    config = load({"port": 3, "data": None}, environment, file)
    assert (config.port, config.node, config.host, config.weather.period) == (3, "environment", "::1", 90)


def test_every_name_can_be_set() -> None:
    numbers = {"port": "1", "demo": "true", "weather__period": "60", "history__events": "5", "history__seconds": "9"}
    others = {
        "data": "/x",
        "node": "n",
        "host": "h",
        "database_url": "p://",
        "redis_url": "r://",
        "mongodb_uri": "m://",
    }
    auth = {"on": "1", "rules": "r.toml", "cookie_secrets": f"{FIRST},{SECOND}"}
    jwt = {"key": "k", "jwks": "j", "algorithms": "RS256,PS256", "audience": "a", "issuer": "i", "roles": "groups"}
    others |= {f"auth__{name}": value for name, value in auth.items()}
    others |= {f"auth__jwt__{name}": value for name, value in jwt.items()}
    numbers["metrics_port"] = "9"
    others |= {f"limits__{each.name}": "7" for each in fields(Limits)}
    rest = {
        "tables": "a,b",
        "proxies": "10.0.0.0/8,::1",
        "hosts": "a.example,b.example",
        "weather__uri": "http://w",
        "weather__places": "[]",
        "drain": "2.5",
    }
    given = {f"REALTIME_{name.upper()}": value for name, value in (numbers | others | rest).items()}
    config = load({}, given)
    assert (config.auth.cookie_secrets, config.auth.jwt.algorithms) == ((FIRST, SECOND), ("RS256", "PS256"))
    assert {getattr(config.limits, each.name) for each in fields(Limits)} == {7}
    assert config.proxies == ("10.0.0.0/8", "::1")
    assert (config.data, config.demo, config.drain, config.weather.places) == ("/x", True, 2.5, ())
    assert set(given) == {name for name in names() if name.startswith("REALTIME_") and _plain(name)}


def _plain(name: str) -> bool:
    return not name.endswith(("_FILE", "_CONFIG"))


def test_the_prefixed_name_beats_the_platforms_name() -> None:
    assert load({}, {"PORT": "1"}).port == 1
    assert load({}, {"PORT": "1", "REALTIME_PORT": "2"}).port == 2


def test_the_tutorials_names() -> None:
    assert load({}, {"REDIS_HOST": "cache"}).redis_url == "redis://cache:6379"
    assert load({}, {"REDIS_HOST": "cache", "REDIS_PORT": "1"}).redis_url == "redis://cache:1"
    assert load({}, {"REDIS_URL": "redis://a", "REDIS_HOST": "b"}).redis_url == "redis://a"
    assert load({}, {"WEATHER_URI": "http://w"}).weather.uri == "http://w"


def test_a_list_is_words_with_commas() -> None:
    assert load({}, {"REALTIME_TABLES": "entries, sales.orders"}).tables == ("entries", "sales.orders")


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "dsn").write_text("postgresql://me:secret@db/x\n")
    config = load({}, {"REALTIME_DATABASE_URL_FILE": str(tmp_path / "dsn")})
    assert config.database_url == "postgresql://me:secret@db/x"


def test_a_file_is_named_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("port = 5\n")
    assert load({}, {"REALTIME_CONFIG": str(tmp_path / "other.toml")}).port == 5


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"REALTIME_PROT": "1"}, "REALTIME_PROT; did you mean REALTIME_PORT?"),
        ({"REALTIME_WEATHER_PERIOD": "1"}, "did you mean REALTIME_WEATHER__PERIOD?"),
        ({"DATABSE_URL": "x"}, "DATABSE_URL; did you mean DATABASE_URL?"),
        ({"MONGODB_URL": "x"}, "did you mean MONGODB_URI?"),
        ({"REDIS_URI": "x"}, "did you mean REDIS_URL?"),
        ({"PORT": "abc"}, "from environment: PORT"),
        ({"REALTIME_DEMO": "maybe"}, "from environment: REALTIME_DEMO"),
        ({"REALTIME_WEATHER__PERIOD": "0.5"}, "at least 1 second .got 0.5."),
        (
            {"REALTIME_AUTH__COOKIE_SECRETS": f"{FIRST},short"},
            "auth.cookie_secrets: number 2 has 5 bytes.*openssl rand",
        ),
        ({"REALTIME_METRICS_PORT": "-1"}, "metrics_port must be 0 .any free one. to 65535"),
        ({"REALTIME_PORT": "99999"}, "0 .any free one. to 65535 .got 99999."),
        ({"REALTIME_LIMITS__WRITES": "0"}, r"limits.writes must be at least 1 .got 0\)"),
        ({"REALTIME_LIMITS__MESSAGES": "nan"}, "messages must be at least 1 .got nan."),
        ({"REALTIME_PROXIES": "10.0.0.1/8"}, "10.0.0.1/8 has host bits set"),
        ({"REALTIME_WEATHER__PLACES": "{"}, "REALTIME_WEATHER__PLACES is not JSON"),
        ({"REALTIME_CONFIG": "/nowhere.toml"}, "/nowhere.toml"),
        ({"REALTIME_REDIS_URL_FILE": "/nowhere"}, "/nowhere"),
    ],
)
def test_what_cannot_be_is_named(environment: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load({}, environment)


@pytest.mark.parametrize("text", ["prot = 1", "[weather]\nperoid = 1", "port = ", "port = 'x'"])
def test_a_file_with_a_mistake_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "realtime.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"config: "):
        load({}, {}, tmp_path / "realtime.toml")


@pytest.mark.parametrize("name", ["HOME", "PATH", "PORTAGE", "REPORT", "DATABASE", "URL", "MONGO_HOME", "LANG"])
def test_what_is_not_ours_is_let_be(name: str) -> None:
    assert load({}, {name: "x"}) == Config()


def test_every_name_is_documented() -> None:
    text = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text()
    assert [name for name in names() if f"`{name}`" not in text] == []
