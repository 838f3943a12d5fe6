"""Runs the command line in a forked child, so that its end is explained whatever ends it.

A TARGET runs in this very process otherwise, where ``os._exit`` would end fxgrad as if all were well, and a crash of
PyTorch without a word. On Linux only; elsewhere the command line runs here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from fxgrad.child_process import CrashLog, describe_end, end_with_parent
from fxgrad.errors import TargetError

_ENDING = (signal.SIGTERM, signal.SIGHUP) if sys.platform != "win32" else ()
_STDERR = 2
_SECONDS_TO_INTERRUPT = 1.0
_SECONDS_TO_END = 10.0
_FROM_KERNEL = 128
"""``SI_KERNEL``: the terminal's Ctrl-C, which goes to the child, too."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came. What is interrupted ends its own children and takes its temporary files away."""


def run_supervised(run: Callable[[], int]) -> int:
    """The exit status that `run` returns in a forked child. It returns in the child as well, with the same status.

    Signals that end a program are passed on, and end this process as they would have ended it. Raises TargetError where
    the child ends before `run` returns.
    """
    if sys.platform != "linux":
        return run()
    _fill_standard_descriptors()
    parent, crash_log, (answers, answer) = os.getpid(), CrashLog(), os.pipe()
    waited_for = {signal.SIGCHLD, signal.SIGINT, *_ENDING}
    child_handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    child = os.fork()
    if child == 0:
        os.close(answers)
        crash_log.watch()
        signal.signal(signal.SIGCHLD, child_handler)
        for number in _ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:  # under nohup it is ignored
                signal.signal(number, _terminate)
        end_with_parent(parent, by=signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        result = run()
        with contextlib.suppress(BrokenPipeError):  # the parent was killed
            os.write(answer, bytes([result]))
        return result
    os.close(answer)
    status, ended_by = _wait_for(child, waited_for)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if ended_by is not None:
        signal.signal(ended_by, signal.SIG_DFL)
        os.kill(parent, ended_by)
    place = crash_log.close()
    os.set_blocking(answers, False)  # what the target has left running may hold the other end
    try:
        return os.read(answers, 1)[0]
    except (BlockingIOError, IndexError):
        raise TargetError(
            f"the process that ran the target {describe_end(status)}{place}",
            "a target that does not end the process",
            "run that line without fxgrad, under python -X faulthandler"
            if status < 0
            else "see what it printed; os._exit, in it or in what it imports, ends a process like this",
        ) from None


def _terminate(number: int, _: FrameType | None) -> None:
    for ending in _ENDING:  # the second one would interrupt what cleans up
        signal.signal(ending, signal.SIG_IGN)
    raise Terminated(signal.Signals(number).name)


def _fill_standard_descriptors() -> None:
    """Open those that are closed, or the next file that is opened would be stdout."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)


def _wait_for(child: int, signals: set[signal.Signals]) -> tuple[int, signal.Signals | None]:
    """How the child ended, and the signal that ended both of them. Signals are passed on meanwhile."""
    ended_by, seconds = None, None
    while True:
        came = signal.sigwaitinfo(signals) if seconds is None else signal.sigtimedwait(signals, seconds)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), ended_by
        if came is None:  # it has not ended in time
            os.kill(child, signal.SIGINT if ended_by is None else signal.SIGKILL)
            seconds = None
        elif came.si_signo in _ENDING:
            ended_by, seconds = signal.Signals(came.si_signo), _SECONDS_TO_END
            os.kill(child, ended_by)
        elif came.si_signo == signal.SIGINT and came.si_code != _FROM_KERNEL:
            seconds = _SECONDS_TO_INTERRUPT  # whoever sent it may have sent it to the child, too
