"""The rules' pages."""

import doctest
import re
import textwrap
import warnings
from pathlib import Path

import pytest

import fxgrad
from fxgrad.errors import UsageError
from fxgrad.rules import find_page, list_codes

CODES = list_codes()


def test_every_rule_is_registered_once_and_in_the_order_of_the_codes():
    families = Path(fxgrad.rules.__file__).parent.glob("fxg*.py")
    registered = [
        code for family in families for code in re.findall(r'^    code="(FXG\d{3})"', family.read_text(), re.M)
    ]
    assert list(CODES) == sorted(registered)
    assert len(set(registered)) == len(registered)


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


def test_a_code_that_is_like_no_other_names_the_first_ones():
    with pytest.raises(UsageError) as raised:
        find_page("no rule")
    assert raised.value.suggestion == f"the nearest: {', '.join(CODES[:3])}"


def test_an_unknown_code_names_the_nearest_ones():
    with pytest.raises(UsageError) as raised:
        find_page("FXG1O1")
    assert raised.value.given == "no rule has the code FXG1O1"
    assert raised.value.allowed == f"one of {', '.join(CODES)}"
    assert re.fullmatch(r"the nearest: FXG1\d\d, FXG1\d\d, FXG1\d\d", raised.value.suggestion)
