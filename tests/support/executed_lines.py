"""A pytest plugin that notes which lines of some folders each test executes, and how long the test takes.

Used as ``pytest -p executed_lines`` with two environment variables: EXECUTED_ROOMS, the folders, separated as in PATH;
EXECUTED_LINES, the file to write.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

ROOMS = tuple(str(Path(room).resolve()) for room in os.environ.get("EXECUTED_ROOMS", "").split(os.pathsep) if room)
TESTS: dict[str, dict[str, Any]] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    lines: set[tuple[str, int]] = set()

    def trace(frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(ROOMS):
            return None
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    began = time.monotonic()
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        found = sorted((str(Path(file).relative_to(Path.cwd())), line) for file, line in lines)
        TESTS[item.nodeid] = {"seconds": time.monotonic() - began, "lines": found}


def pytest_sessionfinish() -> None:
    Path(os.environ["EXECUTED_LINES"]).write_text(json.dumps(TESTS), encoding="utf-8")
