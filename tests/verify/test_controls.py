"""Negative controls: with a safeguard taken out, `realtime verify` must see broken promises, and say which."""

from __future__ import annotations

import asyncio
import sys

import pytest

from realtime.verify import run
from realtime.verify.command import Options, verify
from tests.verify.broken import SAFEGUARDS

pytestmark = [pytest.mark.asyncio, pytest.mark.expects_logs]

# What strikes where the safeguard is needed; what is broken then, and what may be besides. What is left over shows in
# the end.
CONTROLS = {
    "gap check": ("pubsub-kill", {"I1", "I4", "I5"}, set[str]()),
    "fence": ("flushall-feeds-down", {"I2"}, {"I4", "I5"}),
    "reconcile": ("pubsub-kill", {"I4"}, {"I5"}),
    "version check": ("die-after-append", {"I2"}, {"I4", "I5"}),
    "resume's place": ("pubsub-kill", {"I3"}, {"I1", "I4", "I5"}),
    "release": ("expiry", {"I6"}, set[str]()),
}


# Those that see what another one sees, too, are for `-m long`.
LONG = {"reconcile", "version check"}


@pytest.mark.parametrize(
    "safeguard", [pytest.param(each, marks=[pytest.mark.long] * (each in LONG)) for each in SAFEGUARDS]
)
async def test_the_checker_sees_that_a_safeguard_is_missing(safeguard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "PATIENCE", 8.0)  # who is wrong then stays wrong
    fault, expected, besides = CONTROLS[safeguard]
    program = (sys.executable, "-m", "tests.verify.broken", safeguard)
    seconds = 1 if safeguard == "release" else 60
    options = Options(seconds=seconds, nodes=2, clients=12, faults=(fault,), program=program)
    report = await verify(options, 1, asyncio.Event())
    seen = {violation.invariant for violation in report.violations} - {"time"}
    assert seen & expected, f"nothing was seen in {len(report.rounds)} rounds"
    assert seen <= expected | besides, [each for each in report.violations if each.invariant not in expected]
