"""What has to be ready before an answer: the command line, and the table of argument names."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

from tests.benchmarks.conftest import Compared

TABLE = """
import time, torch
import fxgrad.observe.signatures as signatures
start = time.perf_counter()
signatures.signature_of("AddmmBackward0")
print(time.perf_counter() - start)
"""


def run(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout


def test_help_against_an_empty_python(figure: Callable[[str], None], compare: Callable[..., Compared]) -> None:
    took = compare(lambda: run("-m", "fxgrad", "--help"), lambda: run("-c", "pass"), rounds=5, clock=time.perf_counter)
    figure(f"       {took.ours / 1e6:.2f} s")


def test_table_of_argument_names(figure: Callable[[str], None]) -> None:
    seconds = sorted(float(run("-c", TABLE)) for _ in range(3))
    figure(f"       {seconds[1] * 1e3:.1f} ms, once in a process")
