"""What all tests share: how many processes run them, golden files, and what is shown at the end of the run."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tally
from hypothesis import HealthCheck, settings
from interpreters import fast_interpreters  # noqa: F401
from module_hooks import notebook  # noqa: F401

# how long an example takes depends on what else runs, and says nothing about fxgrad
settings.register_profile("fxgrad", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fxgrad")

REPOSITORY = Path(__file__).resolve().parent.parent


WORKERS = 8
"""More gain nothing: each has to import torch first."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Measurements disturb each other: they run in one process."""
    return 0 if config.option.markexpr == "benchmark" else min(os.cpu_count() or 1, WORKERS)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--overwrite", action="store_true", help="write what is printed now into the golden files")
    parser.addoption(
        "--models", type=int, help="how many random models of each sort the oracle makes, instead of a few"
    )


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture
def overwrite(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--overwrite"))


@pytest.fixture(autouse=True)
def without_process_group() -> Iterator[None]:
    """A sharded program starts a process group of one, which the next could not start again."""
    yield
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def pytest_collection_finish() -> None:
    """What is there by now stays: neither the garbage collector nor fxgrad's search for tensors looks at it again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In one of several processes: hand over what was counted."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tallies"] = tally.to_json()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what one of several processes counted; one that crashed hands nothing over."""
    tally.take(getattr(node, "workeroutput", {}).get("tallies", "{}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the oracles and the fuzz suite tried."""
    lines = list(tally.report())
    if lines:
        terminalreporter.section("what was tried")
        terminalreporter.write_line("\n".join(lines))
