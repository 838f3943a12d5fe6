"""What a terminal shows: coloured unless NO_COLOR, never wider than it is, and nothing that it would obey."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len

import fxgrad

pty = pytest.importorskip("pty", reason="needs a pseudo-terminal: POSIX")
STYLE = re.compile(r"\x1b\[[\d;]*m")
PROGRAM = """
import torch
from torch import nn

def größe(module, grad_input, grad_output): pass

def build():
    model = nn.Sequential()
    for name in ("日本語のモジュール", "\\x1b[2J\\x07", "plain"):
        model.add_module(name, nn.LSTMCell(4, 4) if name == "plain" else nn.Linear(4, 4))
        model.get_submodule(name).register_backward_hook(größe)
    return model, (torch.ones(2, 4),)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved trace: it is explained without torch, so quickly."""
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "model.py").write_text(PROGRAM, encoding="utf-8")
    from fxgrad.api import trace_target
    from fxgrad.target_options import TargetOptions

    trace_target(TargetOptions(str(folder / "model.py"))).to_json(folder / "trace.json")
    return folder / "trace.json"


def shown(*arguments, columns, **environment):
    """What fxgrad writes to a terminal of that width."""
    master, slave = pty.openpty()
    settings = {"TERM": "xterm-256color", "COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8", **environment}
    base = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    command = [sys.executable, "-m", "fxgrad", *map(str, arguments)]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env={**base, **settings}) as process:
        os.close(slave)
        written = b"".join(iter(lambda: _read(master), b""))
    os.close(master)
    assert process.returncode == 0, written
    return written.decode().replace("\r\n", "\n")


def _read(master):
    try:
        return os.read(master, 4096)
    except OSError:  # Linux says so when the other end is closed
        return b""


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("command", ["report", "explain"])
def test_no_line_is_wider_than_the_terminal(saved, command, columns):
    lines = STYLE.sub("", shown(command, saved, columns=columns)).splitlines()
    assert max(map(cell_len, lines)) <= columns


def test_a_terminal_gets_colours(saved):
    assert STYLE.search(shown("explain", saved, columns=80))


@pytest.mark.parametrize("settings", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_that_wants_none_gets_no_colours(saved, settings):
    colours = re.compile(r"\x1b\[[\d;]*3\d[;\dm]")
    assert not colours.search(shown("explain", saved, columns=80, **settings))


def test_nothing_that_a_terminal_obeys_comes_from_the_users_names(saved):
    text = STYLE.sub("", shown("report", saved, columns=120))
    assert "\\x1b[2J\\x07" in text
    assert all(char.isprintable() or char == "\n" for char in text)


def test_a_terminal_says_what_a_pipe_says(saved):
    words = STYLE.sub("", shown("explain", saved, columns=400)).split()
    piped = str(fxgrad.load(saved).explain()).replace("`", "").split()
    assert words == piped
