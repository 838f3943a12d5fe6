"""Findings in the Static Analysis Results Interchange Format, SARIF 2.1.0 (OASIS), which code hosts display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from fxgrad.render.findings.finding import Finding
from fxgrad.rules import find_page, list_codes
from fxgrad.version import __version__

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {"info": "note", "warning": "warning", "error": "error"}

Json = dict[str, Any]


def sarif_log(findings: Sequence[Finding]) -> Json:
    """One run of one tool: the rules that it has, and a result for each finding."""
    run = {
        "tool": {"driver": _driver()},
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding) for finding in findings],
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _driver() -> Json:
    return {"name": "fxgrad", "semanticVersion": __version__, "rules": [_rule(code) for code in list_codes()]}


def _rule(code: str) -> Json:
    about = find_page(code)
    return {
        "id": code,
        "shortDescription": {"text": about.title},
        "fullDescription": {"text": " ".join(about.what.split())},
        "help": {"text": str(about)},
    }


def _result(finding: Finding) -> Json:
    return {
        "ruleId": finding.code,
        "ruleIndex": list_codes().index(finding.code),
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.sentence}\n{finding.because}\nfix: {finding.fix}"},
        "locations": [_location(finding)],
    }


def _location(finding: Finding) -> Json:
    """A file's name becomes a URI reference, relative to the folder that fxgrad ran in."""
    physical: Json = {"artifactLocation": {"uri": quote(finding.file, errors="backslashreplace")}}
    if finding.line is not None:
        physical["region"] = {"startLine": finding.line}
    logical = [{"fullyQualifiedName": owner} for owner in finding.owners]
    return {"physicalLocation": physical, **({"logicalLocations": logical} if logical else {})}
