"""Other threads go on undisturbed while one traces, and what they do is not taken for the traced program's."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from changing_modules import ignored
from torch import nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

import fxgrad
from fxgrad.graph import HookKind
from tests.support.targets import python

PATIENCE = 60

needs_thread_clocks = pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="needs clocks of threads")


class Waiting(nn.Module):
    """Its forward has another thread do something in the middle, and waits for its end."""

    def __init__(self, meanwhile: Callable[[], Any]) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(4, 2)
        self.meanwhile = meanwhile

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        in_another_thread(self.meanwhile)
        return self.b(y)


def in_another_thread(function: Callable[[], Any]) -> Any:
    """Run a function there to its end; its result, or what it raises."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    if errors:
        raise errors[0]
    return results[0]


def traced(meanwhile: Callable[[], Any], verb: Callable[..., Any] = fxgrad.trace) -> Any:
    model = Waiting(meanwhile)
    model.a.register_full_backward_hook(ignored)
    return verb(model, torch.randn(5, 3))


def outline(trace: fxgrad.Trace) -> Any:
    """What is in a trace, but for the numbers that tell one node from another."""
    graph = trace.graph
    return (
        [(node.label, [edge.argument for edge in node.edges], node.call) for node in graph.nodes],
        [call.id for call in graph.calls],
        [(fx_node.name, fx_node.modules) for fx_node in graph.forward],
        [(hook.function, hook.owner) for hook in graph.hooks],
        graph.info.notes,
    )


def train() -> float:
    """What a thread of its own does: modules of every kind, hooks, backward, warnings."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh())
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    model[0].register_full_backward_hook(ignored)
    model[0].register_forward_pre_hook(ignored)
    model[2].register_forward_hook(ignored)
    total = 0.0
    for _ in range(3):
        x = torch.ones(2, 4, requires_grad=True)
        result = model(x * 2)
        result.register_hook(ignored)
        result.sum().backward()
        total += float(x.grad.sum() + result.detach().sum())
    return total


def test_calls_of_another_thread_are_not_recorded() -> None:
    assert outline(traced(train)) == outline(traced(lambda: None))


def test_another_thread_computes_what_it_always_does() -> None:
    expected, seen = train(), []
    traced(lambda: seen.append(train()))
    assert seen == [expected]


def test_hooks_of_another_thread_stay() -> None:
    leaf, module, fired = torch.ones(3, requires_grad=True), nn.Linear(3, 3), []

    def register() -> None:
        leaf.register_hook(lambda grad: fired.append("tensor"))
        module.register_full_backward_hook(lambda module, grad_input, grad_output: fired.append("module"))

    traced(register)
    module(leaf * 2).sum().backward()
    assert fired == ["module", "tensor"]


def test_hooks_that_another_thread_removes_stay_away() -> None:
    leaf, fired = torch.ones(3, requires_grad=True), []
    handle = leaf.register_hook(lambda grad: fired.append(1))
    traced(handle.remove)
    (leaf * 2).sum().backward()
    assert fired == []


def test_hooks_of_another_thread_are_none_of_the_models() -> None:
    leaf = torch.ones(3, requires_grad=True)
    trace = traced(lambda: leaf.register_hook(ignored))
    assert [hook.kind for hook in trace.graph.hooks] == [HookKind.MODULE_FULL_BACKWARD]


def test_warnings_of_another_thread_are_shown_and_no_notes() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        trace = traced(lambda: warnings.warn("from elsewhere", stacklevel=1))
    assert trace.graph.info.notes == ()
    assert [str(warning.message) for warning in shown] == ["from elsewhere"]


def test_warnings_of_the_model_are_notes_and_not_shown() -> None:
    class Warning(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            warnings.warn("from here", stacklevel=1)
            return super().forward(x)

    trace = fxgrad.trace(Warning(3, 3), torch.ones(2, 3))
    assert trace.graph.info.notes == ("while forward ran, UserWarning: from here",)


def test_same_module_runs_in_another_thread_meanwhile() -> None:
    """Its forward pre-hooks are watched in the traced thread alone."""
    shared = nn.Linear(3, 3)
    shared.register_forward_pre_hook(ignored)
    shared.register_full_backward_hook(ignored)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = shared
            self.shared.register_forward_pre_hook(lambda module, args: meanwhile())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.shared(x)

    depth: list[int] = []

    def meanwhile() -> None:
        if not depth:
            depth.append(1)
            in_another_thread(lambda: shared(torch.ones(7, 3, requires_grad=True)).sum().backward())

    trace = fxgrad.trace(Model(), torch.ones(5, 3))
    assert [call.id for call in trace.calls] == ["#1", "shared#1"]
    assert [tensor.meta.shape for tensor in trace.calls[1].inputs] == [(5, 3)]
    assert trace.sites[0].grad_output[0].shape == (5, 3)


def test_backward_of_another_thread_is_none_of_the_verified_ones() -> None:
    """A hook on a weight is called in both."""
    model, began = nn.Linear(3, 3), []

    def meanwhile(grad: torch.Tensor) -> None:
        if not began:
            began.append(1)
            in_another_thread(lambda: model(torch.ones(7, 3)).sum().backward())

    model.weight.register_hook(ignored)
    model.bias.register_hook(meanwhile)
    verified = fxgrad.verify(model, torch.ones(5, 3))
    assert began == [1]
    assert verified.differences == ()


def test_other_threads_do_not_see_the_mode_in_which_the_model_runs() -> None:
    seen: list[int] = []
    traced(lambda: seen.append(torch._C._len_torch_function_stack()))
    assert seen == [0]


@pytest.mark.parametrize("verb", [fxgrad.trace, fxgrad.verify])
def test_a_second_thread_that_traces_is_refused(verb: Callable[..., Any]) -> None:
    refused: list[str] = []

    def second() -> None:
        with pytest.raises(fxgrad.UsageError) as error:
            verb(nn.Linear(3, 3), torch.ones(2, 3))
        refused.append(str(error.value))

    assert traced(second)
    given, allowed, advice = refused[0].splitlines()
    assert given == "a trace while another one is running"
    assert allowed == "  allowed: one trace at a time per process: the methods that it wraps are shared by all threads"
    assert advice == "  try: trace one after the other, or in separate processes"


def test_a_second_thread_that_records_or_captures_is_refused() -> None:
    def second() -> None:
        with pytest.raises(fxgrad.UsageError, match="while another one is running"), fxgrad.record(nn.Linear(3, 3)):
            pass
        with pytest.raises(fxgrad.UsageError, match="while another one is running"):
            fxgrad.capture(nn.Linear(3, 3)(torch.ones(2, 3)))

    assert traced(second)


def test_a_second_trace_goes_when_the_first_is_over() -> None:
    assert outline(in_another_thread(lambda: traced(lambda: None))) == outline(traced(lambda: None))


def test_threads_that_train_all_the_while_do_not_disturb() -> None:
    stop, totals = threading.Event(), []

    def go_on() -> None:
        while not stop.is_set():
            totals.append(train())

    expected = outline(traced(lambda: None))
    threads = [threading.Thread(target=go_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        outlines = [outline(traced(lambda: None)) for _ in range(5)]
        verified = [traced(lambda: None, fxgrad.verify) for _ in range(5)]
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert outlines == [expected] * 5
    assert [one.differences for one in verified] == [()] * 5
    assert all(type(total) is float for total in totals)
    assert totals


class Meanwhile(nn.Module):
    """The nodes of what it returns belong to no function's result: a checkpoint's, or those of a tangent."""

    def __init__(self, run: Callable[..., torch.Tensor], meanwhile: Callable[[], Any] = lambda: None) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.run, self.meanwhile = run, meanwhile

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.meanwhile()
        return self.run(self.a, x)


def run_in_checkpoint(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return checkpoint(module, x, use_reentrant=True)


def find_tangent(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(forward_ad.make_dual(x, torch.ones_like(x)).sin()).tangent


def call_of(run: Callable[..., torch.Tensor], meanwhile: Callable[[], Any] = lambda: None) -> str | None:
    """The call that the first node is told to be made in."""
    trace = fxgrad.trace(Meanwhile(run, meanwhile), torch.ones(2, 3, requires_grad=True))
    return trace.graph.nodes[0].call


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: None).result(PATIENCE)
        yield pool


@needs_thread_clocks
@pytest.mark.parametrize("run", [run_in_checkpoint, find_tangent])
def test_thread_that_waits_all_the_while_leaves_nothing_unknown(
    run: Callable[..., torch.Tensor], pool: ThreadPoolExecutor
) -> None:
    call_of(run)  # what PyTorch makes once in a process takes so long that a thread of the test's surroundings may run
    assert call_of(run) == "#1"


def multiply_in(pool: ThreadPoolExecutor) -> Callable[[], Any]:
    return lambda: pool.submit(lambda: torch.ones(3) * 2).result(PATIENCE)


def test_thread_that_was_there_before_and_runs_something_may_have_made_nodes(pool: ThreadPoolExecutor) -> None:
    assert call_of(find_tangent, multiply_in(pool)) is None


def test_node_of_a_checkpoint_was_seen_and_is_none_of_another_thread(pool: ThreadPoolExecutor) -> None:
    assert call_of(run_in_checkpoint, multiply_in(pool)) == "#1"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_that_is_forked_while_another_thread_traces_can_trace(repository: Path) -> None:
    """In a process of its own: a fork does not survive what threads of earlier tests may hold."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = python("-W", "ignore", "-c", f"from {__name__} import *; trace_in_child()", cwd=repository, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def trace_in_child() -> None:
    """Fork while another thread traces: the child has no patches of that, and traces."""
    expected, answers = call_of(run_in_checkpoint), []

    def fork() -> None:
        child = os.fork()
        if child == 0:
            patched = nn.Module._call_impl is not call_impl or RemovableHandle.__init__ is not init
            os._exit(1 if patched else 0 if call_of(run_in_checkpoint) == expected else 2)
        answers.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    call_impl, init = nn.Module._call_impl, RemovableHandle.__init__
    traced(fork)
    assert answers == [0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_child_that_forward_itself_forks_is_inside_of_the_trace() -> None:
    answers = []

    def fork() -> None:
        child = os.fork()
        if child == 0:
            try:
                fxgrad.trace(nn.Linear(3, 3), torch.ones(2, 3))
            except fxgrad.UsageError:
                os._exit(0)
            os._exit(1)
        answers.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    call_of(run_in_checkpoint, fork)
    assert answers == [0]
