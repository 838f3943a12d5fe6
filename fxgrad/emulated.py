"""Runs a TARGET or a live model on the emulated device, in a process of its own.

The emulated device is a backend that cannot be taken away again, so it is set up in a forked child. Where non-full hooks
are, another child runs the same TARGET on the CPU, so that FXG102 can show both sides: neither sees the other's modules or
backend.

A new interpreter runs what a fork cannot. A backward on the emulated device asserts once another engine has started, as
it may have here (torch/csrc/autograd/engine.cpp); and some platforms cannot fork. The options go there as JSON on stdin,
the answer comes back as JSON in a temporary file: stdout is the target's own. Nothing is pickled.
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
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from msgspec import structs

from fxgrad.errors import FxgradError, TargetError, error_from_dict
from fxgrad.exchange.saved import records_from_json, records_to_json
from fxgrad.graph import BackwardGraph, HookKind, OtherDevice
from fxgrad.graph.backward_graph import ProbeRun
from fxgrad.observe.accelerator import forked
from fxgrad.observe.execution import Executed
from fxgrad.observe.target import devices, loading
from fxgrad.predict import find_landings, find_places, set_backward_call
from fxgrad.target_options import TargetOptions

_Result = TypeVar("_Result", BackwardGraph, ProbeRun, Executed)

_STDOUT, _STDERR = 1, 2
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
sys.path[:], parent = json.loads(sys.argv.pop())
from fxgrad.child_process import end_with_parent
end_with_parent(parent, by=signal.SIGKILL)
from fxgrad.emulated import answer_question
answer_question(sys.stdin.buffer.read())
"""
"""Not -m, which would put the current folder first on the path, with whatever modules lie there. While it imports torch,
an interrupt ends it without a word."""


# In the process that asks


def run_in_fork(run: Callable[[], _Result], kind: type[_Result], *, timeout: float | None = None) -> _Result:
    """What `run` returns in a forked child, of this `kind`. Raises what ``forked.in_forked_child`` raises."""
    return records_from_json(forked.in_forked_child(lambda: records_to_json(run()), timeout=timeout), kind)


def trace_elsewhere(options: TargetOptions) -> BackwardGraph:
    """The graph of the target's forward on the emulated device.

    Its ``info.other_device`` says how it is on the CPU where a non-full hook is on a node. Raises what loading and
    tracing it on the emulated device raises; a failure on the CPU is only noted.
    """
    if not forked.can_fork():
        return _ask(options, BackwardGraph, verb="trace")
    graph = run_in_fork(lambda: _trace(options), BackwardGraph)
    if any(site.hook.kind.is_legacy and site.node is not None for site in find_places(graph)):
        return _with_other_device(graph, _trace_on_cpu(options, graph))
    return graph


def probe_elsewhere(options: TargetOptions, module: str, kind: HookKind) -> ProbeRun:
    """The graphs of the target's forward on the emulated device without a hook and with it.

    For a non-full hook their ``info.other_device`` says how it is on the CPU. Raises as `trace_elsewhere` does.
    """
    if not forked.can_fork():
        return _ask(options, ProbeRun, verb="probe", module=module, hook=kind.value)
    run = run_in_fork(lambda: _probe(options, module, kind), ProbeRun)
    if kind.is_legacy and run.after is not None:
        other = _trace_on_cpu(options, run.before)
        return run.with_graphs(lambda graph: _with_other_device(graph, other))
    return run


def _with_other_device(graph: BackwardGraph, other: OtherDevice) -> BackwardGraph:
    return structs.replace(graph, info=structs.replace(graph.info, other_device=other))


def _trace_on_cpu(options: TargetOptions, emulated: BackwardGraph) -> OtherDevice:
    """On which nodes non-full hooks sit on the CPU, or why that is not known."""
    sizes = [math.prod(size for size in each.meta.shape or () if isinstance(size, int)) for each in emulated.variables]
    if sum(sizes) > _MOST_ELEMENTS:
        return OtherDevice(_CPU, failure=f"its tensors hold {sum(sizes):,} elements, too many to try")

    def silent() -> BackwardGraph:
        _discard_output()
        return loading.observe_target(replace(options, device=_CPU))[0].graph

    try:
        return OtherDevice(_CPU, find_landings(run_in_fork(silent, BackwardGraph, timeout=_MOST_SECONDS)))
    except FxgradError as error:
        return OtherDevice(_CPU, failure=error.given)


def _discard_output() -> None:
    """The target has printed what it prints when it ran on the device that was asked for."""
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process
    for descriptor in (_STDOUT, _STDERR):
        os.dup2(sys.stdout.fileno(), descriptor)


def execute_in_interpreter(options: TargetOptions) -> Executed:
    """The graph, and what its hooks get in a real backward of tensors without data."""
    return _ask(options, Executed, verb="verify")


def _ask(options: TargetOptions, kind: type[_Result], **question: str) -> _Result:
    """What a new interpreter answers, of this `kind`. Raises the error that it answers, and TargetError where it ends."""
    with tempfile.TemporaryDirectory(prefix="fxgrad-") as folder:
        path = os.path.join(folder, "answer.json")
        status = _run_interpreter(json.dumps({**question, "options": options.to_json(), "answer": path}))
        if not os.path.exists(path):
            raise TargetError(
                f"the process that ran {options.text} on an emulated {options.device} exited with status {status}",
                "a target that does not exit the process",
                "see what it printed, or trace it on the CPU",
            )
        with open(path, encoding="utf-8") as file:
            answer: dict[str, Any] = json.load(file)
    if "error" in answer:
        raise error_from_dict(answer["error"])
    return records_from_json(answer["result"], kind)


def _run_interpreter(question: str) -> int:
    """The exit status. An interrupt is passed on, so that the process ends by itself."""
    command = [sys.executable, "-X", "faulthandler", "-c", _PROGRAM, json.dumps([sys.path, os.getpid()])]
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


# In the new interpreter


def answer_question(text: str | bytes) -> None:
    """Answer one question: a JSON object that says which, and in which file the answer is awaited."""
    question = json.loads(text)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        answer: dict[str, Any] = {"result": records_to_json(_run(question))}
    except FxgradError as error:
        answer = {"error": error.to_dict()}
    except KeyboardInterrupt:  # the process that asked says so
        os._exit(_INTERRUPTED)
    unfinished = question["answer"] + ".part"
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os.replace(unfinished, question["answer"])


def _run(question: dict[str, Any]) -> BackwardGraph | ProbeRun | Executed:
    options = TargetOptions.from_json(question["options"])
    match question["verb"]:
        case "trace":
            return _trace(options)
        case "probe":
            return _probe(options, question["module"], HookKind(question["hook"]))
    calling = partial(set_backward_call, inputs=options.backward_inputs, api=options.backward_api)
    return devices.run_emulated(options.device, lambda _: loading.execute_target(options, calling))


# In a child, or in the new interpreter


def _trace(options: TargetOptions) -> BackwardGraph:
    return devices.run_emulated(options.device, lambda _: loading.observe_target(options)[0]).graph


def _probe(options: TargetOptions, module: str, kind: HookKind) -> ProbeRun:
    return devices.run_emulated(options.device, lambda _: loading.observe_target_with_hook(options, module, kind))
