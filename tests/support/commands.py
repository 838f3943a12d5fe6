"""Runs the command lines that the documents show, and compares what they print."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from pathlib import Path

import torch._dynamo  # noqa: F401 - what FakeTensorMode imports at its first use, here once instead of in every child

from fxgrad.cli import main

# what differs from one machine to the next, in the line that says what the trace was made with
_VERSIONS = re.compile(r"fxgrad \S+, torch \S+ and Python [\d.]+\w*")


def printed_by(command: str, folder: Path, *, with_error: bool = False) -> str:
    """The stdout of a command line that starts with ``fxgrad``, without trailing blanks; its exit status when not 0.

    `with_error`: what it says of an error, too, without the traceback before that.
    """
    program, *arguments = shlex.split(command)
    assert program == "fxgrad", command
    printed, told = io.StringIO(), io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
            status = main(arguments)
    finally:
        os.chdir(before)
    error = "\nerror: " + told.getvalue().partition("error: ")[2] if with_error and "error: " in told.getvalue() else ""
    lines = [line.rstrip() for line in (printed.getvalue().rstrip() + error).strip().splitlines()]
    return "\n".join(lines) + (f"\n[exit status {status}]" if status else "")


def without_versions(text: str) -> str:
    """The text with the versions of fxgrad, torch and Python taken out."""
    return _VERSIONS.sub("fxgrad, torch and Python", text)
