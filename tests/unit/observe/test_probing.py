"""What a probe runs, and that all that registering the hook leaves behind is put back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hooked_programs import PROGRAMS, around, inner, leaf
from module_hooks import FromFunction, Notebook
from probed_hooks import GLOBAL, LOCAL, assert_as_in_reality, hook_state
from torch import nn
from torch.nn.modules import module as module_hooks

from fxgrad.errors import TargetError, UsageError
from fxgrad.graph import HookKind
from fxgrad.graph.backward_graph import ProbeRun
from fxgrad.observe.hooks.registrations import RegistrationWatch
from fxgrad.observe.probing import observe_with_hook

LEGACY, FULL, PRE = LOCAL


def probed(model: nn.Module, *args: Any, module: Any = "", kind: HookKind = FULL, **options: Any) -> ProbeRun:
    return observe_with_hook(model, args, {}, module=module, kind=kind, **options)


def refusal_of(name: str, path: str, kind: HookKind) -> str | None:
    """What PyTorch said about a hook in one of the programs; that it really raises is seen, too."""
    run = assert_as_in_reality(PROGRAMS[name], path, kind).run
    return None if run is None else run.refused


# What is run


def test_the_graph_with_the_hook_has_its_nodes_and_the_graph_without_it_has_none():
    run = probed(nn.Linear(3, 2), leaf(4, 3))
    assert run.after is not None
    names = [
        [node.name for node in graph.nodes].count("BackwardHookFunctionBackward") for graph in (run.before, run.after)
    ]
    assert names == [0, 2]


def test_both_runs_begin_with_the_same_random_state():
    model = nn.Sequential(nn.Linear(8, 8), FromFunction(lambda self, x: x[torch.rand(8) < 0.5] * self.weight[0]))
    run = probed(model, leaf(8, 8), module="0")
    assert run.after is not None
    shapes = [[node.grad_outputs[0].shape for node in graph.nodes][:2] for graph in (run.before, run.after)]
    assert shapes[0] == shapes[1]


def test_the_hook_is_registered_after_those_that_are_there_and_before_those_of_forward():
    notebook = Notebook()
    model, args, _ = PROGRAMS["hooks_on_tensors_and_nodes"](notebook)
    notebook.full(model, "full")
    run = probed(model, *args)
    assert run.after is not None
    assert [hook.function for hook in run.after.hooks][:3] == ["full", "hook", "argument, before"]
    notebook.close()


def test_its_record_is_that_of_a_function_without_a_source():
    run = probed(nn.Linear(3, 2), leaf(3))
    assert run.after is not None
    assert run.after.hooks == (run.hook,)
    assert (run.hook.function, run.hook.source, run.hook.registered, run.hook.may_return) == ("hook", None, None, False)


def test_registrations_that_were_seen_before_are_known_in_both_runs():
    model, watch = nn.Linear(3, 2), RegistrationWatch()
    with watch.watching():
        model.register_full_backward_hook(lambda *_: None)
    run = probed(model, leaf(3), watch=watch)
    assert run.after is not None
    lines = [graph.hooks[0].registered for graph in (run.before, run.after)]
    assert lines[0] is not None
    assert lines[0] == lines[1]
    assert len(watch.registrations) == 1


# What is put back


@pytest.mark.parametrize("kind", [*LOCAL, *GLOBAL], ids=lambda kind: kind.name)
def test_tables_and_flags_are_as_before(kind: HookKind):
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    before = hook_state(model)
    assert probed(model, leaf(3), module="0", kind=kind).refused is None
    assert hook_state(model) == before
    assert module_hooks._global_is_full_backward_hook is None


def test_hooks_that_are_there_stay_in_their_order():
    model = nn.Linear(3, 2)
    first, second = lambda *_: None, lambda *_: None
    model.register_full_backward_hook(first)
    model.register_full_backward_hook(second, prepend=True)
    probed(model, leaf(3))
    assert list(model._backward_hooks.values()) == [second, first]
    assert model._is_full_backward_hook is True


@pytest.mark.parametrize(("name", "path"), [("relu_in_place", "0"), ("removed_legacy_hook", "")])
def test_a_refused_hook_leaves_nothing_either(name: str, path: str):
    notebook = Notebook()
    model, args, _ = PROGRAMS[name](notebook)
    before = hook_state(model)
    assert probed(model, *args, module=path).refused is not None
    assert hook_state(model) == before
    notebook.close()


def test_the_flag_of_a_module_inside_that_the_wrapper_sets_is_put_back():
    wrapper = torch.compile(nn.Linear(3, 2), backend="eager")
    before = hook_state(wrapper)
    assert probed(wrapper, leaf(3)).refused is None
    assert hook_state(wrapper) == before


def test_what_a_class_registers_elsewhere_is_put_back():
    class Passing(nn.Sequential):
        def register_full_backward_hook(self, *args: Any, **kwargs: Any) -> Any:
            return self[0].register_full_backward_hook(*args, **kwargs)

    model = Passing(nn.Linear(3, 2))
    run = probed(model, leaf(3))
    assert run.hook.owner == "0"
    assert (dict(model[0]._backward_hooks), model[0]._is_full_backward_hook) == ({}, None)


def test_a_hook_on_the_users_own_node_is_taken_off():
    x = inner(3)
    assert x.grad_fn is not None
    run = probed(around(nn.Identity(), lambda self, x: self.m(x) * 2), x, module="m", kind=LEGACY)
    assert run.after is not None
    assert [node.label for node in run.after.nodes if node.hooks] == ["MulBackward0_1"]
    assert probed(nn.Identity(), x, kind=PRE).before.hooks == ()


# What PyTorch refuses, in its own words


def test_kinds_do_not_mix_on_one_module():
    assert refusal_of("removed_legacy_hook", "", FULL) == (
        "Module.register_full_backward_hook raises RuntimeError: Cannot use both regular backward hooks and full "
        "backward hooks on a single Module. Please use only one of them."
    )


def test_global_kinds_do_not_mix_either():
    refused = refusal_of("global_legacy_hook", "", HookKind.GLOBAL_FULL_BACKWARD)
    assert refused is not None
    assert refused.startswith(
        "register_module_full_backward_hook raises RuntimeError: Cannot use both regular backward"
    )


def test_a_legacy_hook_beside_a_full_pre_hook_is_allowed():
    model = nn.Linear(3, 2)
    model.register_full_backward_pre_hook(lambda *_: None)
    assert probed(model, leaf(), kind=LEGACY).refused is None


def test_a_change_in_place_is_refused_with_the_call_and_the_line():
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(self.weight)

    refused = probed(FromFunction(forward), leaf(3) * 1).refused
    assert refused is not None
    assert refused.startswith("forward raised RuntimeError in the model (FromFunction), at ")
    assert (
        "`return x.mul_(self.weight)`, which changes in place what the model (FromFunction), with a full hook, got: "
        "Output 0 of BackwardHookFunction is a view and is being modified inplace" in refused
    )


def test_what_the_next_module_changes_in_place_is_refused_there():
    refused = refusal_of("relu_in_place", "0", FULL)
    assert refused is not None
    assert refused.startswith("forward raised RuntimeError in 1 (ReLU)")
    assert refusal_of("relu_in_place", "2", FULL) is None


def test_full_pre_hooks_are_refused_alike_and_legacy_ones_are_not():
    assert refusal_of("sum_in_place", "a", PRE)
    assert refusal_of("sum_in_place", "a", LEGACY) is None


@pytest.mark.parametrize(("name", "error"), [("none_result", "TypeError"), ("dict_without_tensors", "StopIteration")])
def test_a_result_that_a_legacy_hook_finds_no_tensor_in_is_refused(name: str, error: str):
    refused = refusal_of(name, "m", LEGACY)
    assert refused is not None
    assert refused.startswith(f"forward raised {error} in ")


@pytest.mark.parametrize("kind", [LEGACY, HookKind.GLOBAL_BACKWARD])
def test_a_hook_with_which_forward_would_never_return_is_not_tried(kind: HookKind):
    model = around(FromFunction(lambda self, x: "text"), lambda self, x: (self.m(x), x * 2)[1])
    assert probed(model, leaf(3), module="m", kind=kind).refused == (
        "forward does not return from m#1: the result contains a str or itself, and PyTorch's search for its "
        "first tensor never ends"
    )
    assert probed(model, leaf(3), module="m", kind=FULL).refused is None


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning", "ignore:`torch.jit.script:FutureWarning")
def test_a_module_of_torchscript_takes_no_hook(kind: HookKind):
    refused = probed(nn.Sequential(torch.jit.script(nn.Linear(3, 3))), leaf(3), module="0", kind=kind).refused
    assert refused is not None
    assert refused.startswith(f"{kind.value} raises RuntimeError: {kind.value.rpartition('.')[2]} is not supported")


@pytest.mark.parametrize("kind", [FULL, PRE])
def test_a_full_hook_on_a_module_that_a_transform_runs_is_refused(kind: HookKind):
    def differentiated(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return torch.func.grad(lambda y: model.inner(y).sum())(x) * model.weight

    model = FromFunction(differentiated)
    model.inner = nn.Linear(3, 3)
    refused = probed(model, leaf(3), module="inner", kind=kind).refused
    assert refused is not None
    assert "must override the setup_context" in refused


# What it answers nothing about


def test_an_unknown_module_is_refused_with_the_nearest_paths():
    with pytest.raises(UsageError, match=r"no module 'layer\.0'"):
        probed(nn.Sequential(nn.Linear(3, 2)), leaf(3), module="layer.0")


@pytest.mark.parametrize("module", [nn.Linear(3, 2), "<Linear>"])
def test_a_module_that_the_model_does_not_hold_is_refused(module: Any):
    hidden = nn.Linear(3, 3)
    model = FromFunction(lambda self, x: hidden(x) * self.weight)
    with pytest.raises(UsageError) as raised:
        probed(model, leaf(3), module=module)
    assert "a module of the model" in raised.value.allowed or "an attribute of the model" in raised.value.allowed


def test_a_class_that_keeps_hooks_elsewhere_is_refused():
    class Own(nn.Linear):
        def register_full_backward_hook(self, hook: Any, **options: Any) -> Any:
            self.kept = hook

    with pytest.raises(UsageError) as raised:
        probed(Own(3, 2), leaf(3))
    assert raised.value.allowed == "a module that keeps its hooks as torch.nn.Module does"


def test_a_change_of_an_argument_that_cannot_be_put_back_is_refused():
    with pytest.raises(TargetError) as raised:
        probed(nn.ReLU(inplace=True), inner(3), kind=LEGACY)
    assert str(raised.value) == (
        "the second forward may depend on the first: ReluBackward0_1 has a sequence number of the first run\n  "
        "allowed: a forward that can run twice, without the hook and with it\n  try: build the model and its "
        "arguments again, register the hook, and trace them"
    )


def test_a_forward_that_fails_the_second_time_is_not_held_against_the_hook():
    batches = iter([leaf(3), leaf(3)])
    with pytest.raises(TargetError, match="forward runs once, but not again: forward raised StopIteration") as raised:
        probed(FromFunction(lambda self, x: next(batches) * next(batches) * self.weight), leaf(3))
    assert "the hook" in raised.value.allowed


def test_a_model_that_raises_without_the_hook_raises():
    with pytest.raises(TargetError, match="forward raised RuntimeError in the model"):
        probed(nn.Linear(3, 2), leaf(4))
