from __future__ import annotations

import io
import sys
import time

import pytest

from fxgrad.cli.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def put_terminal(monkeypatch):
    """In the test itself: pytest sets sys.stderr once more between a fixture and its test."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def wait_for(stream, text):
    deadline = time.monotonic() + 10
    while text not in stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.001)
    return stream.getvalue()


def fail_after(stream, text):
    assert text in wait_for(stream, text)
    raise ZeroDivisionError


def test_long_work_is_told_after_twice_the_time_each_time(monkeypatch):
    terminal = put_terminal(monkeypatch)
    with progress("tracing model.py", first=0.0078125):
        shown = wait_for(terminal, "0.03125 s")
    assert shown.splitlines()[:3] == [
        "fxgrad: tracing model.py, 0.0078125 s",
        "fxgrad: tracing model.py, 0.015625 s",
        "fxgrad: tracing model.py, 0.03125 s",
    ]


def test_short_work_is_not_told(monkeypatch):
    terminal = put_terminal(monkeypatch)
    with progress("tracing model.py"):
        pass
    assert terminal.getvalue() == ""


def test_nothing_is_told_where_stderr_is_no_terminal(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("tracing model.py", first=0.0):
        time.sleep(0.01)
    assert stream.getvalue() == ""


def test_nothing_is_told_where_stderr_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with progress("tracing model.py"):
        pass


def test_telling_ends_when_the_work_fails(monkeypatch):
    terminal = put_terminal(monkeypatch)
    with pytest.raises(ZeroDivisionError), progress("tracing model.py", first=0.001):
        fail_after(terminal, "0.001 s")
    time.sleep(0.01)
    told = terminal.getvalue()
    time.sleep(0.02)
    assert terminal.getvalue() == told
