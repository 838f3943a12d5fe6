"""The only place that runs a layout engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from fxgrad.errors import OutputError
from fxgrad.graph.text import escape

SHOWN_LINES = 3

_WATCH = """
import ctypes, os, signal, sys
parent = int(sys.argv[1])
if sys.platform == "linux":
    try:
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass
if os.getppid() != parent:
    sys.exit(1)
"""
"""Has the process end with its parent, by whatever that ends. Its children would not: dot takes its place."""
_INSTALLED_ENGINE = f"{_WATCH}os.execv(sys.argv[2], sys.argv[2:])"
_BUNDLED_ENGINE = f"""{_WATCH}
prog, format = sys.argv[2:4]
sys.path[:] = sys.argv[4:]
import pygraphviz
for source in sys.stdin.buffer.read().decode().split("\\0"):
    sys.stdout.buffer.write(pygraphviz.AGraph(string=source).draw(format=format, prog=prog))
"""
"""Run with the caller's import path: the working directory may hold a file that hides a module."""


class LayoutTooSlow(OutputError):
    """The engine was not ready in time. A picture with more modules closed is."""


def run_engine(sources: Sequence[str], format: str, *, prog: str = "dot", timeout: float | None = None) -> bytes:
    """Lay DOT graphs out, and write each in a format of Graphviz's, one after the other.

    ``dot`` does it where it is on the PATH, otherwise the engine in pygraphviz's wheel; either in a process of its
    own, so that a crash or a warning of the C library stays away from the caller, and which ends with the caller.

    Raises `LayoutTooSlow` after `timeout` seconds, `OutputError` where the engine fails.
    """
    dot = shutil.which("dot")
    try:
        run = subprocess.run(
            _find_engine(dot, format, prog),
            input=("\n" if dot else "\0").join(sources).encode(),
            capture_output=True,
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise LayoutTooSlow(
            "the layout took too long",
            "a picture that is laid out in time",
            "a smaller depth (depth, --depth), one module (module, --module), or a longer timeout (timeout, --timeout)",
        ) from None
    except OSError as error:
        raise _make_error(str(error)) from error
    if run.returncode or not run.stdout:
        raise _make_error(run.stderr.decode(errors="replace"))
    return run.stdout


def _find_engine(dot: str | None, format: str, prog: str) -> list[str]:
    parent = str(os.getpid())
    if dot is None:
        return [sys.executable, "-c", _BUNDLED_ENGINE, parent, prog, format, *sys.path]
    return [sys.executable, "-I", "-S", "-c", _INSTALLED_ENGINE, parent, dot, f"-K{prog}", f"-T{format}"]


def _make_error(errors: str) -> OutputError:
    last = "; ".join(escape(line) for line in errors.strip().splitlines()[-SHOWN_LINES:])
    return OutputError(
        f"the layout engine failed: {last or 'no message'}",
        "a working `dot` on the PATH, or pygraphviz",
        "pip install pygraphviz; or write a .dot file, which needs no layout",
    )
