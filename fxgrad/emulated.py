"""Runs a TARGET on the fake accelerator, in an interpreter of its own.

The accelerator is a backend that cannot be taken away again, and its backward asserts once another engine has started;
so the target is loaded in a new process. The request goes there as JSON on stdin, the
answer comes back as JSON in a temporary file: stdout is the target's own. Nothing is pickled.

Where non-full hooks are, the same target runs on the CPU, too, so that FXG102 can show both sides. Each side has a fork
of the new process: neither sees the other's modules, backend or engine, and torch is imported once.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs

from fxgrad import errors
from fxgrad.errors import FxgradError, TargetError
from fxgrad.exchange.saved import from_json, records_from_json, records_to_json, to_json
from fxgrad.graph import BackwardGraph, Landing, OtherDevice
from fxgrad.graph.records import Firing
from fxgrad.predict import find_landings, find_places, set_backward_call

if TYPE_CHECKING:
    from fxgrad.observe.targets import Request

_FIRINGS = tuple[Firing, ...]
_LANDINGS = tuple[Landing, ...]
_STDERR = 2
_INTERRUPTED = 130
_SECONDS_TO_END = 5.0
_CPU = "cpu"
_MOST_ELEMENTS = 500_000_000
"""Of the tensors that the model holds: on the CPU they have data, 2 GB of it as float32."""
_MOST_SECONDS = 60.0
_PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
import json, sys
sys.path[:] = json.loads(sys.argv.pop())
from fxgrad.emulated import main
main()
"""
"""Not -m, which would put the current folder first on the path, with whatever modules lie there. While it imports torch,
an interrupt ends it without a word."""


def trace_emulated(request: Request, *, compare: bool = False) -> BackwardGraph:
    """The graph of the target's forward, with how it is on the CPU where a non-full hook is on a node, or `compare`.

    Raises what loading and tracing it on the fake accelerator raises; a failure on the CPU is only noted.
    """
    answer = _answer("compare" if compare else "trace", request)
    graph = from_json(answer["graph"], origin="the emulated run")
    (other,) = records_from_json(answer.get("other", "[null]"), tuple[OtherDevice | None])
    return structs.replace(graph, info=structs.replace(graph.info, other_device=other))


def run_emulated(request: Request) -> tuple[BackwardGraph, tuple[Firing, ...]]:
    """The graph, and what its hooks got in a real backward on fake tensors."""
    answer = _answer("verify", request)
    return from_json(answer["graph"], origin="the emulated run"), records_from_json(answer["firings"], _FIRINGS)


def _answer(verb: str, request: Request) -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="fxgrad-") as folder:
        path = os.path.join(folder, "answer.json")
        question = json.dumps({"verb": verb, "answer": path, "request": asdict(request)})
        status = _run_interpreter(question)
        if not os.path.exists(path):
            raise TargetError(
                f"the process that ran {request.text} on a fake {request.device} ended with status {status}",
                "a target that leaves the process running",
                "look at what it printed, or trace it on the CPU",
            )
        with open(path, encoding="utf-8") as file:
            answer: dict[str, Any] = json.load(file)
    if "error" in answer:
        raise _error(answer["error"])
    return answer


def _run_interpreter(question: str) -> int:
    """The exit status. An interrupt is passed on, so that the process can end its own forks."""
    command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=_STDERR) as child:
        try:
            child.communicate(question.encode())
        except BaseException:
            _interrupt(child)
            raise
    return child.returncode


def _interrupt(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGINT)
    try:
        child.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        child.kill()


def _error(told: dict[str, str]) -> FxgradError:
    kind = getattr(errors, told["kind"], FxgradError)
    error: FxgradError = kind(told["given"], told["allowed"], told["suggestion"], told["details"])
    return error


def main() -> None:
    """Answer one request."""
    question = json.loads(sys.stdin.buffer.read())
    try:
        answer = _told(lambda: _run(question["verb"], question["request"]))
    except KeyboardInterrupt:  # told by the process that asked
        os._exit(_INTERRUPTED)
    unfinished = question["answer"] + ".part"
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os.replace(unfinished, question["answer"])


def _told(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the work answers, or the error that it raises."""
    try:
        return work()
    except FxgradError as error:
        told = {name: getattr(error, name) for name in ("given", "allowed", "suggestion", "details")}
        return {"error": {"kind": type(error).__name__, **told}}


def _run(verb: str, fields: dict[str, Any]) -> dict[str, Any]:
    from fxgrad.observe import targets

    signal.signal(signal.SIGINT, signal.default_int_handler)
    lists = {name: tuple(fields[name]) for name in ("inputs", "backward_inputs")}
    request = targets.Request(**{**fields, **lists})
    if verb != "verify":
        return _traced(request, compare=verb == "compare")
    executed = targets.run_emulated(
        request, partial(set_backward_call, inputs=request.backward_inputs or None, api=request.api)
    )
    return {"graph": to_json(executed.graph), "firings": records_to_json(executed.firings)}


def _traced(request: Request, *, compare: bool) -> dict[str, Any]:
    from fxgrad.observe import accelerator, targets

    def emulated() -> dict[str, Any]:
        return {"graph": to_json(targets.observe_emulated(request))}

    if not accelerator.can_fork():
        return emulated()
    answer: dict[str, Any] = json.loads(accelerator.in_forked_child(lambda: json.dumps(_told(emulated))))
    if "graph" in answer:
        graph = from_json(answer["graph"])
        if compare or any(site.hook.kind.is_legacy and site.node is not None for site in find_places(graph)):
            answer["other"] = records_to_json((_on_the_cpu(request, graph),))
    return answer


def _on_the_cpu(request: Request, graph: BackwardGraph) -> OtherDevice:
    from fxgrad.observe import accelerator, targets

    def work() -> str:
        _silence()
        return records_to_json(find_landings(targets.observe(replace(request, device=_CPU))[0].graph))

    held = sum(
        math.prod(size for size in variable.meta.shape or () if isinstance(size, int)) for variable in graph.variables
    )
    if held > _MOST_ELEMENTS:
        return OtherDevice(_CPU, failure=f"its tensors hold {held:,} elements, too many to try")
    try:
        return OtherDevice(_CPU, records_from_json(accelerator.in_forked_child(work, timeout=_MOST_SECONDS), _LANDINGS))
    except FxgradError as error:
        return OtherDevice(_CPU, failure=error.given)


def _silence() -> None:
    """The target has printed what it prints when it ran on the device that was asked for."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())
