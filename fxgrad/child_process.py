"""What a forked child needs so that it ends with its parent, and so that a crash in it can be explained."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import re
import signal
import sys
import sysconfig
import tempfile

_PR_SET_PDEATHSIG = 1
"""Of Linux's sys/prctl.h."""
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')
"""A line of what faulthandler writes (Python/traceback.c, dump_frame), the innermost frame first."""
_OWN = os.path.dirname(__file__) + os.sep
_PYTHONS = (sysconfig.get_path("stdlib") + os.sep, "<")
_INSTALLED = re.compile(r"[\\/](site|dist)-packages[\\/]")


def end_with_parent(parent: int, *, by: signal.Signals) -> None:
    """Send this process a signal when its parent ends, by whatever: on Linux; elsewhere nothing does that.

    `parent` is the process that has forked this one. It may have ended before this call.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(by))
        if os.getppid() != parent:
            os.kill(os.getpid(), by)


def describe_end(status: int | None) -> str:
    """How a process ended, by its exit status as subprocess has it; None is an unknown one.

    >>> describe_end(0), describe_end(-9)
    ('ended with exit status 0 before it had a result', 'was killed by SIGKILL')
    """
    if status is None:
        return "ended without a result"
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status} before it had a result"


class CrashLog:
    """What Python's faulthandler writes when a child crashes. Make it before the fork, and close it after."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self._descriptor = os.memfd_create("fxgrad")
        else:
            self._descriptor, path = tempfile.mkstemp()
            os.unlink(path)

    def watch(self) -> None:
        """In the child: have a crash of it written down."""
        faulthandler.enable(self._descriptor, all_threads=False)

    def close(self) -> str:
        """Where the child crashed, as `` at model.py:5, in forward``: the user's own line if there is one. "" if it did not.

        Nothing can be asked any more.
        """
        with open(self._descriptor, encoding="utf-8", errors="replace") as file:
            file.seek(0)
            frames = [match for line in file if (match := _FRAME.match(line)) and not match[1].startswith(_OWN)]
        own = [frame for frame in frames if not _INSTALLED.search(frame[1]) and not frame[1].startswith(_PYTHONS)]
        if not frames:
            return ""
        file_name, line, function = (own or frames)[0].groups()
        with contextlib.suppress(OSError, ValueError):  # it is on another drive, or the current folder is gone
            file_name = min(file_name, os.path.relpath(file_name), key=len)
        return f" at {file_name}:{line}, in {function}"
