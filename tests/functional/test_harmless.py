"""A trace leaves the user's model, tensors and graphs as they were."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import fxgrad


class Changing(nn.Module):
    """Forward writes to a parameter, to buffers, to attributes and to a list, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4, max_norm=0.1)
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.utils.spectral_norm(nn.Linear(4, 4))
        self.kept: list[torch.Tensor] = []
        self.cache: torch.Tensor | None = None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.cache = self.linear(self.norm(self.embedding(tokens)))
        self.kept.append(self.cache)
        return nn.functional.dropout(self.cache, 0.5)


def state_of(model: nn.Module) -> list[object]:
    tensors = [*model.parameters(), *model.buffers()]
    attributes = [{name: id(value) for name, value in vars(module).items()} for module in model.modules()]
    values = [(id(t), t._version, t.detach().clone().numpy().tobytes(), t.grad) for t in tensors]
    return [attributes, values, len(model.kept), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("verb", [fxgrad.trace, fxgrad.verify])
def test_state_is_as_before(verb) -> None:
    model, tokens = Changing(), torch.arange(6)
    before = state_of(model)
    verb(model, tokens)
    assert state_of(model) == before


def test_state_is_as_before_when_forward_raises() -> None:
    class Raising(Changing):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            super().forward(tokens)
            raise ValueError("half way")

    model = Raising()
    before = state_of(model)
    with pytest.raises(fxgrad.TargetError, match="half way"):
        fxgrad.trace(model, torch.arange(6))
    assert state_of(model) == before


def test_live_graph_still_backpropagates_the_same_gradients() -> None:
    model, tokens = Changing(), torch.arange(6)
    untouched = copy.deepcopy(model)
    losses = []
    for each in (model, untouched):
        torch.manual_seed(0)
        losses.append(each(tokens).square().sum())
    fxgrad.trace(model, tokens)
    for loss in losses:
        loss.backward()
    for mine, other in zip(model.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)


def test_hook_of_a_module_that_returns_its_input_does_not_stay_on_the_users_node() -> None:
    seen = []
    model = nn.Identity()
    model.register_backward_hook(lambda module, grad_input, grad_output: seen.append(1))
    upstream = torch.ones(3, requires_grad=True) * 2
    fxgrad.trace(model, upstream)
    upstream.sum().backward()
    assert seen == []


def test_trace_keeps_neither_model_nor_activations_alive() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    made = []
    model[1].register_forward_hook(lambda module, args, output: made.append(weakref.ref(output)))
    trace = fxgrad.trace(model, torch.ones(2, 3))
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert [reference() for reference in made] == [None]
    assert trace.graph.nodes


def test_a_trace_inside_another_is_refused() -> None:
    class Nested(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            fxgrad.trace(nn.Linear(1, 1), torch.ones(1, 1))
            return x

    with pytest.raises(fxgrad.UsageError, match="a trace while another one is running"):
        fxgrad.trace(Nested(), torch.ones(1, requires_grad=True))


def test_a_kept_trace_lets_parameters_be_swapped() -> None:
    """As ``Module.to`` does under ``set_swap_module_params_on_conversion``: it refuses tensors with weak references."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    trace = fxgrad.trace(model, torch.ones(2, 3))
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert model[0].weight.dtype is torch.float64
    assert trace.predict(inputs=[model[0].weight]).graph.info.backward.names == ("0.weight",)


@pytest.mark.parametrize("node_hooks", [False, True])
def test_what_capture_costs_does_not_grow_with_what_else_is_alive(node_hooks, monkeypatch) -> None:
    """It goes from the graph, the model and the hooks to what they lead to: it never asks for every object."""
    layers = [nn.Linear(8, 8) for _ in range(40)]
    model = nn.Sequential(*layers)
    layers[0].register_full_backward_hook(lambda *_: None)
    layers[1].weight.register_hook(lambda _: None)
    layers[2].weight.register_post_accumulate_grad_hook(lambda _: None)
    loss = model(torch.ones(2, 8)).sum()
    loss.grad_fn.register_hook(lambda *_: None)
    looks: list[str] = []
    for name in ("get_objects", "get_referrers", "collect"):
        monkeypatch.setattr(gc, name, lambda *_, name=name: looks.append(name) or [])
    kinds = {site.hook.kind.name for site in fxgrad.capture(loss, model, node_hooks=node_hooks).sites}
    assert kinds == {"MODULE_FULL_BACKWARD", "TENSOR", "POST_ACCUMULATE_GRAD", *(["NODE"] if node_hooks else [])}
    assert looks == []
