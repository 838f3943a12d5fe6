"""New interpreters for the emulated device that start fast: forks of a process that has imported torch and run nothing.

Importing torch and torch._dynamo takes most of the time of a short program. `test_answers` and `test_process` run the
real thing.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

import pytest

from fxgrad import emulated

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["torch._dynamo", "fxgrad.emulated"])


@pytest.fixture
def fast_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers the questions of `fxgrad.emulated` in forks of a process that keeps torch imported."""
    monkeypatch.setattr(emulated, "_run_interpreter", run_in_fork)


def run_in_fork(question: str) -> int:
    """The exit status of a process that answers a question."""
    process = _SERVER.Process(target=_answer, args=(question, sys.path, os.getcwd()))
    process.start()
    process.join()
    return process.exitcode or 0


def _answer(question: str, path: list[str], folder: str) -> None:
    os.dup2(2, 1)  # stdout is that of the process that asks
    sys.path[:] = path
    os.chdir(folder)
    emulated.answer_question(question)
