"""What all tests share: renewing golden files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


WORKERS = 8
"""More gain nothing: each has to import torch first."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process for measurements, and for what prints a table of what it tried."""
    return min(os.cpu_count() or 1, WORKERS) if config.option.markexpr.startswith("not ") else 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--overwrite", action="store_true", help="write what is printed now into the golden files")


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture
def overwrite(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--overwrite"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many hostile inputs were tried, by category, where the fuzz suite ran."""
    fuzzing = sys.modules.get("fuzzing")
    for line in fuzzing.tally_lines() if fuzzing is not None else ():
        terminalreporter.write_line(f"fuzz: {line}")
