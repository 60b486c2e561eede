"""Forms with any fields, of an admin: each answer is a page or leads to one of ours, and none is our mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from realtime.config import Limits
from realtime.embedded import Embedded
from tests.fuzz.node import in_thread
from tests.guarded import PASSWORD, Guarded, guarded

# the node, in its thread, draws lots, too
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the .random. module")

SEED = int(os.environ.get("SEED", "5"))
RULES = '[[rule]]\nroles = ["admin"]\nchannels = ["*"]\nread = true\nwrite = true\n'
ANY = 1_000_000_000
ANN = {"user": "ann@example.org"}
SOUND: dict[str, dict[str, str]] = {
    "name": {"name": "Ada"},
    "password": {"old": PASSWORD, "password": PASSWORD},
    "issue": {"name": "mine", "scopes": "read", "lifetime": "30"},
    "revoke": {"token": "x"},
    "add": {"email": "new@example.org", "name": "New", "roles": "reader"},
    "link": ANN,
    "roles": {**ANN, "roles": "reader, writer"},
    "disable": ANN,
    "enable": ANN,
    "nothing": {},
}
PATHS = ["/account", "/accounts", "/sign-in"]

odd = ["\0", "a\r\nX: y", "x" * 2000, "\ud800", "''; --", "{{1}}", "<b>", "//x.org/", "admin", "u", "-1", "a@b.org"]
texts = st.text(max_size=20) | st.sampled_from(odd)
names = st.sampled_from(sorted({name for form in SOUND.values() for name in form} | {"do", "link", "next"}))
damages = st.dictionaries(names | st.text(max_size=5), texts, max_size=2)


def encoded(form: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(errors="surrogatepass"), text.encode(errors="surrogatepass")) for name, text in form.items()]


def fuzz(base: str, examples: int) -> None:
    statuses: set[int] = set()
    with requests.Session() as session:
        session.headers["Origin"] = base

        @seed(SEED)
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(PATHS), st.sampled_from(sorted(SOUND)), damages)
        def every_form_is_answered(path: str, do: str, damage: dict[str, str]) -> None:
            if "realtime_sign_in" not in session.cookies:
                who = {"email": "admin@example.org", "password": PASSWORD}
                session.post(f"{base}/sign-in", data=who, allow_redirects=False, timeout=20)
            data = encoded({"do": do, **SOUND[do], **damage})
            answer = session.post(base + path, data=data, allow_redirects=False, timeout=20)
            assert answer.status_code in {200, 303, 400, 401, 403, 404, 409, 413, 422, 429}, answer.text
            assert "Traceback" not in answer.text
            assert answer.headers.get("Location", "/").startswith("/")
            assert not answer.headers.get("Location", "/").startswith("//")
            statuses.add(answer.status_code)

        every_form_is_answered()
    assert {200, 303, 400, 422} <= statuses


def walk(servers: Embedded, directory: Path, examples: int) -> None:
    print(f"seed {SEED}")
    limits = Limits(writes=ANY)
    with in_thread(guarded(servers, directory, RULES, {"admin": ["admin"], "ann": ["reader"]}, limits=limits)) as found:
        assert isinstance(found, Guarded)
        fuzz(found.bases[0], examples)


def test_every_form_is_answered(servers: Embedded, tmp_path: Path) -> None:
    walk(servers, tmp_path, 60)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_thousand_forms(servers: Embedded, tmp_path: Path) -> None:
    walk(servers, tmp_path, 1000)
