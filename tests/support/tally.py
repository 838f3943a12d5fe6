"""Counts what an oracle tried, what it left out and why, what was wrong and what was left open, and prints it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comparison import DTYPE_OPEN, PROPERTIES, SHAPE_OPEN, Comparison

MOST_TEXTS = 20
PYTHON = "a Python function"
"""Part of the reason of everything that only a Python function's own code decides."""


@dataclass
class Tally:
    """One row of an oracle's table.

    ``skipped``  by reason: what PyTorch itself refuses; nothing that is fxgrad's fault
    ``refused``  hooks that PyTorch refuses to register, by reason; the others of the case were registered
    ``wrong``    by property; ``texts`` are the differences as sentences
    ``unknown``  by reason
    ``note``     what a reader of the row must know: which share of the cases was taken
    ``properties``  what was compared: the columns of the table
    """

    row: str
    tried: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    sites: int = 0
    entries: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    note: str = ""
    properties: tuple[str, ...] = PROPERTIES

    def hold(self, case: str, comparison: Comparison) -> None:
        """Count one case that was compared."""
        self.tried += 1
        self.sites += comparison.sites
        self.entries += comparison.entries
        self.wrong.update(difference.what for difference in comparison.differences)
        self.texts += [f"{case}: {text}" for text in comparison.wrong]
        self.unknown.update(map(without_numbers, comparison.reasons.elements()))

    def skip(self, reason: str) -> None:
        """Count one case that PyTorch refuses."""
        self.skipped[without_numbers(reason)] += 1

    def add(self, other: Tally) -> None:
        """Count all that another one counted."""
        self.tried += other.tried
        self.sites += other.sites
        self.entries += other.entries
        self.texts += other.texts
        for mine, others in (
            (self.skipped, other.skipped),
            (self.refused, other.refused),
            (self.wrong, other.wrong),
            (self.unknown, other.unknown),
        ):
            mine.update(others)

    @property
    def open_by_torch(self) -> int:
        """How many times it was left open whether there is a Tensor, where no Python function decides that."""
        reasons = [reason for reason in self.unknown if PYTHON not in reason]
        return sum(self.unknown[reason] for reason in reasons) - self.open_metas

    @property
    def open_metas(self) -> int:
        """How many shapes and dtypes of Tensors were left open."""
        return self.unknown[SHAPE_OPEN] + self.unknown[DTYPE_OPEN]

    def assert_nothing_is_wrong(self) -> None:
        """Fail with the differences."""
        assert not self.wrong.total(), "\n".join([str(dict(self.wrong)), *self.texts[:MOST_TEXTS]])


def without_numbers(text: str) -> str:
    """One sentence for all that differ by a number, so that they are counted together.

    >>> without_numbers("AddmmBackward0_3 decides, size [3, 4]")
    'AddmmBackwardN_N decides, size [N, N]'
    """
    return re.sub(r"\d+", "N", text)


_TALLIES: dict[str, list[Tally]] = {}
_OUTCOMES: dict[str, Counter[str]] = {}


def tally_of(oracle: str, row: str, *, properties: Sequence[str] = PROPERTIES) -> Tally:
    """A new row of an oracle's table, which the end of the run shows."""
    made = Tally(row, properties=tuple(properties))
    _TALLIES.setdefault(oracle, []).append(made)
    return made


def count_outcome(category: str, outcome: str) -> None:
    """Count one hostile input; the end of the run shows how many of each category had which outcome."""
    _OUTCOMES.setdefault(category, Counter())[outcome] += 1


def forget_outcomes(category: str) -> Counter[str]:
    """Take the counts of a category back."""
    return _OUTCOMES.pop(category)


def to_json() -> str:
    """All that this process counted, for another to take."""
    tallies = {oracle: [vars(row) for row in rows] for oracle, rows in _TALLIES.items()}
    return json.dumps({"tallies": tallies, "outcomes": _OUTCOMES})


def take(text: str) -> None:
    """Add what another process counted."""
    taken = json.loads(text)
    for oracle, rows in taken.get("tallies", {}).items():
        _TALLIES.setdefault(oracle, []).extend(map(_restored, rows))
    for category, outcomes in taken.get("outcomes", {}).items():
        _OUTCOMES.setdefault(category, Counter()).update(outcomes)


def _restored(values: Mapping[str, Any]) -> Tally:
    made = {name: Counter(value) if isinstance(value, dict) else value for name, value in values.items()}
    return Tally(**{**made, "properties": tuple(values["properties"])})


def report() -> Iterator[str]:
    """What all oracles and the fuzz suite tried, as lines of text."""
    for oracle, rows in _TALLIES.items():
        yield from (oracle, *table(sorted(rows, key=lambda row: row.row)), "")
    for category, outcomes in sorted(_OUTCOMES.items()):
        told = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
        yield f"fuzz: {category}: {outcomes.total():,} tried ({told})"
    if _OUTCOMES:
        yield f"fuzz: {sum(outcomes.total() for outcomes in _OUTCOMES.values()):,} inputs in all"


def table(rows: Sequence[Tally]) -> Iterator[str]:
    """One line for each row and their sum, then every reason with its count."""
    total = Tally("all", properties=tuple(rows[0].properties))
    for row in rows:
        total.add(row)
    cells = [_head(total), *map(_cells, [*rows, total] if len(rows) > 1 else rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join([line[0].ljust(widths[0]), *others]).rstrip() if first else ""
    yield from (f"  {row.row}: {row.note}" for row in rows if row.note)
    yield from _reasons("skipped: PyTorch says", total.skipped)
    yield from _reasons("hooks not registered: PyTorch says", total.refused)
    yield from _reasons("unknown:", total.unknown)
    yield from (f"  wrong {text}" for text in total.texts[:MOST_TEXTS])


def _head(row: Tally) -> tuple[str, ...]:
    hooks = ("sites", "entries") if row.properties == PROPERTIES else ()
    return ("", "tried", "skipped", *hooks, *row.properties, "unknown")


def _cells(row: Tally) -> tuple[str, ...]:
    hooks = (row.sites, row.entries) if row.properties == PROPERTIES else ()
    wrong = (row.wrong[what] for what in row.properties)
    numbers = (row.tried, row.skipped.total(), *hooks, *wrong, row.unknown.total())
    return (row.row, *(f"{number:,}" for number in numbers))


def _reasons(before: str, reasons: Counter[str]) -> Iterable[str]:
    return (f"  {count:,} {before} {reason}" for reason, count in reasons.most_common())
