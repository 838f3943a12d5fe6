"""One run of the command line: its exit status, and every error in one shape."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

import click

from fxgrad.cli.commands import fxgrad
from fxgrad.cli.options import Session
from fxgrad.errors import FxgradError, UsageError

OWN_MISTAKE = 70
"""``EX_SOFTWARE`` of sysexits.h: Python's own status for an uncaught exception, 1, means that something was found."""
INTERRUPTED = 130
_NO_NUMPY = "Failed to initialize NumPy"


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit status. Errors go to stderr."""
    _never_fail_to_encode()
    session = Session()
    try:
        status = fxgrad.main(list(arguments), prog_name="fxgrad", standalone_mode=False, obj=session)
        return int(status or 0)
    except click.ClickException as error:
        return _report(_usage_error(error), debug=False)
    except FxgradError as error:
        return _report(error, debug=session.debug)
    except click.Abort:
        _tell("interrupted")
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, ImportError) and "torch" not in sys.modules:
            return _report(_no_torch(error), debug=session.debug)
        _report(_own_mistake(error), debug=session.debug)
        return OWN_MISTAKE


def _never_fail_to_encode() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def pass_over_missing_numpy() -> None:
    """Let torch not tell that numpy is missing, which it does without, here and in the processes that this one starts.

    For a process that is fxgrad's own.
    """
    warnings.filterwarnings("ignore", _NO_NUMPY, UserWarning)
    options = [os.environ.get("PYTHONWARNINGS", ""), f"ignore:{_NO_NUMPY}:UserWarning"]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, options))


def _report(error: FxgradError, *, debug: bool) -> int:
    if debug:
        _tell(traceback.format_exc().rstrip("\n"))
    elif error.details:
        _tell(error.details)
    _tell(f"error: {error}")
    return error.exit_status


def _usage_error(error: click.ClickException) -> UsageError:
    """What click says, in the shape of all errors."""
    context = getattr(error, "ctx", None)
    if context is None:
        return UsageError(error.format_message(), "what fxgrad --help shows", "fxgrad --help")
    usage = " ".join(context.get_usage().removeprefix("Usage: ").split())
    return UsageError(error.format_message(), usage, f"{context.command_path} --help")


def _no_torch(error: ImportError) -> FxgradError:
    from fxgrad.graph.text import escape_unprintable

    return FxgradError(
        f"torch cannot be imported: {escape_unprintable(str(error))}",
        "an environment with torch, to run a target; a saved trace needs none",
        "pip install torch, or give the trace.json that was saved where torch is",
    )


def _own_mistake(error: Exception) -> FxgradError:
    said = traceback.format_exception_only(type(error), error)[-1].strip()
    return FxgradError(
        f"fxgrad itself failed: {said}",
        "no error of this kind: it is a mistake in fxgrad",
        "the same with --debug, which shows where; please report it",
    )


def _tell(text: str) -> None:
    """Write to stderr, which may be closed; what a terminal would obey is escaped."""
    with contextlib.suppress(OSError, ValueError):
        print("".join(map(_harmless, text)), file=sys.stderr)


def _harmless(char: str) -> str:
    if char.isprintable() or char in "\n\t":
        return char
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
