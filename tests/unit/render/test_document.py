"""Documents as plain text: what is long is wrapped, what cannot be wrapped is left whole, nothing escapes."""

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from fxgrad.render.document import Paragraph, Section, Table, Terms, format_document, render_document, split_code

WIDTH = 40

words = st.text(min_size=1, max_size=12)
texts = st.lists(words, min_size=1, max_size=12).map(" ".join)
leaves = st.one_of(
    texts.map(Paragraph),
    st.lists(st.tuples(words, texts), min_size=1, max_size=3).map(lambda items: Terms(tuple(items))),
    st.lists(st.tuples(words, words, texts), max_size=4).map(lambda rows: Table(("a", "b", "c"), tuple(rows))),
    st.lists(st.tuples(words, texts), max_size=4).map(lambda rows: Table(("a", "b"), tuple(rows), headed=False)),
)
blocks = st.recursive(
    leaves,
    lambda inner: st.builds(
        Section,
        st.lists(texts, min_size=1, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(tuple),
    ),
    max_leaves=6,
)
documents = st.lists(blocks, min_size=1, max_size=4).map(tuple)


@given(documents)
def test_every_line_prints_whatever_the_texts_are(document):
    assert [line for line in format_document(document, width=WIDTH).split("\n") if not line.isprintable()] == []


@given(st.lists(st.one_of(texts.map(Paragraph), st.lists(texts, min_size=1).map(tuple).map(Section))).map(tuple))
def test_a_line_is_longer_than_the_width_only_where_its_last_word_must_be(document):
    for line in format_document(document, width=WIDTH).split("\n"):
        if cell_len(line) > WIDTH:
            start = line.rstrip().rpartition(" ")[0].rstrip()
            assert cell_len(start) <= WIDTH


@given(documents)
def test_no_line_ends_in_space(document):
    assert [line for line in format_document(document, width=WIDTH).split("\n") if line != line.rstrip()] == []


def test_sections_of_the_outer_levels_stand_apart():
    document = (
        Paragraph("first"),
        Section(("a",), (Section(("b",), (Section(("c",), (Paragraph("d"),)), Paragraph("e"))), Paragraph("f"))),
    )
    assert format_document(document, width=WIDTH) == "first\n\na\n\n  b\n    c\n      d\n    e\n\n  f\n"


def test_a_title_goes_on_in_the_next_line_part_by_part():
    title = ("layers.3", "LSTMCell(1000, 1000)", "3 calls", "a name that is longer than what is left of it all")
    assert format_document((Section(title),), width=WIDTH) == (
        "layers.3   LSTMCell(1000, 1000)\n    3 calls\n    a name that is longer than what is\n    left of it all\n"
    )


def test_labels_are_aligned_and_their_texts_hang():
    terms = Terms((("FXG101", "one two three four five six seven eight"), ("fix", "none")))
    assert (
        format_document((terms,), width=30)
        == "FXG101  one two three four\n        five six seven eight\nfix     none\n"
    )


def test_the_widest_column_is_narrowed_first():
    table = Table(("entry", "stands for"), (("[0] self", "the first of the arguments that there are"),), headed=False)
    assert format_document((table,), width=36) == "[0] self  the first of the arguments\n          that there are\n"


def test_a_table_that_is_too_narrow_for_columns_is_written_row_by_row():
    table = Table(("on", "node"), (("encoder.layers.0.attention", "ScaledDotProductBackward0_12"),))
    assert format_document((table,), width=WIDTH) == "encoder.layers.0.attention\n    ScaledDotProductBackward0_12\n"


def test_a_row_of_a_narrow_table_leaves_out_cells_that_are_empty():
    table = Table(("on", "node"), (("", ""), ("encoder.layers.0.attention", "ScaledDotProductBackward0_12"), ("x", "")))
    assert format_document((table,), width=WIDTH) == (
        "encoder.layers.0.attention\n    ScaledDotProductBackward0_12\nx\n"
    )


def test_a_column_is_never_left_out_nor_a_word_cropped():
    names = ("no.", "BackwardHookFunctionBackward_1", "post-accumulate", "embedding.weight")
    for width in range(1, 80):
        text = format_document((Table(("a", "b", "c", "d"), (names,)),), width=width)
        assert [name for name in names if name not in text] == []


def test_a_document_that_is_printed_twice_is_the_same_twice():
    document = (Section(("a", "b"), (Paragraph("c"), Terms((("because", "d"),)))),)
    console = Console(width=WIDTH, file=StringIO(), record=True)
    shown = render_document(document)
    console.print(shown)
    console.print(shown)
    text = console.export_text()
    assert text == text[: len(text) // 2] * 2


def test_wide_characters_take_two_columns():
    table = Table(("a", "b"), (("層", "x"), ("abcd", "y")), headed=False)
    assert format_document((table,), width=WIDTH) == "層    x\nabcd  y\n"


@pytest.mark.parametrize("text", ["", "`", "``", "a`b", "`a` `", "plain"])
def test_no_backtick_is_lost_that_marks_no_code(text):
    parts = split_code(text)
    whole = "".join(f"`{span.text}`" if span.is_code else span.text for span in parts)
    assert whole == text.replace("``", "")
