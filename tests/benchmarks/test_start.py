"""What has to be ready before an answer: the command line, and the table of argument names."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from tests.benchmarks.conftest import Compared

TABLE = """
import time, torch
from fxgrad.observe.autograd import argument_names
start = time.perf_counter()
argument_names.find_signature("AddmmBackward0")
print(time.perf_counter() - start)
"""


FIRST = """
import sys, time
clock = time.process_time
import torch
torch_imported, start = clock(), clock()
before = set(sys.modules)
import fxgrad
model, x = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)), torch.ones(1, 2)
fxgrad.trace(model, x)
first = clock() - start
start = clock()
for _ in range(20):
    fxgrad.trace(model, x)
print(torch_imported, first, (clock() - start) / 20, len(set(sys.modules) - before))
"""


def run(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout


def test_help_against_an_empty_python(figure: Callable[[str], None], compare: Callable[..., Compared]) -> None:
    took = compare(lambda: run("-m", "fxgrad", "--help"), lambda: run("-c", "pass"), rounds=5, clock=time.perf_counter)
    figure(f"       {took.ours / 1e6:.2f} s")


def test_table_of_argument_names(figure: Callable[[str], None]) -> None:
    seconds = sorted(float(run("-c", TABLE)) for _ in range(3))
    figure(f"       {seconds[1] * 1e3:.1f} ms, once in a process")


def test_first_trace_against_importing_torch(figure: Callable[[str], None]) -> None:
    rows = sorted([float(part) for part in run("-c", FIRST).split()] for _ in range(3))
    torch_imported, first, later, modules = rows[1]
    figure(
        f"{first / torch_imported:6.2f} times the import of torch   {first:.2f} s against {torch_imported:.2f} s, "
        f"{modules:.0f} modules; a later trace {later * 1e3:.1f} ms"
    )
