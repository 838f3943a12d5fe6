"""Running the layout engine: which one, what it is asked, how it fails, and that it ends when it should."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fxgrad.errors import OutputError
from fxgrad.render.drawing.engine import LayoutTooSlow, run_engine

SOURCE = 'digraph { a [label="x"]; a -> b }'
BEGINS = {"svg": b"<?xml", "png": b"\x89PNG\r\n", "pdf": b"%PDF-", "json0": b"{"}


@pytest.fixture
def engine_on_path(tmp_path, monkeypatch):
    """Puts a program called dot on the PATH: a Python script."""

    def put(script):
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "dot"
        program.write_text(f"#!{sys.executable}\n{script}")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return put


@pytest.fixture
def no_engine_on_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("format", BEGINS)
def test_without_dot_on_the_path_the_bundled_engine_draws(no_engine_on_path, format):
    assert run_engine([SOURCE], format).startswith(BEGINS[format])


def test_dot_on_the_path_is_used(engine_on_path):
    engine_on_path("import sys; print(*sys.argv[1:], sys.stdin.read())")
    assert run_engine([SOURCE], "svg").decode() == f"-Kdot -Tsvg {SOURCE}\n"


def test_an_engine_that_fails_is_quoted_with_its_last_lines(engine_on_path):
    engine_on_path("import sys; sys.exit('one\\ntwo\\nthree\\nfour')")
    with pytest.raises(OutputError) as error:
        run_engine([SOURCE], "svg")
    assert error.value.given == "the layout engine failed: two; three; four"


def test_an_engine_that_writes_nothing_has_failed(engine_on_path):
    engine_on_path("")
    with pytest.raises(OutputError, match="the layout engine failed: no message"):
        run_engine([SOURCE], "svg")


def test_an_engine_that_cannot_be_started_has_failed(engine_on_path):
    engine_on_path("")
    Path(os.environ["PATH"], "dot").write_text("#!/no/such/interpreter\n")
    with pytest.raises(OutputError, match="the layout engine failed"):
        run_engine([SOURCE], "svg")


def test_source_that_is_no_dot_is_an_error_of_the_engine(no_engine_on_path):
    with pytest.raises(OutputError, match="the layout engine failed"):
        run_engine(["digraph {"], "svg")


def test_the_engine_leaves_the_terminal_alone(no_engine_on_path, capfd):
    run_engine([SOURCE], "svg")
    assert capfd.readouterr() == ("", "")


def test_a_module_in_the_working_directory_does_not_get_in_the_way(no_engine_on_path, tmp_path, monkeypatch):
    (tmp_path / "pygraphviz.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert run_engine([SOURCE], "svg").startswith(b"<?xml")


def test_several_graphs_are_laid_out_by_one_process_in_their_order(no_engine_on_path):
    written = run_engine(["digraph { one }", "digraph { two }"], "json0").decode()
    assert 0 < written.index('"one"') < written.index('"two"')


@pytest.mark.parametrize("waiting", ["import time; time.sleep(60)", "print(sum(iter(int, 1)))"])
def test_an_engine_that_is_too_slow_is_ended(engine_on_path, tmp_path, waiting):
    engine_on_path(f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); {waiting}")
    started = time.monotonic()
    with pytest.raises(LayoutTooSlow, match="the layout took too long"):
        run_engine([SOURCE], "svg", timeout=0.5)
    assert time.monotonic() - started < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


CALLER = """
import signal
from fxgrad.render.drawing.engine import run_engine
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it from the start
run_engine(['digraph {}'], 'svg')
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_engine_ends_with_its_caller(engine_on_path, tmp_path, by):
    note = tmp_path / "pid"
    engine_on_path(f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    caller = subprocess.Popen([sys.executable, "-c", CALLER], stderr=subprocess.DEVNULL)
    try:
        _wait_until(lambda: note.exists() and note.read_text())
        caller.send_signal(by)
        caller.wait(30)
        engine = int(note.read_text())
        _wait_until(lambda: not _is_running(engine))
    finally:
        caller.kill()
        caller.wait()


def _wait_until(is_so):
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def _is_running(process):
    """An ended one may wait for whoever inherits it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
