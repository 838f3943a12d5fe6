"""Findings with the line of the program that each is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from fxgrad.graph import BackwardGraph, Explanation, Source
from fxgrad.graph.hook_sites import HookSites, find_owner, group_sites
from fxgrad.graph.records import Record
from fxgrad.graph.text import escape, escape_unprintable, format_source, join_words, quote_code
from fxgrad.render import sentences as say

_GRAVE = ("warning", "error")


class Finding(Record, frozen=True):
    """What a rule says, for a reader of lines.

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
        unnamed = [owner for owner in map(quote_code, self.owners) if owner not in self.headline]
        return escape_unprintable(f"{self.headline} ({join_words(unnamed)})" if unnamed else self.headline)


def findings_of(graph: BackwardGraph, explanations: Iterable[Explanation], *, target: str) -> Iterator[Finding]:
    """The findings of one graph. `target` is the file that stands for those that are about no line.

    A finding about a hook belongs to the line that registered it, else to the line that defines its function.
    """
    by_key = {subject.key: subject for subject in group_sites(graph)}
    for told in explanations:
        subject = None if told.site is None else by_key[find_owner(graph, told.site)]
        source = _line_of(told)
        yield Finding(
            file=target if source is None else source.file,
            line=None if source is None else source.line,
            code=told.code,
            severity=told.severity,
            headline=told.headline,
            because=told.because,
            fix=told.fix,
            owners=_owners(told, subject),
        )


def _line_of(told: Explanation) -> Source | None:
    if told.source is not None or told.site is None:
        return told.source
    return told.site.hook.registered or told.site.hook.source


def _owners(told: Explanation, subject: HookSites | None) -> tuple[str, ...]:
    if subject is not None:
        return (next(say.owner_title(subject)),)
    return () if told.owner is None else (told.owner or "the model",)


def sorted_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By file, line and code; those that differ in what they are about alone are told together."""
    groups: dict[Finding, dict[str, None]] = {}
    for finding in findings:
        groups.setdefault(replace(finding, because="", fix="", owners=()), {}).update(dict.fromkeys(finding.owners))
    return tuple(sorted(_joined(findings, groups), key=_rank))


def _joined(findings: Iterable[Finding], groups: dict[Finding, dict[str, None]]) -> Iterator[Finding]:
    for finding in findings:
        owners = groups.pop(replace(finding, because="", fix="", owners=()), None)
        if owners is not None:
            yield replace(finding, owners=tuple(owners))


def _rank(finding: Finding) -> tuple[str, int, str, str]:
    return finding.file, finding.line or 0, finding.code, finding.headline


def is_grave(finding: Finding) -> bool:
    """Whether a finding is a warning or an error: those that a program should be stopped for."""
    return finding.severity in _GRAVE
