"""Runs work in a forked child, which may do to this process's objects what must not be done to the originals.

A live model cannot be sent anywhere else: its hooks are closures. The child is a copy of the process with everything in
it; its answer is text, so nothing is unpickled.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

import torch

from fxgrad.errors import FxgradError, TargetError, UsageError, error_from_dict

CHUNK = 1 << 20
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
    read_end, write_end = os.pipe()
    child = _fork()
    if child == 0:
        os.close(read_end)
        _run_child(work, write_end)
    os.close(write_end)
    try:
        message = _receive(read_end, None if timeout is None else time.monotonic() + timeout)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(read_end)
        status = _reap(child)
    return _read_answer(message, status)


def can_fork() -> bool:
    """Whether `in_forked_child` is possible and safe here."""
    return _explain_no_fork() is None


def _refuse_unsafe_fork() -> None:
    reason = _explain_no_fork()
    if reason is not None:
        raise UsageError(
            f"a live model on an emulated device: {reason}",
            "a process that can be forked: Linux, without a GPU in use",
            "put the model into a file and use it as a TARGET, which runs in an interpreter of its own",
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


def _run_child(work: Callable[[], str], write_end: int) -> NoReturn:
    """Never returns into the code of the parent, and runs nothing of what the parent registered to run at exit."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        torch.set_num_threads(1)  # OpenMP's threads are not copied by a fork
        _send(write_end, _call_work(work))
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
        given = f"the target left the interpreter: SystemExit({error.code!r})"
    return TargetError(given, _ALLOWED, _SUGGESTION).to_dict() | {"traceback": text}


def _send(write_end: int, message: bytes) -> None:
    unsent = memoryview(len(message).to_bytes(8, "big") + message)
    while unsent:
        unsent = unsent[os.write(write_end, unsent) :]


def _receive(read_end: int, deadline: float | None) -> bytes | None:
    """The child's message, None where it ended without a whole one.

    It is as long as its first 8 bytes say, so that a process which the child left behind cannot hold it up.
    """
    header = _read_exactly(read_end, 8, deadline)
    return None if header is None else _read_exactly(read_end, int.from_bytes(header, "big"), deadline)


def _read_exactly(read_end: int, size: int, deadline: float | None) -> bytes | None:
    chunks: list[bytes] = []
    while size:
        _wait_for(read_end, deadline)
        chunk = os.read(read_end, min(size, CHUNK))
        if not chunk:
            return None
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def _wait_for(read_end: int, deadline: float | None) -> None:
    poll = select.poll()
    poll.register(read_end, select.POLLIN)
    remaining = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
    if not poll.poll(remaining):
        raise TargetError(
            "the traced model takes too long", "work that ends in time", "a smaller model, or a longer timeout"
        )


def _reap(child: int) -> int | None:
    """How the child ended; None where someone else has collected it (SIGCHLD ignored)."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:
        return None


def _read_answer(message: bytes | None, status: int | None) -> str:
    if message is None:
        raise TargetError(f"the forked child {_describe_end(status)}", _ALLOWED, _SUGGESTION)
    if message[:1] == RESULT:
        return message[1:].decode("utf-8", "surrogatepass")
    described = json.loads(message[1:])
    raise error_from_dict(described) from ChildTraceback("\n" + described["traceback"])


def _describe_end(status: int | None) -> str:
    if status is None:
        return "ended without an answer"
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with exit status {status} before it had an answer"


def _flush_streams() -> None:
    """So that what is buffered is written once: by the process that it belongs to."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()


_ALLOWED = "a model whose forward runs on the emulated CUDA device"
_SUGGESTION = "trace on the CPU, or on a machine with a CUDA device"
