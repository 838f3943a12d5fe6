"""Runs work in a forked child, which may do to this process's objects what must not be done to the originals.

A live model cannot be sent anywhere else: its hooks are closures. A TARGET could be, but a child has torch imported
already. It is a copy of the process with everything in it; its answer is text, so nothing is unpickled.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NoReturn

import torch

from fxgrad.child_process import CrashLog, describe_end, end_with_parent
from fxgrad.errors import FxgradError, TargetError, UsageError, error_from_dict
from fxgrad.graph.text import escape

RESULT, ERROR = b"R", b"E"


class ChildTraceback(Exception):
    """Where in the forked child its error was raised, as text: the cause of the error that is raised here."""


def in_forked_child(work: Callable[[], str], *, timeout: float | None = None) -> str:
    """Run `work` in a forked child and return the text that it returns; this process stays as it was.

    Nothing that was registered to run at exit runs in the child. `timeout` is in seconds; None waits for ever.

    Raises UsageError where forking is not possible or not safe; the child's own error, of the same kind where it is
    an FxgradError and else a TargetError, with the child's traceback as its cause; TargetError where the child exits,
    is killed, or takes longer than `timeout`.

    >>> in_forked_child(lambda: "text from another process")
    'text from another process'
    """
    _refuse_unsafe_fork()
    _flush_streams()
    answers, answer = multiprocessing.Pipe(duplex=False)
    parent, crash_log = os.getpid(), CrashLog()
    child = _fork()
    if child == 0:
        answers.close()
        end_with_parent(parent, by=signal.SIGKILL)
        crash_log.watch()
        _run_child(work, answer)
    answer.close()
    try:
        message = _receive(answers, timeout)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        answers.close()
        status = _reap(child)
        place = crash_log.close()
    return _read_answer(message, f"{describe_end(status)}{place}")


def can_fork() -> bool:
    """Whether `in_forked_child` is possible and safe here."""
    return _explain_no_fork() is None


def _refuse_unsafe_fork() -> None:
    reason = _explain_no_fork()
    if reason is not None:
        raise UsageError(
            f"a live model on an emulated device: {reason}",
            "a process that can be forked: Linux, without a GPU in use",
            "put the model into a file and use it as a TARGET, which runs in its own interpreter",
        )


def _explain_no_fork() -> str | None:
    if not hasattr(os, "fork"):
        return f"{sys.platform} cannot fork"
    if sys.platform == "darwin":
        return "on macOS system libraries do not survive a fork"
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return "CUDA is initialised in this process and does not survive a fork"
    return None


def _fork() -> int:
    """Fork with the garbage collection of the child off from its first moment: finalizers of the parent's objects are
    the parent's. Python 3.12 and later warn of threads; the child calls nothing that another thread could have locked
    for good."""
    was_enabled = gc.isenabled()
    gc.disable()
    child = -1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
            return child
    finally:
        if was_enabled and child != 0:
            gc.enable()


def _run_child(work: Callable[[], str], answer: Connection) -> NoReturn:
    """Never returns into the code of the parent, and runs nothing of what the parent registered to run at exit."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        torch.set_num_threads(1)  # OpenMP's threads are not copied by a fork
        answer.send_bytes(_call_work(work))
        _flush_streams()
        status = 0
    finally:
        os._exit(status)


def _call_work(work: Callable[[], str]) -> bytes:
    try:
        return RESULT + work().encode("utf-8", "surrogatepass")
    except BaseException as error:  # also SystemExit: the child must not leave by it
        return ERROR + json.dumps(_describe_error(error)).encode()


def _describe_error(error: BaseException) -> dict[str, str]:
    text = "".join(traceback.format_exception(error))
    if isinstance(error, FxgradError):
        return error.to_dict() | {"traceback": text}
    given = "".join(traceback.format_exception_only(error)).strip()
    if isinstance(error, SystemExit):
        given = f"the target exited the interpreter: SystemExit({error.code!r})"
    return TargetError(given, _ALLOWED, _SUGGESTION).to_dict() | {"traceback": text}


def _receive(answers: Connection, timeout: float | None) -> bytes | None:
    """The child's message, None where it ended without a whole one. A process that the child left behind may hold its
    end of the pipe open: the message says how long it is."""
    if not answers.poll(timeout):
        raise TargetError(
            "the traced model takes too long", "a run that ends in time", "a smaller model, or a longer timeout"
        )
    try:
        return answers.recv_bytes()
    except (EOFError, OSError):
        return None


def _reap(child: int) -> int | None:
    """How the child ended; None where someone else has collected it (SIGCHLD ignored)."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:
        return None


def _read_answer(message: bytes | None, end: str) -> str:
    if message is None:
        raise TargetError(
            f"the forked child {escape(end)}",
            "a model and a target that do not end the process",
            "see what it printed; trace it on the CPU to see whether it ends there, too",
        )
    if message[:1] == RESULT:
        return message[1:].decode("utf-8", "surrogatepass")
    described = json.loads(message[1:])
    raise error_from_dict(described) from ChildTraceback("\n" + described["traceback"])


def _flush_streams() -> None:
    """So that what is buffered is written once: by the process that it belongs to."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


_ALLOWED = "a model whose forward runs on the emulated CUDA device"
_SUGGESTION = "trace on the CPU, or on a machine with a CUDA device"
