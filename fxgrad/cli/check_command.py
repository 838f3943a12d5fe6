"""``fxgrad check``: the rules as a linter."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from fxgrad.cli.options import Request, targets_argument, with_targets
from fxgrad.cli.output import show
from fxgrad.errors import FxgradError, UsageError
from fxgrad.graph.text import escape

if TYPE_CHECKING:
    from fxgrad.render.findings import Finding

_FOUND = 1
_FORMATS = ("text", "json", "github", "sarif")


@click.command(
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
@click.option("--select", "selected", metavar="CODES", multiple=True, help="These only; FXG1 is all that begin so.")
@click.option("--ignore", "ignored", metavar="CODES", multiple=True, help="All but these.")
@click.option("--all", "everything", is_flag=True, help="Show findings of severity info, too.")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="text", help="How to write findings.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 whatever is found.")
@with_targets
def check(
    requests: Sequence[Request],
    *,
    selected: tuple[str, ...],
    ignored: tuple[str, ...],
    everything: bool,
    form: str,
    exit_zero: bool,
) -> int:
    """Trace each TARGET and tell what is wrong, one line a finding.

    FILE:LINE is where the hook was registered, or what cuts a gradient off.
    Warnings and errors are told; those of severity info with --all, or where
    --select names their whole code. Of several targets, all that can be traced
    are told before the first error is.
    """
    from fxgrad.render.findings import formatted, is_grave, sorted_findings

    wanted, unwanted = _codes(selected, "--select"), _codes(ignored, "--ignore")
    found, errors = _found(requests)
    told = [
        finding
        for finding in sorted_findings(found)
        if (not wanted or finding.code.startswith(wanted))
        and not (unwanted and finding.code.startswith(unwanted))
        and (everything or is_grave(finding) or finding.code in wanted)
    ]
    if told or form in ("json", "sarif"):
        show(formatted(told, form))
    if errors:
        raise _together(errors)
    return _FOUND if any(map(is_grave, told)) and not exit_zero else 0


def _codes(given: Sequence[str], option: str) -> tuple[str, ...]:
    """Codes and beginnings of codes, in capital letters. Raises UsageError for what no code begins with."""
    from fxgrad.rules import list_codes

    asked = tuple(code.strip().upper() for text in given for code in text.split(","))
    for code in asked:
        if not code or not any(known.startswith(code) for known in list_codes()):
            near = difflib.get_close_matches(code, list_codes(), n=1, cutoff=0.0)
            raise UsageError(
                f"{option} {escape(code)}: no rule has a code that begins so",
                f"codes, or beginnings of codes: {', '.join(list_codes())}",
                f"{option} {near[0]}",
            )
    return asked


def _found(requests: Sequence[Request]) -> tuple[list[Finding], list[FxgradError]]:
    found: list[Finding] = []
    errors: list[FxgradError] = []
    for request in requests:
        try:
            found += _findings(request)
        except FxgradError as error:
            errors.append(error)
    return found, errors


def _findings(request: Request) -> Iterator[Finding]:
    from fxgrad.render.findings import findings_of
    from fxgrad.rules import explain_graph

    graph = request.trace().graph
    return findings_of(graph, explain_graph(graph), target=_file_of(request.target))


def _file_of(target: str) -> str:
    """The file that a target names; the target itself where it names none."""
    path = target.rpartition(":")[0]
    return path if os.path.isfile(path) else target


def _together(errors: Sequence[FxgradError]) -> FxgradError:
    """The first error, which says what else went wrong."""
    first = errors[0]
    others = "".join(f"\nand {error.given}" for error in errors[1:])
    return type(first)(f"{first.given}{others}", first.allowed, first.suggestion, first.details)
