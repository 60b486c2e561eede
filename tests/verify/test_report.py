"""What a run says of itself: the table, what was skipped, what never struck, and the first broken promise."""

from __future__ import annotations

from realtime.verify.checker import Violation
from realtime.verify.report import Report, Round, summary


def test_a_fault_that_found_nothing_did_not_strike() -> None:
    report = Report(
        7,
        rounds=[
            Round("rename", True, idle="there is no key to rename", healed=0.1),
            Round("rename", False, healed=0.3),
            Round("node-frozen", True, idle="each node holds a feed", healed=0.2),
        ],
        skipped={"node-kill": "as it needs nodes"},
    )
    lines = summary(report).splitlines()
    assert lines[1].split() == ["rename", "1", "0.3", "s", "0"]
    assert lines[2].split() == ["node-frozen", "0", "0"]
    assert "  skipped, as it needs nodes: node-kill" in lines
    assert "  never struck, as each node holds a feed: node-frozen" in lines
    assert lines[-1] == "0 violations"


def test_the_first_broken_promise_comes_with_what_led_to_it() -> None:
    report = Report(7, rounds=[Round("rename", True, healed=None, violations=1)])
    report.violations.append(Violation("I2", "an older value", "client-1", "redis/a", ["  1.000 -- asks"]))
    assert summary(report).splitlines()[-3:] == [
        "1 violations; the first, of I2:", "  client-1 on redis/a: an older value", "      1.000 -- asks"
    ]  # fmt: skip
