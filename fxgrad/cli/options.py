"""TARGET and the options that go with it everywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from fxgrad.cli.output import stdout_for_results
from fxgrad.cli.progress import progress
from fxgrad.errors import TargetError
from fxgrad.graph.records import BACKWARD_APIS
from fxgrad.graph.text import escape

if TYPE_CHECKING:
    from fxgrad.result import Trace
    from fxgrad.verification import Verification

_LARGEST_SEED = 2**32 - 1

Result = TypeVar("Result")


@dataclass(slots=True)
class Session:
    """What one run of the command line keeps: whether errors show their whole traceback."""

    debug: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A target and what is to be done with it before it is traced."""

    target: str
    init: str | None
    inputs: tuple[str, ...]
    loss: str | None
    seed: int | None
    mode: Literal["train", "eval"] | None
    device: str | None
    autocast: str | None

    def trace(self, *, compare: bool = False) -> Trace:
        """Run forward once; with `compare`, an emulated target on the CPU, too."""
        from fxgrad import api

        return self._run(functools.partial(api.trace_target, compare=compare), doing="tracing")

    def verify(self, backward_inputs: tuple[str, ...], backward_api: Literal["backward", "grad"]) -> Verification:
        """Run forward and backward, and compare."""
        from fxgrad import api

        verb = functools.partial(api.verify_target, backward_inputs=backward_inputs, backward_api=backward_api)
        return self._run(verb, doing="verifying")

    def _run(self, verb: Callable[..., Result], *, doing: str) -> Result:
        """Call a verb of the api. What the user's code prints goes to stderr: stdout is for results."""
        with stdout_for_results(), progress(f"{doing} {escape(self.target)}"):
            try:
                return verb(
                    self.target,
                    init=self.init,
                    inputs=self.inputs,
                    loss=self.loss,
                    seed=self.seed,
                    mode=self.mode,
                    device=self.device,
                    autocast=self.autocast,
                )
            except SystemExit as error:
                raise _exited(error, f"{doing} {escape(self.target)}") from error


def _exited(error: SystemExit, doing: str) -> TargetError:
    """An exit of the user's code: a program would end as if all were well."""
    from fxgrad.observe.tracebacks import user_traceback

    allowed = "a target that runs without leaving Python"
    return TargetError(f"SystemExit while {doing}", allowed, "take the exit out", user_traceback(error))


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Session).debug = True


target_argument = click.argument("target")
targets_argument = click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
debug_option = click.option(
    "--debug",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_set_debug,
    help="Show the whole traceback of an error.",
)

_TARGET_OPTIONS = (
    click.option("--init", metavar="ARGS", help='Arguments of a module class: literals, as in "1000, bias=False".'),
    click.option(
        "--input",
        "inputs",
        metavar="INPUT",
        multiple=True,
        help="An argument of a module class's forward; repeat it for more: f32[9,1000], i64[2,16]:30522 "
        "(values below), name=f32[] (a keyword, a scalar), (f32[9,4],f32[9,4]) (a tuple).",
    ),
    click.option("--loss", metavar="MODULE:FUNCTION", help="Backward starts from FUNCTION(output)."),
    click.option("--device", metavar="DEVICE", help="Build and run there. cuda without CUDA here: fake, without data."),
    click.option(
        "--seed",
        type=click.IntRange(0, _LARGEST_SEED),
        metavar="N",
        help="Seed the random numbers of torch and random.",
    ),
    click.option("--train", "mode", flag_value="train", help="Call model.train() first."),
    click.option("--eval", "mode", flag_value="eval", help="Call model.eval() first."),
    click.option("--autocast", type=click.Choice(["bf16", "f16"]), help="Run forward under torch.autocast."),
    debug_option,
)


def backward_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of how backward is called."""
    inputs = click.option(
        "--inputs",
        "backward_inputs",
        metavar="NAME",
        multiple=True,
        help="NAME is in backward(inputs=...); repeat it for more.",
    )
    names = click.Choice(BACKWARD_APIS)
    return inputs(
        click.option("--api", type=names, default=BACKWARD_APIS[0], help="grad: torch.autograd.grad.")(command)
    )


def with_target(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of TARGET, which it gets collected in one Request as its first argument."""

    @functools.wraps(command)
    def collected(
        *,
        target: str,
        init: str | None,
        inputs: tuple[str, ...],
        loss: str | None,
        seed: int | None,
        mode: Literal["train", "eval"] | None,
        device: str | None,
        autocast: str | None,
        **own: Any,
    ) -> int:
        return command(Request(target, init, inputs, loss, seed, mode, device, autocast), **own)

    return _with_options(collected)


def with_targets(command: Callable[..., int]) -> Callable[..., int]:
    """The same for a command with several targets, which gets a Request for each of them as its first argument."""

    @functools.wraps(command)
    def collected(*, targets: tuple[str, ...], **given: Any) -> int:
        settings = {field.name: given.pop(field.name) for field in fields(Request) if field.name != "target"}
        return command([Request(target, **settings) for target in targets], **given)

    return _with_options(collected)


def _with_options(command: Callable[..., int]) -> Callable[..., int]:
    for option in reversed(_TARGET_OPTIONS):
        command = option(command)
    return command
