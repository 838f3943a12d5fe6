"""Runs the command lines that the documents show, and compares what they print."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from pathlib import Path

from fxgrad.cli import main

# what differs from one machine to the next, in the line that says what the trace was made with
_VERSIONS = re.compile(r"fxgrad \S+, torch \S+ and Python [\d.]+\w*")


def printed_by(command: str, folder: Path) -> str:
    """The stdout of a command line that starts with ``fxgrad``, without trailing blanks; its exit status when not 0."""
    program, *arguments = shlex.split(command)
    assert program == "fxgrad", command
    printed = io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            status = main(arguments)
    finally:
        os.chdir(before)
    lines = [line.rstrip() for line in printed.getvalue().rstrip().splitlines()]
    return "\n".join(lines) + (f"\n[exit status {status}]" if status else "")


def without_versions(text: str) -> str:
    """The text with the versions of fxgrad, torch and Python taken out."""
    return _VERSIONS.sub("fxgrad, torch and Python", text)
