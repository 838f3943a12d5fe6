"""Findings written down for people and for programs. Each format gives the same text for the same findings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from fxgrad.exchange.saved import records_to_json
from fxgrad.render.findings.finding import Finding
from fxgrad.render.findings.sarif import sarif_log

_Format = Callable[[Sequence[Finding]], str]
_GITHUB_COMMANDS = {"info": "notice", "warning": "warning", "error": "error"}


def _text(findings: Sequence[Finding]) -> str:
    return "\n".join(text_line(finding) for finding in findings)


def text_line(finding: Finding) -> str:
    """``model.py:12: FXG104 warning `show` never fires (`layers.3`)``."""
    return f"{finding.place}: {finding.code} {finding.severity} {finding.sentence}"


def _json(findings: Sequence[Finding]) -> str:
    return json.dumps(json.loads(records_to_json(tuple(findings))), indent=2)


def _github(findings: Sequence[Finding]) -> str:
    return "\n".join(github_command(finding) for finding in findings)


def github_command(finding: Finding) -> str:
    """A workflow command that GitHub shows beside the line.

    docs.github.com: workflow commands; escaping as in actions/toolkit, packages/core/src/command.ts.
    """
    line = [] if finding.line is None else [f"line={finding.line}"]
    properties = [f"file={github_property(finding.file)}", *line, f"title={github_property(finding.code)}"]
    message = github_data(f"{finding.sentence}\n{finding.because}\nfix: {finding.fix}")
    return f"::{_GITHUB_COMMANDS[finding.severity]} {','.join(properties)}::{message}"


def github_data(text: str) -> str:
    r"""A text as the message of a workflow command.

    >>> github_data("100%\r\nof it")
    '100%25%0D%0Aof it'
    """
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def github_property(text: str) -> str:
    """A text as a property of a workflow command.

    >>> github_property("C:model,v2.py")
    'C%3Amodel%2Cv2.py'
    """
    return github_data(text).replace(":", "%3A").replace(",", "%2C")


def _sarif(findings: Sequence[Finding]) -> str:
    return json.dumps(sarif_log(findings), indent=2)


_FORMATS: dict[str, _Format] = {"text": _text, "json": _json, "github": _github, "sarif": _sarif}


def formatted(findings: Sequence[Finding], name: str) -> str:
    """The findings as "text", "json", "github" or "sarif"."""
    return _FORMATS[name](findings)
