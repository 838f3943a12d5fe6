"""Runs the command lines that the documents show, and compares what they print."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

# what differs from one machine to the next, in the line that says what the trace was made with
_VERSIONS = re.compile(r"fxgrad \S+, torch \S+ and Python [\d.]+\w*")


def printed_by(command: str, folder: Path) -> str:
    """The stdout of a command line that starts with ``fxgrad``, without trailing blanks; its exit status when not 0."""
    program, *arguments = shlex.split(command)
    assert program == "fxgrad", command
    done = subprocess.run(
        [sys.executable, "-m", "fxgrad", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    status = f"\n[exit status {done.returncode}]" if done.returncode else ""
    lines = [line.rstrip() for line in done.stdout.rstrip().splitlines()]
    return "\n".join(lines) + status


def without_versions(text: str) -> str:
    """The text with the versions of fxgrad, torch and Python taken out."""
    return _VERSIONS.sub("fxgrad, torch and Python", text)
