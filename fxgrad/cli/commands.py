"""The commands. Each parses, calls the api and shows what it returns."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from fxgrad.cli.configuration import read_configuration
from fxgrad.cli.options import (
    all_hooks_option,
    backward_options,
    contain_user_code,
    debug_option,
    target_argument,
    targets_argument,
    with_target,
    with_targets,
)
from fxgrad.cli.output import File, announce_file, check_distinct, progress, show, write_files
from fxgrad.errors import FxgradError, UsageError
from fxgrad.graph.lookup import find_hook_kind
from fxgrad.graph.text import escape
from fxgrad.render.files import name_formats
from fxgrad.target_options import TargetOptions
from fxgrad.version import __version__

if TYPE_CHECKING:
    from fxgrad.graph import Explanation
    from fxgrad.render.findings import Finding
    from fxgrad.result import Answer

_FOUND = 1
_THE_MODEL = ""
"""The path of the outermost module."""
_HELP = {"help_option_names": ["-h", "--help"]}
_FORMATS = ("text", "json", "github", "sarif")


class OrderedGroup(click.Group):
    """A group whose help lists the commands in the order in which they are defined."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Names in the order of their definition."""
        return list(self.commands)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name; UsageError with the nearest ones where there is none."""
        name = args[0]
        if name.startswith("-") or self.get_command(context, name) is not None:
            return super().resolve_command(context, args)
        near = difflib.get_close_matches(name, self.commands, n=1)
        allowed = f"one of {', '.join(self.commands)}"
        raise UsageError(f"no command {name!r}", allowed, f"fxgrad {near[0] if near else '--help'}")


@click.group(
    cls=OrderedGroup,
    no_args_is_help=False,
    context_settings=_HELP,
    epilog="""\b
Examples:
  fxgrad report model.py
  fxgrad explain torch.nn:LSTMCell --init "1000, 1000" --input "f32[9,1000]"
  fxgrad draw model.py -o graph.svg

\b
Exit status: 0 fine; 1 found something (verify, check, --strict); 2 usage;
3 the target failed; 4 cannot draw or write.
""",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@debug_option
def fxgrad() -> None:
    """Show which node each PyTorch backward hook sits on, what it will get and why, before backward runs.

    \b
    TARGET is what to trace; its code and one forward run:
      model.py             its function build returns (model, args),
                           (model, args, kwargs) or fxgrad.Target(...)
      model.py:make        another function in it
      package.module:make  the same in a module
      torch.nn:LSTMCell    a module class, with --init and --input
      model.pt             a saved ScriptModule (TorchScript), with --input
      model.pt2            a program of torch.export; --input replaces its sample inputs
      trace.json           a trace saved with --json
    """


@fxgrad.command(
    epilog="""\b
Examples:
  fxgrad report model.py
  fxgrad report model.py --svg graph.svg --json trace.json
  fxgrad report trace.json --markdown report.md
"""
)
@target_argument
@click.option("--svg", metavar="FILE", help="Also draw the graph.")
@click.option("--json", metavar="FILE", help="Also save the trace: a TARGET that needs neither torch nor the model.")
@click.option("--markdown", metavar="FILE", help="Also write the report as Markdown.")
@all_hooks_option
@click.option("--strict", is_flag=True, help="Exit with 1 if a finding is a warning or an error.")
@with_target
def report(
    options: TargetOptions,
    *,
    svg: str | None,
    json: str | None,
    markdown: str | None,
    all_hooks: bool,
    strict: bool,
) -> int:
    """Report everything: the graph, each hook, the findings."""
    from fxgrad import api
    from fxgrad.render.files import check_svg

    check_distinct([path for path in (svg, json, markdown) if path is not None], target=options.text)
    if svg is not None:
        check_svg(svg)
    with contain_user_code("tracing", options):
        trace = api.trace_target(options)
    shown = trace.report(all_hooks=all_hooks)
    show(shown)
    write_markdown = partial(trace.to_markdown, all_hooks=all_hooks)
    wanted = ((svg, trace.draw), (json, trace.to_json), (markdown, write_markdown))
    write_files([File(path, make) for path, make in wanted if path is not None])
    return _find_status(shown.findings, strict=strict)


@fxgrad.command(
    "explain",
    epilog="""\b
Examples:
  fxgrad explain model.py
  fxgrad explain model.py layers.3
  fxgrad explain model.py layers.3 --hook register_full_backward_hook
  fxgrad explain trace.json --json
  fxgrad explain model.py --order
  fxgrad explain model.py --inputs layers.0.weight --api grad
""",
)
@target_argument
@click.argument("module", required=False)
@click.option("--hook", metavar="KIND", help="Show what a hook of this kind would get, such as register_backward_hook.")
@click.option("--order", is_flag=True, help="Show only the order in which hooks are called.")
@backward_options
@all_hooks_option
@click.option("--json", is_flag=True, help="Write JSON instead of text.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a finding is a warning or an error.")
@with_target
def explain_hooks(
    options: TargetOptions,
    *,
    module: str | None,
    hook: str | None,
    order: bool,
    all_hooks: bool,
    json: bool,
    strict: bool,
) -> int:
    """Explain hooks: the node, what each gets, why, the fix.

    MODULE is a path such as layers.3; without it, every hook is explained and
    --hook is about the model itself. --hook registers a hook and runs forward
    without it and with it.
    """
    from fxgrad import api

    shown: Answer
    if hook is None:
        with contain_user_code("tracing", options):
            trace = api.trace_target(options)
        shown = (trace.order if order else trace.explain)(module, all_hooks=all_hooks)
    else:
        kind = find_hook_kind(hook)
        if order:
            raise UsageError("--order with --hook", "one of them", f"fxgrad explain {options.text} --order")
        with contain_user_code("tracing", options):
            shown = api.probe_target(options, _THE_MODEL if module is None else module, kind).explanations
    show(shown.to_json() if json else shown)
    return _find_status(shown.findings, strict=strict)


@fxgrad.command(
    epilog="""\b
Examples:
  fxgrad draw model.py -o graph.svg
  fxgrad draw model.py -o layer.png --module layers.3
  fxgrad draw model.py -o graph.svg --expand layers.3
  fxgrad draw trace.json -o hooks.pdf --hooks-only --depth 1
  fxgrad draw model.py -o both.svg --both --module layers.3
"""
)
@target_argument
@click.option("-o", "--output", metavar="FILE", required=True, help=f"Output file: {name_formats('.')}.")
@click.option("--depth", type=click.IntRange(min=0), metavar="N", help="Open modules down to this depth, no others.")
@click.option("--module", metavar="PATH", help="Draw only this module's part.")
@click.option("--expand", metavar="PATH", multiple=True, help="Open this module; repeat for more.")
@click.option("--all", "everything", is_flag=True, help="Draw everything; close nothing, join nothing.")
@click.option("--hooks-only", is_flag=True, help="Draw only nodes with hooks, and the paths between them.")
@click.option("--forward", is_flag=True, help="Draw the recorded forward instead, with hooked modules in colour.")
@click.option("--both", is_flag=True, help="Draw forward and backward side by side; for small graphs.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    default=10.0,
    help="Draw fewer boxes if the layout takes longer; 10 if not given.",
)
@click.option("--link-base", metavar="URL", help="Link what an SVG shows to its lines below this address.")
@with_target
def draw(
    options: TargetOptions,
    *,
    output: str,
    depth: int | None,
    module: str | None,
    expand: tuple[str, ...],
    everything: bool,
    hooks_only: bool,
    forward: bool,
    both: bool,
    timeout: float,
    link_base: str | None,
) -> int:
    """Draw the graph, with hooked nodes in colour.

    A small graph is drawn whole. Of a larger one, equal modules are drawn once,
    and modules are closed until the picture can be read; its first lines say
    what was folded.
    """
    from fxgrad import api
    from fxgrad.render.files import check_folder, find_format

    find_format(output)
    check_distinct([output], target=options.text)
    check_folder(output)
    with contain_user_code("tracing", options):
        trace = api.trace_target(options)
    with progress(f"drawing {output}"):
        trace.draw(
            output,
            depth=depth,
            hooks_only=hooks_only,
            module=module,
            expand=expand,
            all=everything,
            forward=forward,
            both=both,
            timeout=timeout,
            link_base=link_base,
        )
    announce_file(output)
    return 0


@fxgrad.command(
    "verify",
    epilog="""\b
Examples:
  fxgrad verify model.py
  fxgrad verify torch.nn:Linear --init "10, 20" --input "f32[8,10]"
  fxgrad verify model.py --inputs layers.0.weight --api grad
""",
)
@target_argument
@backward_options
@click.option("--compiled", is_flag=True, help="Run with torch.compile; compare how often each hook is called.")
@with_target
def verify_command(options: TargetOptions, *, compiled: bool) -> int:
    """Run backward and compare what hooks get with the prediction."""
    from fxgrad import api

    with contain_user_code("verifying", options):
        verification = api.verify_target(options, compiled=compiled)
    show(verification)
    return 0 if verification.ok else _FOUND


@fxgrad.command(
    epilog="""\b
Examples:
  fxgrad check model.py
  fxgrad check model.py --select FXG1,FXG201
  fxgrad check model.py --format github

\b
Exit status: 0 no warning and no error; 1 some; 2 usage; 3 a target failed.
"""
)
@targets_argument
@click.option(
    "--select",
    "selected",
    metavar="CODES",
    multiple=True,
    help="Only these; FXG1 selects all codes that start with it.",
)
@click.option("--ignore", "ignored", metavar="CODES", multiple=True, help="All except these.")
@click.option("--all", "everything", is_flag=True, help="Also show findings of severity info.")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="text", help="Output format.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 even if something is found.")
@with_targets
def check(
    targets: Sequence[TargetOptions],
    *,
    selected: tuple[str, ...],
    ignored: tuple[str, ...],
    everything: bool,
    form: str,
    exit_zero: bool,
) -> int:
    """Trace each TARGET and list what is wrong, one line per finding.

    FILE:LINE is where the hook was registered, or what cuts a gradient off.
    Shows warnings and errors; findings of severity info only with --all, or if
    --select names their full code. Findings of all targets that can be traced
    come before the first error. In pyproject.toml, [tool.fxgrad] may give
    targets, select and ignore, which the command line overrides.
    """
    from fxgrad.render.findings import format_findings, is_grave, sort_findings
    from fxgrad.rules import ABOUT_NEXT_STEPS

    configuration = read_configuration()
    wanted = _split_codes(selected or configuration.select, "--select")
    unwanted = _split_codes(ignored or configuration.ignore, "--ignore")
    full = {*wanted, *ABOUT_NEXT_STEPS} if wanted else set()
    found, errors = _check_each(targets)
    chosen = [
        finding
        for finding in sort_findings(found)
        if (not wanted or finding.code.startswith(wanted))
        and not (unwanted and finding.code.startswith(unwanted))
        and (everything or is_grave(finding) or finding.code in full)
    ]
    if chosen or form in ("json", "sarif"):
        show(format_findings(chosen, form))
    if errors:
        raise _join_errors(errors)
    return _FOUND if any(map(is_grave, chosen)) and not exit_zero else 0


@fxgrad.command(
    epilog="""\b
Examples:
  fxgrad rule FXG101
  fxgrad rule
"""
)
@click.argument("code", required=False)
@debug_option
def rule(code: str | None) -> int:
    """Describe the rule with this code. Without a code, list all rules."""
    from fxgrad.rules import find_page, list_codes

    pages = map(find_page, list_codes())
    show(str(find_page(code)) if code is not None else "\n".join(f"{page.code}  {page.title}" for page in pages))
    return 0


def _find_status(findings: Iterable[Explanation], *, strict: bool) -> int:
    grave = any(finding.severity in ("warning", "error") for finding in findings)
    return _FOUND if strict and grave else 0


def _split_codes(given: Sequence[str], option: str) -> tuple[str, ...]:
    """The codes, or beginnings of codes, that an option lists. Raises UsageError for what no code begins with."""
    from fxgrad.rules import list_codes

    asked = tuple(code.strip().upper() for text in given for code in text.split(","))
    for code in asked:
        if not code or not any(known.startswith(code) for known in list_codes()):
            near = difflib.get_close_matches(code, list_codes(), n=1, cutoff=0.0)
            raise UsageError(
                f"{option} {escape(code)}: no rule's code starts with it",
                f"codes, or prefixes of codes: {', '.join(list_codes())}",
                f"{option} {near[0]}",
            )
    return asked


def _check_each(targets: Sequence[TargetOptions]) -> tuple[list[Finding], list[FxgradError]]:
    """The findings in all targets that can be traced, and the errors of the others."""
    from fxgrad import api

    found: list[Finding] = []
    errors: list[FxgradError] = []
    for options in targets:
        try:
            with contain_user_code("tracing", options):
                found += api.check_target(options)
        except FxgradError as error:
            errors.append(error)
    return found, errors


def _join_errors(errors: Sequence[FxgradError]) -> FxgradError:
    """The first error, which says as well what the others are about."""
    first = errors[0]
    others = "".join(f"\nand {error.given}" for error in errors[1:])
    return type(first)(f"{first.given}{others}", first.allowed, first.suggestion, first.details)
