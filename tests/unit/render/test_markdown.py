"""The report as Markdown: headings, tables, and nothing of the user's that becomes markup."""

import pytest
from msgspec.structs import replace

from fxgrad.render.document import Table
from fxgrad.render.markdown import escape_prose, format_markdown
from fxgrad.render.report import compose_report
from fxgrad.rules import explain


def report_of(program):
    graph = program.graph()
    return format_markdown(compose_report(graph, explain(graph)), title="Backward graph")


def test_the_report_has_a_title_and_sections(linear):
    headings = [line for line in report_of(linear).splitlines() if line.startswith("#")]
    assert headings[:2] == ["# Backward graph", "## findings"]
    sections = [heading for heading in headings if heading.startswith("## ")]
    assert sections[1:3] == ["## hooks, in order of registration", "## firing order"]
    assert sections[-1] == "## summary"


def test_every_row_of_a_table_has_as_many_cells_as_its_header(lstm_cells):
    rows = [line for line in report_of(lstm_cells).splitlines() if line.startswith("|")]
    assert rows
    assert {line.replace(r"\|", "").count("|") for line in rows} <= {4, 5, 8}


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b", r"a\|b"),
        ("<script>", r"\<script\>"),
        ("*a* _b_", r"\*a\* \_b\_"),
        ("[a](b)", r"\[a\](b)"),
        ("# no heading", r"\# no heading"),
        ("- no list", r"\- no list"),
        ("1. no list", r"1\. no list"),
        ("&lt;", r"\&lt;"),
        ("two\nlines", r"two\\nlines"),
        ("a`b", r"a\`b"),
        ("https://example.org", r"https\://example.org"),
        ("code: `a|<b>*c*`", "code: `a|<b>*c*`"),
    ],
)
def test_what_markdown_gives_a_meaning_is_escaped(text, written):
    assert escape_prose(text) == written


@pytest.mark.parametrize("name", ["a|b", "a\\|b", "a\\\\|b", "`a|b`", "`a\\|b`", "| |"])
def test_a_pipe_never_ends_a_cell(name):
    *_, row = format_markdown((Table(("on", "node"), ((name, "x"),)),)).splitlines()
    assert cells_of(row) == 2


def cells_of(row):
    """How many cells GitHub sees: a pipe ends one unless an unescaped backslash is before it, in code as well."""
    number, escaped = 0, False
    for char in row.strip().removeprefix("|"):
        number += char == "|" and not escaped
        escaped = char == "\\" and not escaped
    return number


def test_names_from_the_program_stay_names(linear):
    linear.hooks[0] = replace(linear.hooks[0], function="show|<b>`*\n*")
    linear.sites[0] = replace(linear.sites[0], hook=linear.hooks[0])
    assert r"| fc | non-full | show\|\<b\>\`\*\\n\* |" in report_of(linear)
