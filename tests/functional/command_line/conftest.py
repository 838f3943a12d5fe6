"""Targets in files of their own, and command lines that fail."""

from __future__ import annotations

import re
import textwrap

import pytest

from fxgrad.cli import main
from tests.support.targets import HEAD, MODEL


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder of the test, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(folder):
    def write_file(text, name="model.py"):
        (folder / name).write_text(HEAD + textwrap.dedent(text), encoding="utf-8")
        return name

    return write_file


@pytest.fixture
def model(write):
    return write(MODEL)


@pytest.fixture
def fails(capsys):
    """Run a command line that fails: its status, and what stderr says. No error may lack one of its three parts."""

    def run(*arguments):
        status = main(arguments)
        out, err = capsys.readouterr()
        assert out == ""
        assert re.search(r"^error: .+\n(?:.*\n)*  allowed: .+\n(?:.*\n)*  try: .+", err, re.M), err
        return status, err

    return run
