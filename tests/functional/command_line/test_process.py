"""The process: what it imports, pipes, interrupts; and its help."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from click import Context

from fxgrad.cli import main
from fxgrad.cli.commands import fxgrad as command_line
from tests.support.needs import needs_emulation
from tests.support.processes import has_ended, wait_until
from tests.support.targets import MODEL, python


def test_help_imports_click_and_nothing_heavier():
    heavy = {"torch", "numpy", "networkx", "rich", "graphviz", "pygraphviz", "sympy"}
    code = f"import sys; from fxgrad.cli import main; main(['report', '--help']); print({heavy!r} & sys.modules.keys())"
    assert python("-c", code).stdout.endswith("\nset()\n")


def test_a_saved_trace_needs_no_torch(model, capsys):
    main(["report", model, "--json", "trace.json"])
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from fxgrad.cli import main\n"
        "sys.exit(main(['report', 'trace.json', '--svg', 'a.svg']) or main(['explain', 'trace.json']))"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "wrote a.svg\n")


def test_a_reader_that_goes_early_is_no_error(model):
    command = f"{shlex.quote(sys.executable)} -m fxgrad report {model}; echo $? >&2"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == "0\n"


@pytest.mark.parametrize(("closed", "status"), [(">&-", 4), ("2>&-", 0), (">&- 2>&-", 4), ("<&-", 0)])
def test_what_cannot_be_shown_is_an_output_error(model, closed, status):
    command = f"{shlex.quote(sys.executable)} -m fxgrad report {model} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stderr.startswith("error: cannot write to stdout: it is closed\n") or closed != ">&-"


def test_nothing_piped_is_coloured(model):
    done = python("-m", "fxgrad", "report", model, env={**os.environ, "TERM": "xterm-256color"})
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr


@pytest.fixture
def interruptible():
    """What is started now can be interrupted, also where this process ignores interrupts, as under nohup."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("whole_group", [True, False], ids=["the terminal's Ctrl-C", "a signal to fxgrad alone"])
@pytest.mark.parametrize(
    "options", [[], pytest.param(["--device", "cuda"], marks=needs_emulation)], ids=["cpu", "cuda"]
)
def test_an_interrupt_ends_everything_without_a_traceback(write, folder, options, whole_group):
    file = write("""
        import os, time
        class Slow(nn.Module):
            def forward(self, x):
                os.rename("pid.part", "pid")
                time.sleep(100)
        def build():
            with open("pid.part", "w") as file:
                file.write(str(os.getpid()))
            return Slow(), (torch.ones(2, requires_grad=True),)
    """)
    command = [sys.executable, "-m", "fxgrad", "report", file, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not (folder / "pid").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60)[1] == "\ninterrupted\n"
    assert process.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "pid").read_text()), 0)


WAITING = """
    import os, time
    def tell():
        with open("pid.part", "w") as file:
            file.write(str(os.getpid()))
        os.rename("pid.part", "pid")
        time.sleep(100)
    class Slow(nn.Linear):
        def forward(self, x):
            tell()
            return super().forward(x)
    def build():
        return Slow(2, 2), torch.ones(1, 2)
"""
DOT = "#!/bin/sh\necho $$ > pid.part\nmv pid.part pid\nexec sleep 100\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("report", signal.SIGHUP),
        ("report", signal.SIGKILL),
        ("draw -o a.svg", signal.SIGTERM),
        ("draw -o a.svg", signal.SIGKILL),
        pytest.param("report --device cuda", signal.SIGTERM, marks=needs_emulation),
        pytest.param("report --device cuda", signal.SIGKILL, marks=needs_emulation),
        pytest.param("verify --device cuda", signal.SIGTERM, marks=needs_emulation),
    ],
)
def test_a_signal_that_ends_fxgrad_leaves_nothing_behind(write, model, folder, command, number):
    """Neither a child nor a temporary folder; SIGKILL cannot be answered, but ends the children as well."""
    name = model if "draw" in command else write(WAITING, "waiting.py")
    (folder / "temporary").mkdir()
    (folder / "bin").mkdir()
    (folder / "bin" / "dot").write_text(DOT)
    (folder / "bin" / "dot").chmod(0o755)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    with subprocess.Popen(
        [sys.executable, "-m", "fxgrad", *command.split(), name],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder / "temporary"), "PATH": path},
    ) as process:
        wait_until(lambda: (folder / "pid").exists() or process.poll() is not None)
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
    assert (process.returncode, error) == (-number, "\nterminated\n")
    wait_until(lambda: has_ended(int((folder / "pid").read_text())))
    wait_until(lambda: not list((folder / "temporary").glob("fxgrad*")))


CRASHING = """
    import ctypes, os
    class Crash(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2
        @staticmethod
        def backward(ctx, grad):
            ctypes.string_at(0)  # in backward
    class Model(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.act = act
        def forward(self, x):
            return self.act(x)
    def crash(x):
        return ctypes.string_at(0)  # in forward
    def leave(x):
        os._exit(0)
    def in_forward(): return Model(crash), torch.ones(2, requires_grad=True)
    def in_backward(): return Model(Crash.apply), torch.ones(2, requires_grad=True)
    def leaves(): return Model(leave), torch.ones(2, requires_grad=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize(
    ("command", "factory", "end"),
    [
        ("check", "in_forward", "killed by SIGSEGV at model.py:{line}, in crash"),
        ("verify", "in_backward", "killed by SIGSEGV at model.py:{line}, in backward"),
        pytest.param(
            "report --device cuda",
            "in_forward",
            "killed by SIGSEGV at model.py:{line}, in crash",
            marks=needs_emulation,
        ),
        ("check", "leaves", "ended with exit status 0 before it had a result"),
    ],
)
def test_a_target_that_ends_the_process_is_an_error_with_its_line(write, folder, command, factory, end):
    lines = (folder / write(CRASHING)).read_text().splitlines()
    (line,) = [number for number, text in enumerate(lines, 1) if text.endswith(f"# {factory.replace('_', ' ')}")] or [0]
    done = python("-m", "fxgrad", *command.split(), f"model.py:{factory}")
    assert done.returncode == 3
    assert done.stdout == ""
    assert end.format(line=line) in done.stderr
    assert re.search(r"^error: .+\n  allowed: .+\n  try: .+\n$", done.stderr)


def test_a_deleted_folder_is_no_place_to_run_in(model, folder):
    command = f"mkdir gone; cd gone; rmdir ../gone; {shlex.quote(sys.executable)} -m fxgrad report {folder / model}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: the current folder was deleted")


def test_an_argument_parser_of_the_target_does_not_see_fxgrads_options(write):
    file = write("import argparse\nargparse.ArgumentParser().parse_args()" + MODEL)
    assert main(["report", file]) == 0


# The help


def examples():
    """Every example in the help, in the order in which the help shows them."""
    context = Context(command_line, info_name="fxgrad")
    pages = [command_line.get_help(context)]
    for name in command_line.list_commands(context):
        command = command_line.commands[name]
        pages.append(command.get_help(Context(command, info_name=name, parent=context)))
    return [line.strip() for page in pages for line in page.splitlines() if line.startswith("    fxgrad ")]


def test_every_command_shows_examples():
    shown = examples()
    assert {line.split()[1] for line in shown} == set(command_line.commands)


def test_every_example_in_the_help_runs(model, capsys):
    assert [(line, main(shlex.split(line)[1:])) for line in examples()] == [(line, 0) for line in examples()], (
        capsys.readouterr().err
    )
