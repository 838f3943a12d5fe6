from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxgrad.errors import UsageError
from fxgrad.observe.literals import parse_init


def refusal(text):
    with pytest.raises(UsageError) as caught:
        parse_init(text)
    return caught.value


def test_nothing_is_an_empty_argument_list():
    assert parse_init("") == ((), {})


def test_literals_of_every_kind_are_taken():
    assert parse_init("1, -2.5, 'a', None, True, (1, 2), [3], {'k': 4}, 1+2j").args == (
        (1, -2.5, "a", None, True, (1, 2), [3], {"k": 4}, 1 + 2j)
    )


def test_keywords_follow_positional_arguments():
    assert parse_init("1000, 1000, bias=False") == ((1000, 1000), {"bias": False})


def test_a_list_may_span_lines_and_end_in_a_comma():
    assert parse_init("1,\n2,\r\nbias=True,\n") == ((1, 2), {"bias": True})


def test_an_error_points_at_the_place_and_shows_the_grammar():
    assert str(refusal("1000, hidden")) == (
        "bad --init: a literal was expected here\n"
        "    1000, hidden\n"
        "          ^\n"
        "  allowed: a Python argument list of literals, such as 1000, 1000, bias=False\n"
        "  try: a factory, file.py:build, can pass anything else, such as dtype=torch.float64"
    )


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("3, dtype=torch.float64", 9),
        ("__import__('os').system('true')", 0),
        ("é, 1", 0),
        ("'é', é", 5),
        ("x for x in y", 0),
        ("*[1]", 0),
        ("{[]: 1}", 0),
        ("1,\nlayers", 3),
    ],
)
def test_what_is_no_literal_is_pointed_at(text, column):
    shown = text.replace("\n", r"\n")
    column += shown != text
    assert refusal(text).given == f"bad --init: a literal was expected here\n    {shown}\n    {' ' * column}^"


@pytest.mark.parametrize("text", ["1)(2", "1) + (2", "f(1)(2", "1, 2)", "(1, 2", "1,,2", "a=1, 2", ",", "\0", "\ud800"])
def test_what_is_no_argument_list_is_refused(text):
    assert refusal(text).given.startswith("bad --init: ")


def test_a_keyword_given_twice_is_refused():
    assert "each keyword once, and no **" in refusal("a=1, a=2").given


def test_double_stars_are_refused():
    assert "each keyword once, and no **" in refusal("**{'a': 1}").given


@pytest.mark.parametrize("text", ["(" * 5000, "-" * 100_000 + "1", "[" * 150 + "]" * 150, "9" * 5000])
def test_a_text_that_exhausts_the_parser_is_refused_or_taken(text):
    with suppress(UsageError):
        parse_init(text)


@settings(deadline=None)
@given(st.text(alphabet="f(1,2)=*x'\"#\\\n\r\f[]{}: -é", max_size=30))
def test_any_text_is_parsed_or_refused(text):
    with suppress(UsageError):
        parse_init(text)


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(), st.text(), st.none(), st.booleans())), st.booleans())
def test_what_repr_writes_is_read_back(values, bias):
    text = ", ".join([*map(repr, values), f"bias={bias}"])
    assert parse_init(text) == (tuple(values), {"bias": bias})
