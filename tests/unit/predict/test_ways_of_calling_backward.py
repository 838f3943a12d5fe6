"""What hooks get from each way of calling backward, predicted from one trace and held against the real call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from module_hooks import Notebook, compared, roots_in, site_of
from same_graph import ids_in
from torch import nn
from torch.autograd.graph import register_multi_grad_hook

import fxgrad
from fxgrad.errors import UsageError
from fxgrad.graph import BackwardGraph


class TwoHeads(nn.Module):
    """Two results with one trunk; keeps its hidden value, which both heads use, and the trunk's input goes around."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.left, self.right = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> Any:
        hidden = torch.sin(self.trunk(x))
        self.kept = [hidden]
        return self.left(hidden), self.right(hidden) * x


class Hooked:
    """The model with hooks of every kind, each by a name of its own."""

    def __init__(self, notebook: Notebook) -> None:
        self.model = TwoHeads()
        self.x = torch.randn(5, 3, requires_grad=True)
        for path, module in self.model.named_children():
            notebook.full_pre(module, f"{path} pre")
            notebook.full(module, f"{path} full")
        notebook.legacy(self.model, "model legacy")
        for name, parameter in self.model.named_parameters():
            parameter.register_hook(notebook.tensor(f"{name} tensor"))
            parameter.register_post_accumulate_grad_hook(notebook.leaf(f"{name} accumulated"))
        self.x.register_hook(notebook.tensor("x tensor"))
        pair = [self.model.left.weight, self.model.right.weight]
        register_multi_grad_hook(pair, notebook._named("all", lambda grads: notebook._note("all", None, grads)))
        first = notebook._named("any", lambda grad: notebook._note("any", None, (grad,)))
        register_multi_grad_hook(pair, first, mode="any")

    def trace(self) -> fxgrad.result.Trace:
        return fxgrad.trace(self.model, self.x)

    def run(self) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """The results of forward, and the hidden value."""
        outputs = self.model(self.x)
        return outputs, self.model.kept.pop()


class Way(NamedTuple):
    """How backward is called, as one asks a trace for it and as one does it."""

    asked: Callable[[Hooked, BackwardGraph], dict[str, Any]]
    done: Callable[[Hooked, tuple[torch.Tensor, ...], torch.Tensor], Any]


def ones(outputs: Any) -> list[torch.Tensor]:
    return [torch.ones_like(output) for output in outputs]


def backward(outputs: Any, **options: Any) -> None:
    torch.autograd.backward(outputs, ones(outputs), **options)


def grad(outputs: Any, inputs: Any, **options: Any) -> None:
    torch.autograd.grad(outputs, inputs, ones(outputs), **options)


def asking(**asked: Any) -> Callable[..., dict[str, Any]]:
    return lambda hooked, graph: asked


def hidden_label(graph: BackwardGraph) -> str:
    return next(node.label for node in graph.nodes if node.name == "SinBackward0")


def unused_weight_raises(hooked: Hooked, outputs: Any, hidden: Any) -> None:
    with pytest.raises(RuntimeError, match="appears to not have been used"):
        grad(outputs, [hooked.x, hooked.model.unused.weight])


WAYS = {
    "a plain backward": Way(asking(), lambda h, out, hidden: backward(out)),
    "a gradient of another dtype": Way(
        asking(), lambda h, out, hidden: torch.autograd.backward(out, [one.double() for one in ones(out)])
    ),
    "a gradient of other values": Way(
        asking(), lambda h, out, hidden: torch.autograd.backward(out, [torch.zeros_like(one) for one in out])
    ),
    "create_graph": Way(asking(), lambda h, out, hidden: grad_for_a_graph(out)),
    "retain_graph": Way(asking(), lambda h, out, hidden: backward(out, retain_graph=True)),
    "inputs= of a parameter": Way(
        asking(inputs=["left.weight"]), lambda h, out, hidden: backward(out, inputs=[h.model.left.weight])
    ),
    "inputs= of a parameter and the input": Way(
        asking(inputs=["trunk.bias", "x"]), lambda h, out, hidden: backward(out, inputs=[h.model.trunk.bias, h.x])
    ),
    "inputs= of the tensors themselves": Way(
        lambda h, graph: {"inputs": [h.model.trunk.bias, h.x]},
        lambda h, out, hidden: backward(out, inputs=[h.model.trunk.bias, h.x]),
    ),
    "inputs= of a value inside": Way(
        lambda h, graph: {"inputs": hidden_label(graph)}, lambda h, out, hidden: backward(out, inputs=[hidden])
    ),
    "inputs= that are not in the graph": Way(
        asking(inputs="unused.weight"), lambda h, out, hidden: backward(out, inputs=[h.model.unused.weight])
    ),
    "grad of the input": Way(asking(inputs="x", api="grad"), lambda h, out, hidden: grad(out, h.x)),
    "grad of a value inside": Way(
        lambda h, graph: {"inputs": f"{hidden_label(graph)}[0]", "api": "grad"},
        lambda h, out, hidden: grad(out, hidden),
    ),
    "grad of a value inside and what is behind it": Way(
        lambda h, graph: {"inputs": [hidden_label(graph), "trunk.weight"], "api": "grad"},
        lambda h, out, hidden: grad(out, [hidden, h.model.trunk.weight]),
    ),
    "grad with an unused input": Way(asking(inputs=["x", "unused.weight"], api="grad"), unused_weight_raises),
    "grad with allow_unused": Way(
        asking(inputs=["x", "unused.weight"], api="grad"),
        lambda h, out, hidden: grad(out, [h.x, h.model.unused.weight], allow_unused=True),
    ),
    "grad with materialize_grads": Way(
        asking(inputs=["x", "unused.weight"], api="grad"),
        lambda h, out, hidden: grad(out, [h.x, h.model.unused.weight], materialize_grads=True),
    ),
    "one of the roots": Way(asking(roots="result[1]"), lambda h, out, hidden: backward(out[1:])),
    "the roots in another order": Way(
        asking(roots=["result[1]", "result[0]"]), lambda h, out, hidden: backward(out[::-1])
    ),
    "a root twice": Way(asking(roots=["result[0]", "result[0]"]), lambda h, out, hidden: backward([out[0], out[0]])),
    "a value inside as the root": Way(
        lambda h, graph: {"roots": hidden_label(graph)}, lambda h, out, hidden: backward([hidden])
    ),
    "a root, and the grad of a parameter that it does not lead to": Way(
        asking(roots="result[0]", inputs=["right.weight", "trunk.weight"], api="grad"),
        lambda h, out, hidden: grad(out[:1], [h.model.right.weight, h.model.trunk.weight], allow_unused=True),
    ),
}


def grad_for_a_graph(outputs: Any) -> None:
    with pytest.warns(UserWarning, match="create_graph=True"):
        backward(outputs, create_graph=True)


@pytest.fixture
def hooked(notebook: Notebook) -> Hooked:
    return Hooked(notebook)


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.mark.parametrize("way", WAYS)
def test_hooks_get_what_is_predicted_from(way: str, hooked: Hooked, notebook: Notebook) -> None:
    trace = hooked.trace()
    graph = trace.predict(**WAYS[way].asked(hooked, trace.graph)).graph
    graph.lint()
    outputs, hidden = hooked.run()
    ids = ids_in(trace.graph, roots_in(outputs))
    notebook.log.clear()
    WAYS[way].done(hooked, outputs, hidden)
    assert notebook.log or graph.info.backward.absent
    assert compared(graph, notebook.log, ids).wrong == []


def test_asking_for_the_usual_call_changes_nothing(hooked: Hooked) -> None:
    trace = hooked.trace()
    assert trace.predict().graph == trace.graph


def test_a_trace_is_not_changed_by_asking(hooked: Hooked) -> None:
    trace = hooked.trace()
    before = trace.to_json()
    trace.predict(inputs="x", roots="result[1]")
    assert trace.to_json() == before


@pytest.mark.parametrize("asked", [{}, {"inputs": "trunk.weight"}, {"inputs": "x", "api": "grad"}])
def test_a_second_call_on_a_retained_graph(asked: dict[str, Any], hooked: Hooked, notebook: Notebook) -> None:
    trace = hooked.trace()
    graph = trace.predict(after="retained", **asked).graph
    outputs, _ = hooked.run()
    ids = ids_in(trace.graph, roots_in(outputs))
    inputs = {"trunk.weight": [hooked.model.trunk.weight], "x": [hooked.x]}.get(asked.get("inputs", ""))
    for _ in range(2):
        notebook.log.clear()
        if asked.get("api") == "grad":
            grad(outputs, inputs, retain_graph=True)
        else:
            backward(outputs, inputs=inputs, retain_graph=True)
    assert compared(graph, notebook.log, ids).wrong == []


class Around(nn.Module):
    """What leads to its hooked input goes around its result, and comes first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept = [x]
        return x * 2


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.m = Around()
        self.w = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> Any:
        early = self.w * 1
        result = self.m(x)
        side = self.m.kept.pop()
        return side * 3, early, result


def test_a_full_hook_that_was_left_waiting_fires_in_the_second_call(notebook: Notebook) -> None:
    model, x = Model(), torch.ones(3, requires_grad=True)
    notebook.full(model.m, "full")
    trace = fxgrad.trace(model, x)
    first, second = trace.predict(), trace.predict(after="retained")
    outputs = model(x)
    ids = ids_in(trace.graph, roots_in(outputs))
    for predicted in (first, second):
        notebook.log.clear()
        backward(outputs, retain_graph=True)
        assert compared(predicted.graph, notebook.log, ids).wrong == []


def test_a_second_call_on_a_freed_graph_ends_where_only_backward_knows(hooked: Hooked, notebook: Notebook) -> None:
    predicted = hooked.trace().predict(after="freed", roots="result[1]")
    outputs, _ = hooked.run()
    backward(outputs[1:])
    notebook.log.clear()
    with pytest.raises(RuntimeError, match="second time"):
        backward(outputs[1:])
    called = [site.hook.function for site in predicted.order().calls]
    assert [name for name, _, _ in notebook.log] == called[: len(notebook.log)]
    assert site_of(predicted.graph, "model legacy").fires is False
    site = site_of(predicted.graph, "x tensor")
    assert (site.fires, site.times) == (None, None)
    assert site.reason == (
        "an earlier call freed the graph: this one raises at the first node that needs what was freed"
    )


def test_hooks_before_the_first_node_is_executed_are_called_on_a_freed_graph_too(notebook: Notebook) -> None:
    y = torch.ones(3, requires_grad=True).sin()
    y.register_hook(notebook.tensor("y tensor"))
    (site,) = fxgrad.capture(y).predict(after="freed").sites
    backward([y])
    notebook.log.clear()
    with pytest.raises(RuntimeError, match="second time"):
        backward([y])
    assert (site.fires, len(notebook.log)) == (True, 1)


# What is refused


@pytest.fixture
def plain() -> fxgrad.result.Trace:
    return fxgrad.trace(TwoHeads(), torch.ones(5, 3))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"inputs": "trunk.wieght"}, ("no tensor 'trunk.wieght'", "one of trunk.weight")),
        ({"inputs": "x"}, ("x, which does not require grad", "make it require grad and trace again")),
        ({"roots": "result[2]"}, ("no root 'result[2]'", "one of result[1], result[0]")),
        (
            {"roots": "unused.weight"},
            ("unused.weight as a root, which is not in this graph", "a model that returns it"),
        ),
        ({"inputs": "SinBackward0_0[1]"}, ("SinBackward0_0[1] as one gradient", "SinBackward0_0[0]")),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    plain: fxgrad.result.Trace, asked: dict[str, Any], said: tuple[str, str]
) -> None:
    with pytest.raises(UsageError) as caught:
        plain.predict(**asked)
    assert said[0] in caught.value.given
    assert said[1] in caught.value.suggestion


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"inputs": []},
            ("empty inputs", "at least one: PyTorch raises for none", "omit inputs for a backward to every leaf"),
        ),
        (
            {"api": "grad"},
            ("autograd.grad without inputs", "the tensors whose gradients it returns", "inputs=[names]"),
        ),
        ({"api": "gradient"}, ("api='gradient'", "'backward' or 'grad'", "omit api for the usual call")),
        (
            {"after": "kept"},
            ("after='kept'", "None or 'retained' or 'freed'", "omit after for the usual call"),
        ),
        ({"roots": []}, ("empty roots", "at least one tensor that backward starts from", "omit roots for all of them")),
    ],
)
def test_what_pytorch_refuses_is_refused(
    plain: fxgrad.result.Trace, asked: dict[str, Any], said: tuple[str, str, str]
) -> None:
    with pytest.raises(UsageError) as caught:
        plain.predict(**asked)
    assert (caught.value.given, caught.value.allowed, caught.value.suggestion) == said


@pytest.mark.parametrize(
    ("roots", "rule"),
    [
        (["result[1]"], "result[1], as asked for"),
        (
            ["result[1]", "result[0]"],
            "result[1], result[0], as asked for: 2 tensors, as if backward(outputs, ones) were called",
        ),
    ],
)
def test_the_rule_of_the_roots_says_which_were_asked_for(
    plain: fxgrad.result.Trace, roots: list[str], rule: str
) -> None:
    graph = plain.predict(roots=roots).graph
    assert (graph.info.root_rule, graph.info.backward.roots) == (rule, tuple(roots))


def test_a_tensor_without_a_name_is_refused(plain: fxgrad.result.Trace) -> None:
    with pytest.raises(UsageError, match="a Tensor in inputs that this trace cannot name"):
        plain.predict(inputs=torch.ones(3, requires_grad=True))


# What is said


def test_every_text_says_for_which_call_it_is(plain: fxgrad.result.Trace) -> None:
    trace = plain.predict(inputs=["trunk.weight", "unused.bias"], api="grad", after="retained")
    said = (
        "autograd.grad(inputs=[trunk.weight, unused.bias]), called once before with retain_graph=True; "
        "not in this graph: unused.bias"
    )
    assert f"called as: {said}" in str(trace.graph)
    for text in (trace.report(), trace.explain(), trace.order()):
        assert f"predicted for {said}" in " ".join(str(text).split())
    assert f"predicted for {said}" in trace.to_markdown().replace("\\", "")


def test_a_saved_trace_keeps_the_call(plain: fxgrad.result.Trace, tmp_path: Any) -> None:
    trace = plain.predict(inputs="trunk.weight", roots="result[1]")
    trace.to_json(tmp_path / "trace.json")
    assert fxgrad.load(tmp_path / "trace.json").graph == trace.graph


def test_a_parameter_that_inputs_pass_by_is_listed_with_why(plain: fxgrad.result.Trace) -> None:
    report = " ".join(str(plain.predict(inputs="trunk.weight").report()).split())
    assert "`left.bias` (2,) backward does not reach AccumulateGrad" in report


def test_a_hook_that_inputs_pass_by_is_told_to_be_listed_there(hooked: Hooked) -> None:
    told = hooked.trace().predict(inputs="left.weight").explain("trunk").findings
    assert next(finding.fix for finding in told if finding.code == "FXG114") == (
        "call backward without inputs=, or add a tensor to inputs= whose gradient passes through the hook's node"
    )


@pytest.mark.parametrize(
    "asked",
    [{"inputs": ["trunk.bias"]}, {"inputs": ["x"], "api": "grad"}, {"roots": ["result[1]"]}, {"after": "retained"}],
)
def test_verify_calls_backward_in_that_way(asked: dict[str, Any], hooked: Hooked) -> None:
    verification = fxgrad.verify(hooked.model, hooked.x, **asked)
    assert verification.differences == ()
    assert verification.graph.info.backward != fxgrad.graph.BackwardCall()


def test_verify_compares_what_comes_before_a_freed_graph_raises(hooked: Hooked) -> None:
    verification = fxgrad.verify(hooked.model, hooked.x, after="freed")
    assert verification.ok
    assert verification.unknown
