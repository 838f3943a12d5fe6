from __future__ import annotations

import io
import os
import sys
import time

import pytest

from fxgrad.cli.output import File, check_distinct, progress, show, write_files
from fxgrad.errors import OutputError, UsageError


class Result:
    def __str__(self):
        return "plain\n"

    def __rich__(self):
        return "[bold]rich[/bold]"


class Terminal(io.StringIO):
    def isatty(self):
        return True


class FileTerminal:
    """A terminal of which nothing but the descriptor can be used: its lock may be taken."""

    def __init__(self, path):
        self.path, self.descriptor = path, os.open(path, os.O_WRONLY | os.O_CREAT)

    def __del__(self):
        os.close(self.descriptor)

    def isatty(self):
        return True

    def fileno(self):
        return self.descriptor

    def getvalue(self):
        return self.path.read_text()


class Failing(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def flush(self):
        raise self.error


def test_a_pipe_gets_plain_text_that_ends_in_one_newline(capsys):
    show(Result())
    assert capsys.readouterr() == ("plain\n", "")


def test_a_terminal_gets_what_rich_shows(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    show(Result())
    assert "rich" in terminal.getvalue()


def test_a_terminal_gets_plain_text_of_what_rich_does_not_know(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    show("[bold]as it is[/bold]")
    assert terminal.getvalue() == "[bold]as it is[/bold]\n"


def test_a_reader_that_has_gone_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Failing(BrokenPipeError()))
    show("text")


def test_a_closed_stdout_is_an_output_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="cannot write to stdout: it is closed"):
        show("text")


def test_a_full_disk_is_an_output_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Failing(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="cannot write to stdout: No space left on device"):
        show("text")


def test_files_are_written_and_named(tmp_path, capsys):
    files = [File(str(tmp_path / "a"), lambda: "é"), File(str(tmp_path / "b"), lambda: "\ud800")]
    write_files(files)
    assert (tmp_path / "a").read_text("utf-8") == "é"
    assert (tmp_path / "b").read_text("utf-8") == "\\ud800"
    assert capsys.readouterr() == ("", f"wrote {tmp_path / 'a'}\nwrote {tmp_path / 'b'}\n")


def test_a_file_that_cannot_be_written_does_not_keep_the_others_back(tmp_path):
    files = [File(str(tmp_path / name), lambda: "text") for name in ("a", "missing/b", "c", "missing/d")]
    with pytest.raises(OutputError) as caught:
        write_files(files)
    assert caught.value.given.splitlines() == [
        f'cannot write "{tmp_path / "missing/b"}": No such file or directory',
        f'cannot write "{tmp_path / "missing/d"}": No such file or directory',
        f"written: {tmp_path / 'a'}, {tmp_path / 'c'}",
    ]
    assert (tmp_path / "c").read_text() == "text"


def test_one_file_that_cannot_be_written_says_no_more_than_that(tmp_path):
    with pytest.raises(OutputError) as caught:
        write_files([File(str(tmp_path), lambda: "text")])
    assert "\n" not in caught.value.given


def test_one_file_for_two_outputs_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"a\.svg is given for two outputs"):
        check_distinct(["a.svg", "./a.svg"], target="model.py")


@pytest.mark.parametrize("target", ["model.py", "model.py:build", "./model.py"])
def test_the_targets_own_file_is_not_written_over(tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").touch()
    with pytest.raises(UsageError, match=r"the output model\.py is the target"):
        check_distinct(["a.svg", "model.py"], target=target)


def test_different_files_pass():
    check_distinct(["a.svg", "a.json"], target="model.py")


# Progress


def put_terminal(monkeypatch, tmp_path):
    """In the test itself: pytest sets sys.stderr once more between a fixture and its test."""
    stream = FileTerminal(tmp_path / "stderr")
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


def test_long_work_is_told_after_twice_the_time_each_time(monkeypatch, tmp_path):
    terminal = put_terminal(monkeypatch, tmp_path)
    with progress("tracing model.py", first=0.0078125):
        shown = wait_for(terminal, "0.03125 s")
    assert shown.splitlines()[:3] == [
        "fxgrad: tracing model.py, 0.0078125 s",
        "fxgrad: tracing model.py, 0.015625 s",
        "fxgrad: tracing model.py, 0.03125 s",
    ]


def test_short_work_is_not_told(monkeypatch, tmp_path):
    terminal = put_terminal(monkeypatch, tmp_path)
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


def test_telling_ends_when_the_work_fails(monkeypatch, tmp_path):
    terminal = put_terminal(monkeypatch, tmp_path)
    with pytest.raises(ZeroDivisionError), progress("tracing model.py", first=0.001):
        fail_after(terminal, "0.001 s")
    time.sleep(0.01)
    told = terminal.getvalue()
    time.sleep(0.02)
    assert terminal.getvalue() == told
