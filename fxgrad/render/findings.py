"""What the rules found, as a linter tells it: one line each, JSON, GitHub annotations, or SARIF."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from msgspec.structs import replace

from fxgrad.exchange.saved import records_to_json
from fxgrad.graph import BackwardGraph, Explanation, Source
from fxgrad.graph.backward_graph import HookSites, find_owner, group_sites
from fxgrad.graph.records import Record
from fxgrad.graph.text import escape, escape_unprintable, format_source, join_words, quote_code
from fxgrad.render import sentences as say
from fxgrad.rules import find_page, list_codes
from fxgrad.version import __version__

_LABEL = re.compile(r"\w+_\d+")
_GRAVE = ("warning", "error")


class Finding(Record, frozen=True):
    """What a rule says about a line of a file.

    ``file``    the file, as a path with slashes from the folder that the program runs in; else the target as given
    ``line``    from 1; None where the finding is about no line
    ``owners``  what it is about: paths of modules, names of tensors; several where one line gives several the same
    """

    file: str
    line: int | None
    code: str
    severity: str
    headline: str
    because: str
    fix: str
    owners: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """``model.py:12``, as editors take it."""
        return escape(self.file) if self.line is None else format_source(Source(self.file, self.line))

    @property
    def sentence(self) -> str:
        """The headline with what it is about, where it does not name that itself."""
        # labels of nodes stand in headlines without quotes
        unnamed = [quote_code(owner) for owner in self.owners if not _names(self.headline, owner)]
        return escape_unprintable(f"{self.headline} ({join_words(unnamed)})" if unnamed else self.headline)


def list_findings(graph: BackwardGraph, explanations: Iterable[Explanation], *, target: str) -> Iterator[Finding]:
    """List the findings of one graph. Those that are about no line get `target` as their file.

    A finding about a hook belongs to the line that registered it, else to the line that defines its function.
    """
    by_key = {subject.key: subject for subject in group_sites(graph)}
    for explanation in explanations:
        subject = None if explanation.site is None else by_key[find_owner(graph, explanation.site)]
        source = _find_line(explanation)
        yield Finding(
            file=target if source is None else source.file,
            line=None if source is None else source.line,
            code=explanation.code,
            severity=explanation.severity,
            headline=explanation.headline,
            because=explanation.because,
            fix=explanation.fix,
            owners=_list_owners(explanation, subject),
        )


def _find_line(explanation: Explanation) -> Source | None:
    if explanation.source is not None or explanation.site is None:
        return explanation.source
    return explanation.site.hook.registered or explanation.site.hook.source


def _list_owners(explanation: Explanation, subject: HookSites | None) -> tuple[str, ...]:
    if subject is not None:
        if subject.hook.outside_model and not subject.hook.owner:
            return ()
        return (next(say.describe_owner(subject)),)
    return () if explanation.owner is None else (explanation.owner or "the model",)


def sort_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """By file, those of severity info last and errors first, by line and code, those about no line last.

    Those that differ in what they are about alone are one finding.
    """
    groups: dict[Finding, dict[str, None]] = {}
    for finding in findings:
        groups.setdefault(replace(finding, because="", fix="", owners=()), {}).update(dict.fromkeys(finding.owners))
    return tuple(sorted(_merge_owners(findings, groups), key=_rank_finding))


def _merge_owners(findings: Sequence[Finding], groups: dict[Finding, dict[str, None]]) -> Iterator[Finding]:
    for finding in findings:
        owners = groups.pop(replace(finding, because="", fix="", owners=()), None)
        if owners is not None:
            yield replace(finding, owners=tuple(owners))


def _rank_finding(finding: Finding) -> tuple[bool, str, bool, float, str, str]:
    line = math.inf if finding.line is None else finding.line
    return not is_grave(finding), finding.file, finding.severity != "error", line, finding.code, finding.headline


def is_grave(finding: Finding) -> bool:
    """Whether a finding is a warning or an error: those that a program should be stopped for."""
    return finding.severity in _GRAVE


# Formats: each gives the same text for the same findings


_Format = Callable[[Sequence[Finding]], str]
_GITHUB_COMMANDS = {"info": "notice", "warning": "warning", "error": "error"}


def _format_text(findings: Sequence[Finding]) -> str:
    return "\n".join(format_line(finding) for finding in findings)


def format_line(finding: Finding) -> str:
    """``model.py:12: FXG104 warning `show` never fires (`layers.3`)``."""
    return f"{finding.place}: {finding.code} {finding.severity} {finding.sentence}"


def _format_json(findings: Sequence[Finding]) -> str:
    return json.dumps(json.loads(records_to_json(tuple(findings))), indent=2)


def _format_github(findings: Sequence[Finding]) -> str:
    return "\n".join(format_github_command(finding) for finding in findings)


def format_github_command(finding: Finding) -> str:
    """A workflow command that GitHub shows beside the line.

    docs.github.com: workflow commands; escaping as in actions/toolkit, packages/core/src/command.ts.
    """
    line = [] if finding.line is None else [f"line={finding.line}"]
    properties = [
        f"file={escape_github_property(finding.file)}",
        *line,
        f"title={escape_github_property(finding.code)}",
    ]
    message = escape_github_data(f"{finding.sentence}\n{finding.because}\nfix: {finding.fix}")
    return f"::{_GITHUB_COMMANDS[finding.severity]} {','.join(properties)}::{message}"


def escape_github_data(text: str) -> str:
    r"""A text as the message of a workflow command.

    >>> escape_github_data("100%\r\nof it")
    '100%25%0D%0Aof it'
    """
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_github_property(text: str) -> str:
    """A text as a property of a workflow command.

    >>> escape_github_property("C:model,v2.py")
    'C%3Amodel%2Cv2.py'
    """
    return escape_github_data(text).replace(":", "%3A").replace(",", "%2C")


def _format_sarif(findings: Sequence[Finding]) -> str:
    return json.dumps(make_sarif_log(findings), indent=2)


_FORMATS: dict[str, _Format] = {
    "text": _format_text,
    "json": _format_json,
    "github": _format_github,
    "sarif": _format_sarif,
}


def _names(headline: str, owner: str) -> bool:
    """Whether a headline names a module or tensor, in quotes, or a node by its label.

    >>> _names("backward raises at ExpBackward0_0", "ExpBackward0_0"), _names("`exp` raises", "ex")
    (True, False)
    """
    return quote_code(owner) in headline or (bool(_LABEL.fullmatch(owner)) and owner in re.findall(r"\w+", headline))


def format_findings(findings: Sequence[Finding], name: str) -> str:
    """The findings as "text", "json", "github" or "sarif"."""
    return _FORMATS[name](findings)


# SARIF 2.1.0, the Static Analysis Results Interchange Format of OASIS, which code hosts display


_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {"info": "note", "warning": "warning", "error": "error"}

Json = dict[str, Any]


def make_sarif_log(findings: Sequence[Finding]) -> Json:
    """One run of one tool: the rules that it has, and a result for each finding."""
    run = {
        "tool": {"driver": _describe_tool()},
        "columnKind": "unicodeCodePoints",
        "results": [_make_result(finding) for finding in findings],
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _describe_tool() -> Json:
    return {"name": "fxgrad", "semanticVersion": __version__, "rules": [_describe_rule(code) for code in list_codes()]}


def _describe_rule(code: str) -> Json:
    about = find_page(code)
    return {
        "id": code,
        "shortDescription": {"text": about.title},
        "fullDescription": {"text": " ".join(about.what.split())},
        "help": {"text": str(about)},
    }


def _make_result(finding: Finding) -> Json:
    return {
        "ruleId": finding.code,
        "ruleIndex": list_codes().index(finding.code),
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.sentence}\n{finding.because}\nfix: {finding.fix}"},
        "locations": [_make_location(finding)],
    }


def _make_location(finding: Finding) -> Json:
    """A file's name becomes a URI reference, relative to the folder that fxgrad ran in."""
    physical: Json = {"artifactLocation": {"uri": quote(finding.file, errors="backslashreplace")}}
    if finding.line is not None:
        physical["region"] = {"startLine": finding.line}
    logical = [{"fullyQualifiedName": owner} for owner in finding.owners]
    return {"physicalLocation": physical, **({"logicalLocations": logical} if logical else {})}
