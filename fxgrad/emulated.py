"""Runs a TARGET on the fake accelerator, in an interpreter of its own.

The accelerator is a backend that cannot be taken away again, and its backward asserts once another engine has started;
so the target is loaded in a new process. The request goes there as JSON on stdin, the
answer comes back as JSON in a temporary file: stdout is the target's own. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fxgrad import errors
from fxgrad.errors import FxgradError, TargetError
from fxgrad.exchange.records import records_from_json, records_to_json
from fxgrad.exchange.saved import from_json, to_json
from fxgrad.graph import BackwardGraph
from fxgrad.graph.firings import Firing

if TYPE_CHECKING:
    from fxgrad.observe.targets import Request

_FIRINGS = tuple[Firing, ...]
_STDERR = 2
# not -m, which would put the current folder first on the path, with whatever modules lie there
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); from fxgrad.emulated import main; main()"


def trace_emulated(request: Request) -> BackwardGraph:
    """The graph of the target's forward. Raises what loading and tracing it raises."""
    return from_json(_answer("trace", request)["graph"], origin="the emulated run")


def run_emulated(request: Request) -> tuple[BackwardGraph, tuple[Firing, ...]]:
    """The graph, and what its hooks got in a real backward on fake tensors."""
    answer = _answer("verify", request)
    return from_json(answer["graph"], origin="the emulated run"), records_from_json(answer["firings"], _FIRINGS)


def _answer(verb: str, request: Request) -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="fxgrad-") as folder:
        path = os.path.join(folder, "answer.json")
        question = json.dumps({"verb": verb, "answer": path, "request": asdict(request)})
        child = subprocess.run(
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)], input=question.encode(), stdout=_STDERR, check=False
        )
        if not os.path.exists(path):
            raise TargetError(
                f"the process that ran {request.text} on a fake {request.device} ended with status {child.returncode}",
                "a target that leaves the process running",
                "look at what it printed, or trace it on the CPU",
            )
        with open(path, encoding="utf-8") as file:
            answer: dict[str, Any] = json.load(file)
    if "error" in answer:
        raise _error(answer["error"])
    return answer


def _error(told: dict[str, str]) -> FxgradError:
    kind = getattr(errors, told["kind"], FxgradError)
    error: FxgradError = kind(told["given"], told["allowed"], told["suggestion"], told["details"])
    return error


def main() -> None:
    """Answer one request."""
    question = json.loads(sys.stdin.buffer.read())
    try:
        answer = _run(question["verb"], question["request"])
    except FxgradError as error:
        told = {name: getattr(error, name) for name in ("given", "allowed", "suggestion", "details")}
        answer = {"error": {"kind": type(error).__name__, **told}}
    unfinished = question["answer"] + ".part"
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os.replace(unfinished, question["answer"])


def _run(verb: str, fields: dict[str, Any]) -> dict[str, Any]:
    from fxgrad.observe import targets

    request = targets.Request(**{**fields, "inputs": tuple(fields["inputs"])})
    if verb == "trace":
        return {"graph": to_json(targets.observe_emulated(request))}
    executed = targets.run_emulated(request)
    return {"graph": to_json(executed.graph), "firings": records_to_json(executed.firings, _FIRINGS)}
