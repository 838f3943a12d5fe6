"""The question that started fxgrad, and programs like it: the answer is computed, not remembered.

Each program is traced on the emulated accelerator in a process of its own, where backward then runs on fake tensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from fxgrad import api
from fxgrad.graph import HookSite
from fxgrad.target_options import TargetOptions
from tests.support.needs import needs_emulation, needs_saved_tensors

pytestmark = pytest.mark.usefixtures("fast_interpreters")

PROGRAM = """
import torch
from torch import nn

def show(module, grad_input, grad_output):
    pass

class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.{cell}({size}, {size}, bias={bias}) for _ in range({layers}))

    def forward(self, steps):
        states = [steps.new_zeros(steps.shape[1:]) for _ in self.layers]
        memories = [steps.new_zeros(steps.shape[1:]) for _ in self.layers]
        for input in steps:
            for i, rnn in enumerate(self.layers):
                if "{cell}" == "LSTMCell":
                    states[i], memories[i] = rnn(input, (states[i], memories[i]))
                else:
                    states[i] = rnn(input, states[i])
                input = states[i]
        return states[-1]

class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, steps):
        return self.inner(steps)

def build():
    stack = Stack()
    for i in {hooked}:
        stack.layers[i].register_backward_hook(show)
    model = stack
    for _ in range({wrappers}):
        model = Wrapper(model)
    return model, (torch.randn({steps}, {batch}, {size}),)
"""


class Variant(NamedTuple):
    """A program like the seed's."""

    cell: str = "LSTMCell"
    size: int = 24
    batch: int = 9
    steps: int = 3
    layers: int = 4
    bias: bool = True
    wrappers: int = 0
    hooked: tuple[int, ...] = (0, 1, 2, 3)


VARIANTS = {
    "as the seed": Variant(),
    "the seed's sizes": Variant(size=1000),
    "without bias": Variant(bias=False),
    "GRUCell": Variant(cell="GRUCell"),
    "GRUCell without bias": Variant(cell="GRUCell", bias=False),
    "wrapped two modules deep": Variant(wrappers=2),
    "another batch and width": Variant(size=10, batch=5),
    "a hook on one layer only": Variant(hooked=(2,)),
    "two steps": Variant(steps=2),
    "five steps": Variant(steps=5),
}


def target(variant: Variant, folder: Path) -> str:
    file = folder / "program.py"
    file.write_text(PROGRAM.format(**variant._asdict()), encoding="utf-8")
    return str(file)


def path_of(variant: Variant, layer: int) -> str:
    return "inner." * variant.wrappers + f"layers.{layer}"


def told(site: HookSite, side: str) -> list[tuple[str | None, tuple[int | str, ...] | None]]:
    gradients = site.grad_input if side == "grad_input" else site.grad_output
    assert all(gradient.status != "unknown" for gradient in gradients)
    return [(g.argument, g.shape if g.status == "tensor" else None) for g in gradients]


@needs_emulation
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_fused_cell_gets_the_arguments_of_the_fused_function(variant: Variant, tmp_path: Path) -> None:
    verification = api.verify_target(TargetOptions(target(variant, tmp_path), device="cuda"))
    assert (verification.differences, verification.unknown) == ((), ())
    sites = [s for s in verification.graph.sites if s.call == f"{path_of(variant, variant.hooked[-1])}#{variant.steps}"]
    (site,) = sites
    node = verification.graph.nodes[site.node or 0]
    rows, gates = variant.batch, {"LSTMCell": 4, "GRUCell": 3}[variant.cell] * variant.size
    last = variant.layers - 1
    state = {"LSTMCell": "cx", "GRUCell": "hx"}[variant.cell]
    expected = [("input_gates", (rows, gates)), ("hidden_gates", (rows, gates)), (state, (rows, variant.size))]
    biases = [("input_bias", (gates,)), ("hidden_bias", (gates,))]
    assert node.name == {"LSTMCell": "ThnnFusedLstmCellBackward0", "GRUCell": "ThnnFusedGruCellBackward0"}[variant.cell]
    assert told(site, "grad_input") == expected + (biases if variant.bias else [(name, None) for name, _ in biases])
    results = told(site, "grad_output")
    assert results[0][1] == (rows, variant.size)
    if variant.cell == "LSTMCell":
        assert results[1] == ("result 1", None)
        assert site.grad_output[1].reason
    assert variant.hooked[-1] <= last


@needs_emulation
def test_earlier_steps_get_a_gradient_for_the_cell_state(tmp_path: Path) -> None:
    trace = api.trace_target(TargetOptions(target(Variant(), tmp_path), device="cuda"))
    assert [told(site, "grad_output")[1][1] for site in trace.sites_of("layers.3")] == [None, (9, 24), (9, 24)]


@needs_emulation
def test_each_entry_says_what_it_stands_for(tmp_path: Path) -> None:
    trace = api.trace_target(TargetOptions(target(Variant(), tmp_path), device="cuda"))
    last = trace.sites_of("layers.3")[0]
    assert [gradient.expression for gradient in last.grad_input] == [
        "mm(layers.2 result[0], layers.3.weight_ih.t())",
        "mm(layers.3 call 2 result[0], layers.3.weight_hh.t())",
        "layers.3 call 2 result[1]",
        "layers.3.bias_ih",
        "layers.3.bias_hh",
    ]


def test_on_the_cpu_the_same_hook_sits_on_a_multiplication(tmp_path: Path) -> None:
    trace = api.trace_target(TargetOptions(target(Variant(), tmp_path)))
    site = trace.sites_of("layers.3")[0]
    assert trace.graph.nodes[site.node or 0].name == "MulBackward0"
    assert told(site, "grad_input") == [("self", (9, 24)), ("other", (9, 24))]


@needs_saved_tensors
def test_linear_gets_bias_input_and_transposed_weight(repository: Path) -> None:
    trace = api.trace_target(TargetOptions(str(repository / "samples" / "linear_unrolled.py")))
    assert len(trace.sites) == 3
    for site in trace.sites:
        assert [shape for _, shape in told(site, "grad_input")] == [(20,), None, (10, 20)]
        bias, input, weight = [gradient.expression for gradient in site.grad_input]
        assert (bias, input, weight) == ("linear.bias", "input", "linear.weight.t()")
    assert json.loads(trace.to_json())["info"]["emulated"] is False
