"""The rules' pages."""

import doctest
import textwrap
import warnings

import pytest

from fxgrad.errors import UsageError
from fxgrad.rules import find_page, list_codes

CODES = [f"FXG{number}" for number in (*range(101, 117), *range(201, 205), *range(301, 304))]


def test_every_rule_has_a_page_in_the_order_of_the_codes():
    assert list(list_codes()) == CODES


@pytest.mark.parametrize("code", CODES)
def test_the_example_of_a_page_does_in_pytorch_what_it_says(code):
    example = textwrap.dedent(find_page(code).example)
    test = doctest.DocTestParser().get_doctest(example, {}, code, code, 0)
    report: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # non-full hooks warn on most modules
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert (result.attempted > 0, result.failed) == (True, 0), "".join(report)


@pytest.mark.parametrize("code", CODES)
def test_a_page_fits_a_terminal_of_80_columns_but_for_code(code):
    prose = [line for line in str(find_page(code)).splitlines() if not line.lstrip().startswith((">>>", "...", "["))]
    long = [line for line in prose if len(line) > 80 and not line.lstrip().startswith("RuntimeError")]
    assert long == []


@pytest.mark.parametrize("code", CODES)
def test_a_page_says_what_why_how_and_what_to_do(code):
    headings = [line for line in str(find_page(code)).splitlines() if line and not line.startswith(" ")]
    assert headings == [f"{code}  {find_page(code).title}", "What happens", "Why", "Example", "What to do"]


def test_small_letters_find_a_page():
    assert find_page("fxg104") is find_page("FXG104")


def test_an_unknown_code_names_the_nearest_ones():
    with pytest.raises(UsageError) as raised:
        find_page("FXG1O1")
    assert str(raised.value) == (
        f"no rule has the code FXG1O1\n  allowed: one of {', '.join(CODES)}\n  try: the nearest: FXG116, FXG115, FXG114"
    )
