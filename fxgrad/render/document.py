"""What an answer says, in sections, paragraphs, labelled texts and tables; and how rich writes that as text.

Each text in a document is one paragraph of prose in which backticks mark code. It is not escaped for any notation: those
who write a document (here, and in ``markdown``) escape what their notation gives a meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, NamedTuple

from fxgrad.collection import pause_collection
from fxgrad.graph.text import escape_unprintable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.segment import Segment
    from rich.text import Text

PLAIN = "plain"
"""The tone of a block that is no finding; the others are the severities of explanations."""
_WIDTH = 100
"""Columns of plain text."""

_SPACED_DEPTH = 1
_STEP = 2
_HANG = 2 * _STEP
_BETWEEN = "   "
_GAP = 2
_LEAST_CELL = 16
"""A column that is narrower than this reads badly."""
_CODE = "cyan"
_TONES = {PLAIN: "bold", "info": "bold blue", "warning": "bold yellow", "error": "bold red"}


class Span(NamedTuple):
    """A part of a text: prose, or code that was between backticks."""

    text: str
    is_code: bool


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One text."""

    text: str


@dataclass(frozen=True, slots=True)
class Terms:
    """Texts with labels, aligned: ``(("because", "..."), ("fix", "..."))``. ``tone`` colours the first label."""

    items: tuple[tuple[str, str], ...]
    tone: str = PLAIN


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells, one for each column. The header is shown where ``headed``; Markdown has no tables without."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    headed: bool = True


@dataclass(frozen=True, slots=True)
class Section:
    """A title in parts, with space between them, and the blocks under it."""

    title: tuple[str, ...]
    body: tuple[Block, ...] = ()


Block = Paragraph | Terms | Table | Section
Document = tuple[Block, ...]


def split_code(text: str) -> tuple[Span, ...]:
    """Split a text at its backticks; an odd one out stays what it is.

    >>> split_code("hook `show` on `a`")
    (Span(text='hook ', is_code=False), Span(text='show', is_code=True), Span(text=' on ', is_code=False), \
Span(text='a', is_code=True))
    >>> split_code("an odd ` one")
    (Span(text='an odd ` one', is_code=False),)
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts[-2:] = [f"{parts[-2]}`{parts[-1]}"]
    return tuple(Span(part, bool(number % 2)) for number, part in enumerate(parts) if part)


@pause_collection()
def format_document(document: Document, *, width: int = _WIDTH) -> str:
    """Write a document as plain text, ``width`` columns wide. Only a word that is longer makes a longer line."""
    from rich.console import Console

    text = StringIO()
    # otherwise rich looks at the environment: a notebook, FORCE_COLOR, an old Windows
    console = Console(
        file=text, width=width, color_system=None, force_terminal=False, force_jupyter=False, legacy_windows=False
    )
    console.print(_Writer(plain=True).render_blocks(document, 0), crop=False)
    return "\n".join(line.rstrip() for line in text.getvalue().split("\n"))


def render_document(document: Document) -> RenderableType:
    """Make a renderable for ``rich.console.Console.print``, which colours it and wraps it to the terminal."""
    return _Writer(plain=False).render_blocks(document, 0)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Makes rich renderables of blocks.

    ``plain``  keeps backticks, and leaves long words whole, so that names can be copied and searched for. On a terminal
               code has a colour instead, and what is wider than the terminal is folded.
    """

    plain: bool

    def render_blocks(self, blocks: Sequence[Block], depth: int) -> RenderableType:
        """Render blocks that are inside of `depth` sections."""
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = []
        for before, block in zip((None, *blocks), blocks, strict=False):
            if _is_spaced(before, block, depth):
                parts.append(Text())
            parts += self._render_block(block, depth)
        return Group(*parts)

    def _render_block(self, block: Block, depth: int) -> Iterator[RenderableType]:
        match block:
            case Paragraph(text):
                yield _Wrapped(self._render_text(text), others=_STEP * min(depth, 1))
            case Terms(items, tone):
                labels = [
                    self._render_text(label, "dim" if row else _TONES[tone]) for row, (label, _) in enumerate(items)
                ]
                room = max(label.cell_len for label in labels) + _GAP
                for label, (_, text) in zip(labels, items, strict=True):
                    label.pad_right(room - label.cell_len)
                    yield _Wrapped(self._render_text("").join([label, self._render_text(text)]), others=room)
            case Table(names, rows, headed):
                columns = [[self._render_text(row[index]) for row in rows] for index in range(len(names))]
                headers = [self._render_text(name, "bold") for name in names if headed]
                yield _Grid(columns, headers, plain=self.plain)
            case Section(title, body):
                parts = [self._render_text(part, "" if place else "bold") for place, part in enumerate(title)]
                yield _Title(parts)
                yield _Indented(self.render_blocks(body, depth + 1))

    def _render_text(self, text: str, style: str = "") -> Text:
        from rich.text import Text

        if self.plain:
            return Text(escape_unprintable(text), overflow="ignore")
        parts = [(escape_unprintable(part), _CODE if is_code else "") for part, is_code in split_code(text)]
        return Text.assemble(*parts, style=style, overflow="fold")


class _Wrapped(NamedTuple):
    """A text, wrapped at its spaces: how far its first line is indented, and how far the others are."""

    text: Text
    first: int = 0
    others: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.text import Text

        lines = [self.text.copy()]
        if self.first + self.text.cell_len > options.max_width:
            # Text itself gives `wrap` its overflow, and "ignore" would then not wrap at all. Where `wrap` asks for it,
            # "ignore" leaves words whole that are longer than a line (rich/text.py).
            line, *others = self.text.wrap(console, max(options.max_width - self.first, 1))
            if others:
                left = self.text.plain[len(line) :].lstrip(" ")
                rest = self.text[len(self.text) - len(left) :]
                others = list(rest.wrap(console, max(options.max_width - self.others, 1)))
            lines = [line, *others]
        for number, line in enumerate(lines):
            line.pad_left(self.others if number else self.first)
        yield from Text("\n").join(lines).render(console, end="\n")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        return Measurement.get(console, options, self.text)


class _Title(NamedTuple):
    """Texts side by side. One that does not fit into the line starts another."""

    parts: Sequence[Text]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[_Wrapped]:
        parts = [part for part in self.parts if part]
        lines = parts[:1]
        for part in parts[1:]:
            joined = part.blank_copy(_BETWEEN).join([lines[-1], part])
            if joined.cell_len + (_HANG if len(lines) > 1 else 0) <= options.max_width:
                lines[-1] = joined
            else:
                lines.append(part)
        for number, line in enumerate(lines):
            yield _Wrapped(line, _HANG if number else 0, _HANG)


class _Grid(NamedTuple):
    """Columns side by side. In plain text none is narrower than its longest word: where that does not fit, each row is
    written as a title is."""

    columns: Sequence[Sequence[Text]]
    headers: Sequence[Text]
    plain: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.table import Table as RichTable

        rows = list(zip(*self.columns, strict=True))
        widths = self._find_widths(options.max_width) if self.plain else [None] * len(self.columns)
        if widths is None:
            yield from map(_Title, rows)
            return
        # The gaps are part of the cells: versions of rich differ in whether a table has one behind its last column.
        gaps = [_GAP] * (len(self.columns) - 1) + [0]
        grid = RichTable(box=None, padding=0, show_header=bool(self.headers))
        for index, (width, gap) in enumerate(zip(widths, gaps, strict=True)):
            header = _pad(self.headers[index], gap) if self.headers else ""
            grid.add_column(header, width=None if width is None else width + gap)
        for row in rows:
            grid.add_row(*map(_pad, row, gaps))
        yield grid

    def _find_widths(self, room: int) -> list[int] | None:
        """As wide as each column needs to be, or the widest ones narrowed; None where there is not enough room.

        rich would narrow a column below its longest word, and crop the word, or leave the column out.
        """
        from rich.cells import cell_len

        columns = [
            [text.plain for text in (*self.headers[index : index + 1], *column)]
            for index, column in enumerate(self.columns)
        ]
        widths = [max(map(cell_len, texts), default=0) for texts in columns]
        words = [max((cell_len(word) for text in texts for word in text.split()), default=0) for texts in columns]
        least = [min(width, max(word, _LEAST_CELL)) for width, word in zip(widths, words, strict=True)]
        room -= _GAP * (len(columns) - 1)
        if sum(least) > room:
            return None
        while sum(widths) > room:
            widths[max((i for i, width in enumerate(widths) if width > least[i]), key=widths.__getitem__)] -= 1
        return widths


def _pad(text: Text, gap: int) -> RenderableType:
    from rich.padding import Padding

    return Padding(_Wrapped(text), (0, gap, 0, 0))


class _Indented(NamedTuple):
    """The blocks under a title. rich's Padding would crop lines that are longer than the console."""

    body: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.segment import Segment

        inside = options.update_width(max(options.max_width - _STEP, 1))
        for line in Segment.split_lines(console.render(self.body, inside)):
            yield from (Segment(" " * _STEP), *line, Segment.line())


def _is_spaced(before: Block | None, block: Block, depth: int) -> bool:
    """Whether an empty line goes before the block: the two outer levels of sections stand apart from what is around."""
    if depth > _SPACED_DEPTH:
        return False
    return isinstance(before, Section) or (isinstance(block, Section) and (before is not None or depth > 0))
