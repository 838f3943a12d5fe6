"""Changes one line of fxgrad at a time, and prints the changes that no test notices.

    python tests/mutants.py --count 40 --seed 1 --jobs 2 fxgrad/predict fxgrad/rules

Works in scratch copies of the checkout. A first run of the rooms' unit tests and doctests, and of those that hold what
is said of sample programs, records which test executes which line; each mutant then goes to the tests that execute its
line, the quickest first. What survives is a line that no test looks at, or a change that makes no difference: a reader
decides.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
LONGEST = 600
"""Seconds for the tests of one mutant. One that takes longer is in an endless loop, and caught."""
PROCESSES = multiprocessing.get_context("forkserver")
FLIPS: dict[type[ast.AST], type[ast.AST]] = {
    **{
        ast.Eq: ast.NotEq,
        ast.NotEq: ast.Eq,
        ast.Is: ast.IsNot,
        ast.IsNot: ast.Is,
        ast.In: ast.NotIn,
        ast.NotIn: ast.In,
    },
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}
LEFT_ALONE = ("annotation", "returns", "decorator_list", "bases")
PROGRAMS = ("tests/functional/test_rule_samples.py", "tests/functional/test_strangers.py")
"""Tests of what is said about whole programs, to the letter."""


class Mutant(NamedTuple):
    """One change of one file, as the source of the changed file."""

    path: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}\n    - {self.before}\n    + {self.after}"


def changes_of(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Change the tree in every way that `replacements` knows, one at a time and always in the same order.

    Yields the line, and the node before and after, while the tree is changed. Types are left alone.
    """
    waiting: list[tuple[ast.AST, int]] = [(tree, 1)]
    while waiting:
        parent, line = waiting.pop()
        for field, value in ast.iter_fields(parent):
            place: Any = value if isinstance(value, list) else vars(parent)
            for key in range(len(value)) if isinstance(value, list) else [field]:
                node = place[key]
                is_strict = (
                    isinstance(parent, ast.keyword) and parent.arg == "strict"
                )  # of zip: a check for programmers
                if isinstance(node, ast.AST) and field not in LEFT_ALONE and not is_strict:
                    line_of_node = getattr(node, "lineno", line)
                    waiting.append((node, line_of_node))
                    for changed in replacements(node):
                        place[key] = ast.fix_missing_locations(changed)
                        yield line_of_node, _first_line(node), _first_line(changed)
                        place[key] = node


def _first_line(node: ast.AST) -> str:
    return ast.unparse(node).strip().splitlines()[0]


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What may take the place of a node."""
    match node:
        case ast.Compare(left=left, ops=[op], comparators=comparators) if type(op) in FLIPS:
            yield ast.Compare(left, [FLIPS[type(op)]()], comparators)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(FLIPS[type(op)](), values)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in FLIPS:
            yield ast.BinOp(left, FLIPS[type(op)](), right)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Call(func=func, args=[first, second, *rest], keywords=keywords):
            yield ast.Call(func, [second, first, *rest], keywords)
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) not in ("None", "False"):  # both are false
            yield ast.Return(ast.Constant(None))
        case ast.If(test=test, body=body, orelse=orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.comprehension(target=target, iter=iterable, ifs=[_, *rest], is_async=is_async):
            yield ast.comprehension(target, iterable, rest, is_async)


def make_mutant(path: Path, number: int) -> Mutant:
    """The mutant of a file by the number of its change."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    change = next(islice(changes_of(tree), number, None))
    return Mutant(str(path.relative_to(REPOSITORY)), *change, ast.unparse(tree))


def choose_mutants(rooms: list[str], count: int, seed: int) -> list[Mutant]:
    """A random mutant of each of `count` random lines."""
    by_line: dict[tuple[Path, int], list[int]] = {}
    for path in sorted(path for room in rooms for path in (REPOSITORY / room).rglob("*.py")):
        for number, (line, *_) in enumerate(changes_of(ast.parse(path.read_text(encoding="utf-8")))):
            by_line.setdefault((path, line), []).append(number)
    chance = random.Random(seed)
    lines = chance.sample(sorted(by_line), min(count, len(by_line)))
    return [make_mutant(line[0], chance.choice(by_line[line])) for line in lines]


def run_tests(copy: Path, tests: list[str], *options: str, **environment: str) -> bool:
    """Whether tests of a copy pass, on the package in that copy. Runs in a process that has torch imported already."""
    process = PROCESSES.Process(target=_run_pytest, args=(copy, [*options, *tests], environment))
    process.start()
    process.join(LONGEST)
    if process.is_alive():
        process.kill()
    process.join()
    return process.exitcode == 0


def _run_pytest(copy: Path, arguments: list[str], environment: dict[str, str]) -> None:
    import pytest

    paths = [str(copy), str(copy / "tests/support")]
    os.chdir(copy)
    os.environ.update(environment, PYTHONPATH=os.pathsep.join(paths))
    sys.path[:0] = paths
    sys.dont_write_bytecode = True
    with Path("pytest.log").open("w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        code = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *arguments])
    sys.exit(int(code))


def record_lines(copy: Path, rooms: list[str]) -> dict[str, dict[str, Any]]:
    """The tests of the rooms, as they are: each with the lines that it executes and the seconds that it takes."""
    target = copy / "executed_lines.json"
    units = [f"tests/unit/{room.removeprefix('fxgrad/')}" for room in rooms]
    environment = {"EXECUTED_LINES": str(target), "EXECUTED_ROOMS": os.pathsep.join(rooms)}
    if not run_tests(copy, [*units, *rooms, *PROGRAMS], "-p", "executed_lines", **environment):
        raise SystemExit(f"the tests fail without a mutant:\n{(copy / 'pytest.log').read_text(encoding='utf-8')}")
    tests: dict[str, dict[str, Any]] = json.loads(target.read_text(encoding="utf-8"))
    return tests


def nearest_tests(tests: dict[str, dict[str, Any]], mutant: Mutant) -> list[str]:
    """The tests that execute the mutant's line, the quickest first; for a line outside of functions, any of its file."""
    on_line = [test for test, seen in tests.items() if [mutant.path, mutant.line] in seen["lines"]]
    in_file = [test for test, seen in tests.items() if any(path == mutant.path for path, _ in seen["lines"])]
    return sorted(on_line or in_file, key=lambda test: float(tests[test]["seconds"]))


def survives(mutant: Mutant, copies: SimpleQueue[Path], tests: dict[str, dict[str, Any]]) -> bool:
    """Whether the nearest tests pass with the mutant in a copy."""
    copy = copies.get()
    original = (copy / mutant.path).read_text(encoding="utf-8")
    (copy / mutant.path).write_text(mutant.source, encoding="utf-8")
    try:
        nearest = nearest_tests(tests, mutant)
        return not nearest or run_tests(copy, nearest)
    finally:
        (copy / mutant.path).write_text(original, encoding="utf-8")
        copies.put(copy)


def main() -> None:
    """Try the mutants, and print those that survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", default=["fxgrad/predict", "fxgrad/rules"])
    parser.add_argument("--count", type=int, default=40, help="how many lines to change (40)")
    parser.add_argument("--seed", type=int, default=0, help="which lines (0)")
    parser.add_argument("--jobs", type=int, default=1, help="how many mutants at a time (1)")
    options = parser.parse_args()
    PROCESSES.set_forkserver_preload(["torch"])
    mutants = choose_mutants(options.rooms, options.count, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for job in range(options.jobs):
            ignored = shutil.ignore_patterns("__pycache__", ".git", ".*_cache", ".hypothesis")
            copies.put(Path(shutil.copytree(REPOSITORY, Path(folder, str(job)), ignore=ignored)))
        tests = record_lines(Path(folder, "0"), options.rooms)
        alive = 0
        with ThreadPoolExecutor(options.jobs) as pool:
            fates = pool.map(lambda mutant: survives(mutant, copies, tests), mutants)
            for mutant, survived in zip(mutants, fates, strict=True):
                if survived:
                    print(mutant, flush=True)
                    alive += 1
    print(f"{len(mutants) - alive} of {len(mutants)} mutants caught, seed {options.seed}")


if __name__ == "__main__":
    main()
