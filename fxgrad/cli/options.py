"""TARGET and the options that go with it everywhere."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import click

from fxgrad.cli.configuration import read_configuration
from fxgrad.cli.output import progress, stdout_for_results
from fxgrad.errors import TargetError, UsageError
from fxgrad.graph.records import BACKWARD_APIS
from fxgrad.graph.text import escape
from fxgrad.target_options import TargetOptions

_LARGEST_SEED = 2**32 - 1
_FIELDS = [field.name for field in fields(TargetOptions)]


@dataclass(slots=True)
class CliContext:
    """What one run of the command line keeps: whether errors show their whole traceback."""

    debug: bool = False


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(CliContext).debug = True


target_argument = click.argument("text", metavar="TARGET")
targets_argument = click.argument("texts", metavar="TARGET...", nargs=-1)
debug_option = click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_set_debug,
    help="Show the full traceback of an error.",
)
all_hooks_option = click.option("--all-hooks", is_flag=True, help="Also show hooks that PyTorch registers for itself.")

_TARGET_OPTIONS = (
    click.option("--init", metavar="ARGS", help='Arguments of a module class: literals, such as "1000, bias=False".'),
    click.option(
        "--input",
        "inputs",
        metavar="INPUT",
        multiple=True,
        help="An argument of the module's forward; repeat for more: f32[9,1000], i64[2,16]:30522 "
        "(values below), name=f32[] (a keyword, a scalar), (f32[9,4],f32[9,4]) (a tuple).",
    ),
    click.option("--loss", metavar="MODULE:FUNCTION", help="Backward starts from FUNCTION(output)."),
    click.option(
        "--device", metavar="DEVICE", help="Build and run on this device. Without CUDA, cuda is emulated, without data."
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, _LARGEST_SEED),
        metavar="N",
        help="Seed torch and random with N.",
    ),
    click.option("--train", "mode", flag_value="train", help="Call model.train() first."),
    click.option("--eval", "mode", flag_value="eval", help="Call model.eval() first."),
    click.option("--autocast", type=click.Choice(["bf16", "f16"]), help="Run forward under torch.autocast."),
    debug_option,
)
_BACKWARD_OPTIONS = (
    click.option(
        "--inputs",
        "backward_inputs",
        metavar="NAME",
        multiple=True,
        callback=lambda _context, _parameter, names: names or None,
        help="A NAME in backward(inputs=...); repeat for more.",
    ),
    click.option(
        "--api",
        "backward_api",
        type=click.Choice(BACKWARD_APIS),
        default=BACKWARD_APIS[0],
        help="grad means torch.autograd.grad.",
    ),
)


def backward_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of how backward is called. For above `with_target`, which collects them."""
    return _add_options(command, _BACKWARD_OPTIONS)


def with_target(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of its TARGET, which it gets as one TargetOptions, its first argument."""

    @functools.wraps(command)
    def call_with_options(*, text: str, **given: Any) -> int:
        _check_current_folder()
        return command(TargetOptions(text, **_pop_fields(given)), **given)

    return _add_options(call_with_options, _TARGET_OPTIONS)


def with_targets(command: Callable[..., int]) -> Callable[..., int]:
    """The same for a command with several TARGETs, by default those of pyproject.toml: it gets a list of TargetOptions."""

    @functools.wraps(command)
    def call_with_options(*, texts: tuple[str, ...], **given: Any) -> int:
        _check_current_folder()
        texts = texts or read_configuration().targets
        if not texts:
            allowed = "a TARGET, or targets = [...] in [tool.fxgrad] of pyproject.toml"
            raise UsageError("Missing argument 'TARGET...'.", allowed, "fxgrad check model.py")
        settings = _pop_fields(given)
        return command([TargetOptions(text, **settings) for text in texts], **given)

    return _add_options(call_with_options, _TARGET_OPTIONS)


def _check_current_folder() -> None:
    """Refuse to run in a folder that was deleted: Python cannot import there, nor can torch load its libraries."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the current folder was deleted", "a folder that exists", "cd to another folder") from None


def _pop_fields(given: dict[str, Any]) -> dict[str, Any]:
    """Take the values that belong into a TargetOptions out of a command's parameters."""
    return {name: given.pop(name) for name in _FIELDS if name in given}


def _add_options(command: Callable[..., int], options: tuple[Callable[[Any], Any], ...]) -> Callable[..., int]:
    for option in reversed(options):
        command = option(command)
    return command


@contextmanager
def contain_user_code(doing: str, options: TargetOptions) -> Iterator[None]:
    """Surround a verb of the api that runs the user's code.

    What that code prints goes to stderr, because stdout is for results. An exit of it becomes a TargetError: otherwise
    fxgrad would end as if all were well.
    """
    what = f"{doing} {escape(options.text)}"
    with stdout_for_results(), progress(what):
        try:
            yield
        except SystemExit as error:
            from fxgrad.observe.record.frames import format_user_traceback

            allowed = "a target that does not exit Python"
            given = f"SystemExit while {what}"
            raise TargetError(given, allowed, "remove the exit", format_user_traceback(error)) from error
