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
from fxgrad.cli.options import CliContext
from fxgrad.cli.supervision import Terminated, run_supervised
from fxgrad.errors import FxgradError, UsageError

OWN_MISTAKE = 70
"""``EX_SOFTWARE`` of sysexits.h: Python's own status for an uncaught exception, 1, means that something was found."""
INTERRUPTED = 130
_NO_NUMPY = "Failed to initialize NumPy"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``fxgrad`` with these arguments (by default the program's own) and return its exit status.

    0 fine; 1 found something (``verify``, ``check``, ``--strict``); 2 usage; 3 the target failed; 4 cannot draw or
    write; 70 a mistake of fxgrad itself; 130 interrupted. Errors go to stderr. Without arguments it is the program that
    was started, and runs in a child: see `fxgrad.cli.supervision`.
    """
    if arguments is not None:
        return _run(arguments)
    _hide_missing_numpy()
    try:
        return run_supervised(lambda: _run(sys.argv[1:]))
    except FxgradError as error:
        return _report(error, debug=False)


def _run(arguments: Sequence[str]) -> int:
    _never_fail_to_encode()
    cli_context = CliContext()
    try:
        status = fxgrad.main(list(arguments), prog_name="fxgrad", standalone_mode=False, obj=cli_context)
        return int(status or 0)
    except click.ClickException as error:
        return _report(_make_usage_error(error), debug=False)
    except FxgradError as error:
        return _report(error, debug=cli_context.debug)
    except click.Abort as error:
        _print_error("terminated" if isinstance(error.__cause__, Terminated) else "interrupted")
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, ImportError) and "torch" not in sys.modules:
            return _report(_make_torch_error(error), debug=cli_context.debug)
        _report(_make_own_error(error), debug=cli_context.debug)
        return OWN_MISTAKE


def _never_fail_to_encode() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _hide_missing_numpy() -> None:
    """Hide torch's warning that numpy is missing, here and in the processes that this one starts.

    Only for a process that is fxgrad's own: it changes the filters of warnings and the environment.
    """
    warnings.filterwarnings("ignore", _NO_NUMPY, UserWarning)
    options = [os.environ.get("PYTHONWARNINGS", ""), f"ignore:{_NO_NUMPY}:UserWarning"]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, options))


def _report(error: FxgradError, *, debug: bool) -> int:
    if debug:
        _print_error(traceback.format_exc().rstrip("\n"))
    elif error.details:
        _print_error(error.details)
    _print_error(f"error: {error}")
    return error.exit_status


def _make_usage_error(error: click.ClickException) -> UsageError:
    """What click says, in the shape of all errors."""
    context = getattr(error, "ctx", None)
    if context is None:
        return UsageError(error.format_message(), "what fxgrad --help shows", "fxgrad --help")
    usage = " ".join(context.get_usage().removeprefix("Usage: ").split())
    return UsageError(error.format_message(), usage, f"{context.command_path} --help")


def _make_torch_error(error: ImportError) -> FxgradError:
    from fxgrad.graph.text import escape_unprintable

    return FxgradError(
        f"torch cannot be imported: {escape_unprintable(str(error))}",
        "an environment with torch to run a target; a saved trace needs no torch",
        "pip install torch, or pass a trace.json that was saved elsewhere",
    )


def _make_own_error(error: Exception) -> FxgradError:
    said = traceback.format_exception_only(type(error), error)[-1].strip()
    return FxgradError(
        f"fxgrad itself failed: {said}",
        "no error of this kind: this is a bug in fxgrad",
        "the same command with --debug, which shows where; please report it",
    )


def _print_error(text: str) -> None:
    """Write to stderr, which may be closed. Characters that a terminal would obey are escaped."""
    if sys.stderr is None:  # print would take stdout
        return
    with contextlib.suppress(OSError, ValueError):
        print("".join(map(_escape_character, text)), file=sys.stderr)


def _escape_character(char: str) -> str:
    if char.isprintable() or char in "\n\t":
        return char
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
