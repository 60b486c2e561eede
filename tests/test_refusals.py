"""What the service does not start with: each refusal ends with status 78, says why, and what mends it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from realtime.config import Auth, Config, Jwt, Weather, load
from realtime.embedded import Embedded
from realtime.errors import ConfigError
from realtime.refusals import is_loopback, refuse
from tests.process import data_directory, environment, served

RULE = '[[rule]]\nroles = ["*"]\nchannels = ["*"]\nread = true\n'


def refused(host: str | None = None, **variables: str) -> str:
    """What is said of these flags and variables."""
    with pytest.raises(ConfigError) as error:
        refuse(load({"host": host}, variables))
    return str(error.value)


def test_the_command_says_it_in_a_line_and_ends() -> None:
    command = [sys.executable, "-m", "realtime", "serve", "--port", "0", "--host", "0.0.0.0"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (78, "", f"{refused('0.0.0.0')}\n")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.1.2.3", "::ffff:10.1.2.3"])
def test_an_open_service_is_bound_to_loopback(host: str) -> None:
    said = refused(host)
    assert f"host is {host!r}" in said
    assert "REALTIME_AUTH__ON=1" in said
    assert "realtime user add" in said
    assert "--host 127.0.0.1" in said


def test_neither_may_the_environment_open_it() -> None:
    assert "host is '0.0.0.0'" in refused(REALTIME_HOST="0.0.0.0")


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("", False),
        ("nowhere.invalid", False),
    ],
)
def test_loopback_is_known_by_address_and_by_name(host: str, is_one: bool) -> None:
    assert is_loopback(host) is is_one


def test_where_everybody_is_asked_any_address_will_do(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULE)
    refuse(Config(host="0.0.0.0", auth=Auth(on=True, rules=str(tmp_path / "rules.toml"))))


def test_a_short_cookie_secret() -> None:
    said = refused(REALTIME_AUTH__COOKIE_SECRETS="hunter2")
    assert "openssl rand -base64 32" in said
    assert "hunter2" not in said


def test_a_short_key_of_an_outside_issuer() -> None:
    issuer = {"ALGORITHMS": "HS256", "AUDIENCE": "live", "ISSUER": "https://issuer.example", "KEY": "hunter2"}
    settings = {f"REALTIME_AUTH__JWT__{name}": value for name, value in issuer.items()}
    said = refused(REALTIME_AUTH__ON="1", **settings)
    assert "auth.jwt.key is too short" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[[rule]\n", "rules"),
        (b'[[rule]]\nroles = ["*"]\nchannels = ["*"]\nraed = true\n', "unknown field `raed`"),
        (b'[[rule]]\nroles = ["*"]\nchannels = ["*"]\n', "read = true"),
        (b'[[rules]]\nroles = ["*"]\n', "unknown field `rules`"),
    ],
)
def test_rules_that_are_missing_or_garbled(tmp_path: Path, text: bytes | None, words: str) -> None:
    file = tmp_path / "rules.toml"
    if text is not None:
        file.write_bytes(text)
    said = refused(REALTIME_AUTH__ON="1", REALTIME_AUTH__RULES=str(file))
    assert words in said
    assert str(file) in said


def test_rules_that_nobody_would_ask() -> None:
    with pytest.raises(ConfigError, match="nobody is asked who they are: set REALTIME_AUTH__ON=1"):
        refuse(Config(auth=Auth(rules="rules.toml")))


def test_an_issuer_that_is_half_configured() -> None:
    said = refused(REALTIME_AUTH__ON="1", REALTIME_AUTH__JWT__KEY="hunter2", REALTIME_AUTH__JWT__ALGORITHMS="HS256")
    assert "auth.jwt needs audience and issuer" in said
    jwt = Jwt(key="hunter2", algorithms=("HS256",), audience="a", issuer="i")
    with pytest.raises(ConfigError, match="too short for HS256") as caught:
        refuse(Config(auth=Auth(on=True, jwt=jwt)))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"auth\.jwt is set, but nobody is asked"):
        refuse(Config(auth=Auth(jwt=jwt)))


def test_weather_from_inside() -> None:
    assert "weather.uri: 169.254.169.254 is not asked" in refused(WEATHER_URI="https://169.254.169.254/latest")
    refuse(Config(weather=Weather(uri="https://169.254.169.254/"), demo=True))  # nobody is asked


def test_an_open_service_says_so(servers: Embedded) -> None:
    urls = {"DATABASE_URL": servers.urls["postgres"], "REDIS_URL": servers.urls["redis"]}
    with data_directory() as data, served(data, MONGODB_URI=servers.urls["mongo"], **urls) as service:
        service.wait_for("open: whoever reaches this port may read and write everything")
