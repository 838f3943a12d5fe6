"""The changes that `mutants` makes, and which tests it takes for the nearest."""

import ast

import pytest

from tests.mutants import Mutant, changes_of, choose_mutants, nearest_tests


def changed_sources(source):
    tree = ast.parse(source)
    for _ in changes_of(tree):
        yield ast.unparse(tree)
    assert ast.unparse(tree) == source


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a == b", ["a != b"]),
        ("a < b", ["a <= b"]),
        ("a is None", ["a is not None"]),
        ("a in b", ["a not in b"]),
        ("a and b", ["a or b"]),
        ("a + b", ["a - b"]),
        ("not a", ["a"]),
        ("a = 3", ["a = 4", "a = 2"]),
        ("a = True", ["a = False"]),
        ("b if a else c", ["c if a else b"]),
        ("f(a, b, c)", ["f(b, a, c)"]),
        ("[a for a in b if a]", ["[a for a in b]"]),
        ("def f():\n    return a", ["def f():\n    return None"]),
        ("if a:\n    b", ["if not a:\n    b"]),
        ("def f(a: B | None) -> C | None:\n    return None", []),
        ("a = f('text')", []),
    ],
)
def test_each_kind_of_change_is_made_and_types_are_left_alone(source, expected):
    assert sorted(changed_sources(source)) == sorted(expected)


def test_a_seed_chooses_the_same_lines_again_and_each_once():
    mutants = choose_mutants(["fxgrad/rules"], count=8, seed=3)
    assert mutants == choose_mutants(["fxgrad/rules"], count=8, seed=3)
    assert len({(mutant.path, mutant.line) for mutant in mutants}) == 8


def test_the_nearest_tests_execute_the_line_and_else_the_file():
    tests = {
        "slow": {"seconds": 2.0, "lines": [["a.py", 1], ["a.py", 2]]},
        "quick": {"seconds": 1.0, "lines": [["a.py", 2]]},
        "other": {"seconds": 0.5, "lines": [["b.py", 1]]},
    }
    assert nearest_tests(tests, Mutant("a.py", 2, "", "", "")) == ["quick", "slow"]
    assert nearest_tests(tests, Mutant("a.py", 1, "", "", "")) == ["slow"]
    assert nearest_tests(tests, Mutant("a.py", 9, "", "", "")) == ["quick", "slow"]
