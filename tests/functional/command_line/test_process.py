"""The process: what it imports, pipes, interrupts; and its help."""

from __future__ import annotations

import os
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


def test_a_closed_stdout_is_no_error(model):
    done = python(
        "-c", f"import sys; sys.stdout = None\nfrom fxgrad.cli import main\nsys.exit(main(['report', {model!r}]))"
    )
    assert (done.returncode, done.stderr) == (0, "")


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
