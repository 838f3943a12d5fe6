"""Breaks each rule of prediction, one at a time: the comparison with real backward must see every one of them."""

import sys

import pytest
import torch
from breakages import BREAKAGES
from comparison import PROPERTIES
from small_slice import SLICE
from wrong_rules import without_the_last

from fxgrad.graph.check import GraphLintError
from fxgrad.predict import entries

pytestmark = pytest.mark.filterwarnings("ignore")


def break_rule(monkeypatch, owner, name, change):
    """Replace a rule wherever it is known: under its name, in the rooms that import it, in tables."""
    right = getattr(owner, name)
    wrong = change(right)
    monkeypatch.setattr(owner, name, wrong)
    rooms = [room for path, room in sys.modules.items() if path.startswith("fxgrad.predict")]
    for room in rooms:
        for known, value in list(vars(room).items()):
            if value is right:
                monkeypatch.setattr(room, known, wrong)
            elif isinstance(value, dict):
                for key in [key for key, member in value.items() if member is right]:
                    monkeypatch.setitem(value, key, wrong)


@pytest.mark.parametrize("program", SLICE)
def test_nothing_is_wrong_where_no_rule_is_broken(program):
    comparison = SLICE[program]()
    assert not comparison.wrong, comparison.wrong
    assert comparison.sites


OLDER = "a mean alone gives gradients"
NEWER_TORCH = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)
SEEN_HERE = [
    pytest.param(name, marks=pytest.mark.skipif(NEWER_TORCH and name == OLDER, reason="torch 2.14 has other formulas"))
    for name in BREAKAGES
]


@pytest.mark.parametrize("breakage", SEEN_HERE)
def test_a_broken_rule_is_seen(monkeypatch, breakage):
    owner, name, change, program, properties = BREAKAGES[breakage]
    break_rule(monkeypatch, owner, name, change)
    comparison = SLICE[program]()
    assert {difference.what for difference in comparison.differences} == set(properties.split()), comparison.wrong


@pytest.mark.parametrize(("name", "program"), [("grad_input", "a_sum_of_products"), ("grad_output", "unused_results")])
def test_lint_sees_a_hook_on_a_node_that_lacks_an_entry(monkeypatch, name, program):
    break_rule(monkeypatch, entries, f"list_{name}s", without_the_last)
    with pytest.raises(GraphLintError, match=f"{name} for the"):
        SLICE[program]()


def test_every_property_is_seen_wrong_by_some_breakage():
    seen = {what for *_, properties in BREAKAGES.values() for what in properties.split()}
    assert seen | {"refusal"} == {*PROPERTIES}
