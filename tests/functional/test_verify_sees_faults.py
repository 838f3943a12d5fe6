"""A prediction that is wrong in one place is told as just that by verify; the right one is told to be right.

The prediction of a real model is changed before it is held against what the hooks really got.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from changing_modules import ignored
from msgspec.structs import replace
from torch import nn
from torch.autograd.graph import register_multi_grad_hook
from torch.nn.modules import module as module_hooks
from zoo_nested import Around, reversible_block

import fxgrad
from fxgrad import verification
from fxgrad.graph import BackwardGraph, Gradient, HookKind, HookSite
from fxgrad.graph.records import Firing
from fxgrad.graph.text import format_hook
from fxgrad.observe import execution
from fxgrad.predict import places, predict
from fxgrad.verification import Difference, Verification
from tests.support.commands import printed_by


def first(*arguments: Any) -> None:
    """A hook."""


def second(*arguments: Any) -> None:
    """Another hook."""


class Model(nn.Module):
    """Two layers; forward registers hooks on what it makes."""

    def __init__(self, on_result: Callable[[torch.Tensor, Any], Any] = ignored) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(4, 2)
        self.on_result = on_result

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        self.on_result(y, first)
        z = self.b(y)
        self.on_result(z, second)
        return z


def on_modules(register: str) -> Model:
    model = Model()
    getattr(model.a, register)(first)
    getattr(model.b, register)(second)
    return model


def on_leaves(register: str) -> Model:
    model = Model()
    getattr(model.a.weight, register)(first)
    getattr(model.b.weight, register)(second)
    return model


def multi_grad() -> Model:
    model = Model()
    register_multi_grad_hook((model.a.weight, model.a.bias), first)
    register_multi_grad_hook((model.b.weight, model.b.bias), second)
    return model


PROGRAMS: dict[HookKind, Callable[[], Model]] = {
    HookKind.MODULE_BACKWARD: lambda: on_modules("register_backward_hook"),
    HookKind.MODULE_FULL_BACKWARD: lambda: on_modules("register_full_backward_hook"),
    HookKind.MODULE_FULL_BACKWARD_PRE: lambda: on_modules("register_full_backward_pre_hook"),
    HookKind.TENSOR: lambda: on_leaves("register_hook"),
    HookKind.POST_ACCUMULATE_GRAD: lambda: on_leaves("register_post_accumulate_grad_hook"),
    HookKind.NODE: lambda: Model(lambda tensor, hook: tensor.grad_fn.register_hook(hook)),
    HookKind.NODE_PRE: lambda: Model(lambda tensor, hook: tensor.grad_fn.register_prehook(hook)),
    HookKind.MULTI_GRAD: multi_grad,
    HookKind.RETAIN_GRAD: lambda: Model(lambda tensor, hook: tensor.retain_grad()),
}
WITH_GRADIENTS = [kind for kind in PROGRAMS if kind is not HookKind.POST_ACCUMULATE_GRAD]
SEEN_IN_ORDER = [kind for kind in PROGRAMS if kind is not HookKind.RETAIN_GRAD]
WITH_NONE = [HookKind.MODULE_BACKWARD, HookKind.NODE, HookKind.MODULE_FULL_BACKWARD]


class Run(NamedTuple):
    """A real backward, and what was predicted for it."""

    graph: BackwardGraph
    firings: tuple[Firing, ...]

    def verified(self, *sites: HookSite) -> Verification:
        return verification.compare(replace(self.graph, sites=sites), self.firings)


def run(kind: HookKind) -> Run:
    executed = execution.execute(PROGRAMS[kind](), (torch.randn(5, 3),), {})
    return Run(predict(executed.graph), executed.firings)


def fault(kind: HookKind, change: Callable[[HookSite], HookSite]) -> Difference:
    """The one difference that is found when the site that fires last is predicted in another way."""
    ran = run(kind)
    assert ran.verified(*ran.graph.sites).differences == ()
    *others, site = ran.graph.sites
    verified = ran.verified(*others, change(site))
    assert not verified.ok
    (difference,) = verified.differences
    assert difference.site == change(site)
    assert f"  wrong {difference.what}: " in str(verified)
    assert f"predicted {difference.predicted}, got {difference.got}" in str(verified)
    assert site.hook.kind is kind
    assert f" {format_hook(site.hook)} at " in str(verified)
    return difference


def told(difference: Difference) -> tuple[str, str, str]:
    return difference.what, difference.predicted, difference.got


def sides(site: HookSite) -> list[str]:
    return [name for name in ("grad_input", "grad_output") if getattr(site, name)]


def with_entry(site: HookSite, wanted: str = "tensor", **changes: Any) -> HookSite:
    """The first entry of that status, in the last tuple that has one, is changed."""
    for side in sides(site)[::-1]:
        entries = list(getattr(site, side))
        for rank, entry in enumerate(entries):
            if entry.status == wanted:
                entries[rank] = replace(entry, **changes)
                return replace(site, **{side: tuple(entries)})
    raise AssertionError(f"no entry is {wanted}")


def last_longer(site: HookSite) -> HookSite:
    side = sides(site)[-1]
    entries = getattr(site, side)
    return replace(site, **{side: (*entries, replace(entries[-1], index=len(entries)))})


def last_shorter(site: HookSite) -> HookSite:
    side = sides(site)[0]
    return replace(site, **{side: getattr(site, side)[:-1]})


@pytest.mark.parametrize("kind", WITH_GRADIENTS)
def test_a_length_that_is_too_large(kind: HookKind) -> None:
    difference = fault(kind, last_longer)
    count = len(difference.site.grad_output)
    assert told(difference) == ("length", f"{count} in grad_output", f"{count - 1} in grad_output")


@pytest.mark.parametrize("kind", WITH_GRADIENTS)
def test_a_length_that_is_too_small(kind: HookKind) -> None:
    difference = fault(kind, last_shorter)
    side = "grad_input" if kind in WITH_NONE else "grad_output"
    count = len(getattr(difference.site, side))
    assert told(difference) == ("length", f"{count} in {side}", f"{count + 1} in {side}")


def test_a_gradient_that_a_post_accumulate_hook_does_not_get() -> None:
    entry = Gradient(0, None, "tensor", (3,), "float32", None)
    difference = fault(HookKind.POST_ACCUMULATE_GRAD, lambda site: replace(site, grad_output=(entry,)))
    assert told(difference) == ("length", "1 in grad_output", "0 in grad_output")


@pytest.mark.parametrize("kind", WITH_GRADIENTS)
def test_a_none_that_is_a_tensor(kind: HookKind) -> None:
    difference = fault(kind, lambda site: with_entry(site, status="none"))
    shape = str(next(entry for entry in difference.site.grad_output if entry.status == "none").shape)
    assert told(difference) == ("none", "grad_output[0] None", f"grad_output[0] a tensor {shape}")


@pytest.mark.parametrize("kind", WITH_NONE)
def test_a_tensor_that_is_none(kind: HookKind) -> None:
    difference = fault(kind, lambda site: with_entry(site, "none", status="tensor", shape=(7,)))
    place = "grad_input[0]" if kind is HookKind.MODULE_FULL_BACKWARD else "grad_input[1]"
    assert told(difference) == ("none", f"{place} a tensor (7,)", f"{place} None")


@pytest.mark.parametrize("kind", WITH_GRADIENTS)
def test_a_shape(kind: HookKind) -> None:
    difference = fault(kind, lambda site: with_entry(site, shape=(7, 8)))
    assert difference.what == "shape"
    assert difference.predicted == "grad_output[0] (7, 8)"
    assert difference.got in ("grad_output[0] (5, 4)", "grad_output[0] (4, 3)")


@pytest.mark.parametrize("kind", WITH_GRADIENTS)
def test_a_dtype(kind: HookKind) -> None:
    difference = fault(kind, lambda site: with_entry(site, dtype="float16"))
    assert told(difference) == ("dtype", "grad_output[0] float16", "grad_output[0] float32")


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_node(kind: HookKind) -> None:
    right = run(kind).graph.sites[-1].node
    assert right is not None
    difference = fault(kind, lambda site: replace(site, node=right - 1))
    assert told(difference) == ("node", f"node {right - 1}", f"node {right}")


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_hook_that_fires_though_it_should_not(kind: HookKind) -> None:
    difference = fault(kind, lambda site: replace(site, fires=False, times=0, order=None))
    assert told(difference) == ("fires", "does not fire", "once")


class WithUnused(Model):
    """The first layer's result is not used."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        self.on_result(y, first)
        return self.b(x.new_ones(5, 4))


def unused(kind: HookKind) -> Model:
    model = PROGRAMS[kind]()
    model.__class__ = WithUnused
    return model


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_hook_that_does_not_fire_though_it_should(kind: HookKind) -> None:
    executed = execution.execute(unused(kind), (torch.randn(5, 3),), {})
    ran = Run(predict(executed.graph), executed.firings)
    assert ran.verified(*ran.graph.sites).differences == ()
    (silent,) = [site for site in ran.graph.sites if site.fires is False]
    others = [site for site in ran.graph.sites if site is not silent]
    (difference,) = ran.verified(*others, replace(silent, fires=True, times=1, order=len(others))).differences
    assert told(difference) == ("fires", "fires", "never")


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_number_of_times(kind: HookKind) -> None:
    difference = fault(kind, lambda site: replace(site, times=2))
    assert told(difference) == ("times", "2 times", "once")


@pytest.mark.parametrize("kind", SEEN_IN_ORDER)
def test_an_order(kind: HookKind) -> None:
    ran = run(kind)
    late, early = ran.graph.sites
    verified = ran.verified(replace(late, order=early.order), replace(early, order=late.order))
    assert [difference.what for difference in verified.differences] == ["order", "order"]
    assert verified.differences[0].predicted.startswith(f"first ({kind.value}) on ")
    assert verified.differences[0].predicted.endswith(" as number 0")
    assert verified.differences[0].got.startswith(f"second ({kind.value}) on ")


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_hook_without_a_site(kind: HookKind) -> None:
    ran = run(kind)
    *others, forgotten = ran.graph.sites
    (difference,) = ran.verified(*others).differences
    assert told(difference) == ("fires", "no site there", "once")
    assert difference.site.hook == forgotten.hook
    assert difference.site.node == forgotten.node


@pytest.mark.parametrize("kind", [kind for kind in PROGRAMS if kind.is_module])
def test_a_call_without_a_site(kind: HookKind) -> None:
    model = nn.Sequential(*[nn.Linear(3, 3)] * 2)
    getattr(model[0], {HookKind.MODULE_BACKWARD: "register_backward_hook"}.get(kind, kind.value[7:]))(first)
    executed = execution.execute(model, (torch.randn(5, 3, requires_grad=True),), {})
    ran = Run(predict(executed.graph), executed.firings)
    assert ran.verified(*ran.graph.sites).differences == ()
    (difference,) = ran.verified(ran.graph.sites[0]).differences
    assert told(difference) == ("fires", "no site there", "once")
    assert "on 0 at 0#1: predicted no site there, got once" in str(ran.verified(ran.graph.sites[0]))


def test_each_of_several_firings_is_held_against_the_prediction() -> None:
    """A firing is made up here: the engine calls no hook twice with gradients of two shapes."""
    ran = run(HookKind.TENSOR)
    site = ran.graph.sites[-1]
    (real,) = [firing for firing in ran.firings if firing.hook == site.hook.id]
    twice = (*ran.firings, replace(real, order=2, grad_output=(None,)))
    told_twice = replace(ran.graph, sites=(ran.graph.sites[0], replace(site, times=2)))
    (difference,) = verification.compare(told_twice, twice).differences
    assert told(difference) == ("none", "grad_output[0] a tensor (4, 3)", "grad_output[0] None")


# The whole verb


def test_verify_tells_a_wrong_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: BackwardGraph) -> BackwardGraph:
        right = predict(graph)
        return replace(right, sites=tuple([replace(site, node=0) for site in right.sites]))

    monkeypatch.setattr("fxgrad.api.predict", wrong)
    verified = fxgrad.verify(on_modules("register_full_backward_hook"), torch.randn(5, 3, requires_grad=True))
    assert not verified.ok
    assert {difference.what for difference in verified.differences} == {"node"}
    assert "2 hook sites, 4 entries compared: 2 wrong, 0 unknown\n  wrong node: second " in str(verified)


# Hooks that raise


def failing(*arguments: Any) -> None:
    raise ValueError("no gradient today")


def with_failing(kind: HookKind) -> Model:
    model = PROGRAMS[kind]()
    if kind is HookKind.MULTI_GRAD:
        register_multi_grad_hook((model.a.weight, model.a.bias), failing)
    elif kind.is_module:
        getattr(model.a, kind.value[7:])(failing)
    elif kind in (HookKind.NODE, HookKind.NODE_PRE):
        register = "register_hook" if kind is HookKind.NODE else "register_prehook"
        model.on_result = lambda tensor, hook: getattr(tensor.grad_fn, register)(failing)
    else:
        getattr(model.a.weight, kind.value[7:])(failing)
    return model


@pytest.mark.parametrize("kind", SEEN_IN_ORDER)
def test_a_hook_that_raises_is_named(kind: HookKind) -> None:
    with pytest.raises(fxgrad.TargetError) as raised:
        fxgrad.verify(with_failing(kind), torch.randn(5, 3))
    given, allowed, advice = str(raised.value).splitlines()
    assert given.startswith(f"the hook failing ({kind.value}) on ")
    assert given.endswith(" raised ValueError: no gradient today")
    assert allowed == "  allowed: a backward that runs, with hooks that do not raise"
    assert advice == "  try: call backward() on result by itself"
    assert raised.value.exit_status == 3
    assert 'raise ValueError("no gradient today")' in raised.value.details


def test_the_line_that_registered_it_is_told_where_it_was_seen() -> None:
    model = Model(lambda tensor, hook: tensor.register_hook(failing))
    with pytest.raises(fxgrad.TargetError) as raised:
        fxgrad.verify(model, torch.randn(5, 3))
    line = model.on_result.__code__.co_firstlineno
    registered = f"registered at test_verify_sees_faults.py:{line}, raised ValueError: no gradient today"
    assert raised.value.given == f"the hook failing (Tensor.register_hook) on linear_1, {registered}"


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        if grad.ndim > 0:  # read from the code, this may be true or not
            raise ValueError("no gradient today")
        return grad


def test_a_backward_that_raises_is_not_blamed_on_a_hook() -> None:
    model = on_modules("register_full_backward_hook")
    model.b.register_forward_hook(lambda module, args, result: Failing.apply(result))
    with pytest.raises(fxgrad.TargetError, match=r"^backward raised ValueError: no gradient today"):
        fxgrad.verify(model, torch.randn(5, 3))


def test_global_hook_that_raises_is_named() -> None:
    handle = module_hooks.register_module_full_backward_hook(failing)
    try:
        with pytest.raises(fxgrad.TargetError, match=r"on all modules.* raised ValueError"):
            fxgrad.verify(nn.Tanh(), torch.randn(5, requires_grad=True))
    finally:
        handle.remove()
        module_hooks._global_is_full_backward_hook = None


# Hooks that run only in a backward inside backward


def in_reversible_block(register: str) -> nn.Module:
    model = Around(reversible_block)
    getattr(model.inside, register)(first)
    return model


@pytest.mark.parametrize(
    "register", ["register_backward_hook", "register_full_backward_hook", "register_full_backward_pre_hook"]
)
def test_a_module_hook_that_runs_only_inside_another_backward_is_seen(register: str) -> None:
    executed = execution.execute(in_reversible_block(register), (torch.randn(3, 4),), {})
    graph = predict(executed.graph)
    assert verification.compare(graph, executed.firings).ok
    never = [replace(site, fires=False, times=0, order=None) for site in graph.sites]
    verified = verification.compare(replace(graph, sites=tuple(never)), executed.firings)
    assert {told(difference) for difference in verified.differences} == {("fires", "no site there", "once")}


def test_the_command_line_fails_where_one_is_said_never_to_fire(
    monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.setattr(
        places.PlaceFinder,
        "_make_site_in_rerun",
        lambda self, hook, call: places.make_silent_site(hook, "said so by the test", call=call.id),
    )
    printed = printed_by("fxgrad verify tests/strangers/reversible_min.py:build", repository)
    assert "wrong fires: show (Module.register_full_backward_hook) on blocks.0.lin" in printed
    assert printed.endswith("[exit status 1]")
