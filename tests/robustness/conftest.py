"""The database servers are the datastore tests' own. At the end stands what was tried and what was found."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "component" / "datastore"))

FOUND: dict[str, str] = {}
OUTCOMES: dict[str, str] = {}

Report = Callable[[str], None]


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Say what was tried."""
    return lambda text: FOUND.__setitem__(request.node.nodeid, text)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.outcome != "passed":
        OUTCOMES[report.nodeid] = report.outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    mine = {k: v for k, v in OUTCOMES.items() if "/robustness/" in k}
    if not mine:
        return
    terminalreporter.section("what was tried and found")
    verdicts = {"passed": "nothing lost, nothing out of order", "failed": "BROKEN, see above", "skipped": "not tried"}
    for node, outcome in mine.items():
        name = node.rpartition("::test_")[2].replace("_", " ")
        terminalreporter.write_line(f"{name}: {verdicts[outcome]}")
        if node in FOUND:
            terminalreporter.write_line(f"    {FOUND[node]}")
