"""Traces a model and holds the recorded forward against the model: lint, meta, nodes, and what running it again gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.autograd.graph import get_gradient_edge

import fxgrad
from fxgrad.errors import UsageError
from fxgrad.graph import NodeKind
from fxgrad.observe.autograd.provenance import CHECKPOINT, EARLIER, HOOK_FUNCTION, LATER, LEAF, OTHER_THREAD
from fxgrad.observe.record.tensors import find_roots, find_tensors

REFUSED = "refused: "
Inputs = tuple[tuple[Any, ...], dict[str, Any]]
REASONS_FOR_NO_FX_NODE = (
    *(LEAF, HOOK_FUNCTION, CHECKPOINT, EARLIER, LATER),
    *((OTHER_THREAD,) if torch.cuda.is_available() else ()),
)
"""LATER: the grad_fn of a stale view is made when it is first looked at. OTHER_THREAD: on CUDA autograd's engine has some."""


def recorded_forward_problems(model: nn.Module, inputs: Callable[[], Inputs], *, seed: int = 1) -> list[str]:
    """What is wrong with the recorded forward of a model; `inputs` makes equal arguments at each call.

    The model itself runs last: its own result is what the recorded forward must have given. A run that no GraphModule
    can repeat has the reason among its problems, after `REFUSED`.
    """
    before = state_of(model)
    args, kwargs = inputs()
    torch.manual_seed(seed)
    trace = fxgrad.trace(model, args, kwargs)
    found = [f"trace: {text}" for text in differences(before, state_of(model))]
    found += lint_problems(trace.forward) + meta_problems(trace.forward) + tie_problems(trace)
    try:
        repeated = trace.forward_module(model)
    except UsageError as error:
        return [*found, error.given.replace("a forward that cannot be replayed: ", REFUSED)]
    again, its_inputs = _run(repeated, inputs, seed)
    found += [f"rerun: {text}" for text in differences(before, state_of(model))]
    interpreted = Interpreted(trace.forward_module(model))
    outcome, _ = _run(interpreted.call, inputs, seed)
    found += interpreted.wrong_metas + [f"nodes: {text}" for text in node_problems(trace, interpreted, outcome[0])]
    real, real_inputs = _run(model, inputs, seed)
    found += [f"result: {text}" for text in differences(described(real), described(again))]
    found += [f"arguments: {text}" for text in differences(described(real_inputs), described(its_inputs))]
    return found


def _run(program: Callable[..., Any], inputs: Callable[[], Inputs], seed: int) -> tuple[Any, Inputs]:
    """The result with the random state after it, and the arguments after it."""
    args, kwargs = inputs()
    torch.manual_seed(seed)
    result = program(*args, **kwargs)
    return (result, torch.get_rng_state()), (args, kwargs)


# The graph


def lint_problems(graph: fx.Graph) -> list[str]:
    try:
        graph.lint()
    except RuntimeError as error:
        return [f"lint: {error}"]
    return []


def meta_problems(graph: fx.Graph) -> list[str]:
    """Every call says in which modules, at which line and between which sequence numbers it ran."""
    calls = [node for node in graph.nodes if node.op in ("call_function", "call_method")]
    return [f"meta: {node.name}: {text}" for node in calls for text in _meta_problems(node)]


def _meta_problems(node: fx.Node) -> Iterator[str]:
    wanted = {"nn_module_stack": dict, "stack_trace": str, "sequence_window": tuple}
    for key, kind in wanted.items():
        if not isinstance(node.meta.get(key), kind):
            yield f"{key} is {node.meta.get(key)!r}"
    if "tensor_meta" not in node.meta:
        yield "no tensor_meta"
    start, end = node.meta.get("sequence_window", (0, 0))
    if start > end:
        yield f"sequence_window is {start, end}"


def tie_problems(trace: fxgrad.Trace) -> list[str]:
    """Every autograd node has an fx node of the graph, in whose window it was made, or a reason that is known."""
    windows = {node.name: node.meta.get("sequence_window") for node in trace.forward.nodes}
    found = []
    for node in trace.graph.nodes:
        if node.fx_node is None:
            if node.fx_reason not in REASONS_FOR_NO_FX_NODE:
                found.append(f"tie: {node.label} has no fx node: {node.fx_reason}")
        elif node.fx_node not in windows:
            found.append(f"tie: {node.label} has the fx node {node.fx_node}, which is not in the graph")
        elif node.sequence_nr is None or not _is_in(windows[node.fx_node], node.sequence_nr):
            found.append(f"tie: {node.label} was not made in the window of {node.fx_node}")
    return found


def _is_in(window: tuple[int, int] | None, number: int) -> bool:
    return window is not None and window[0] <= number < window[1]


# Each fx node


class Interpreted(fx.Interpreter):
    """Runs the recorded forward node by node: the sequence numbers of each, and whether its tensor_meta is right."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.windows: dict[str, tuple[int, int]] = {}
        self.wrong_metas: list[str] = []

    def call(self, *args: Any, **kwargs: Any) -> Any:
        names = [str(node.target) for node in self.module.graph.nodes if node.op == "placeholder"][len(args) :]
        rest = [{**kwargs} if name.startswith("**") else kwargs.pop(name) for name in names]
        self.keywords = rest[-1] if rest else None
        return self.run(*args, *rest)

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.keywords if target.startswith("**") else super().placeholder(target, args, kwargs)

    def run_node(self, node: fx.Node) -> Any:
        start = torch._C._autograd._get_sequence_nr()
        result = super().run_node(node)
        self.windows[node.name] = start, torch._C._autograd._get_sequence_nr()
        if node.op in ("call_function", "call_method"):
            told, real = told_metas(node), real_metas(result)
            if told is not None and real is not None and told != real:
                self.wrong_metas.append(f"tensor_meta: {node.name}: {told}, really {real}")
        return result


def told_metas(node: fx.Node) -> list[tuple[Any, ...]] | None:
    """Shape and dtype of each tensor that an fx node is said to give; None where one has no shape."""
    told = node.meta["tensor_meta"]
    told = [] if told is None else list(told) if type(told) is tuple else [told]
    return None if None in told else [(tuple(meta.shape), meta.dtype) for meta in told]


def real_metas(result: Any) -> list[tuple[Any, ...]] | None:
    """The same of what it really gave; None where that cannot be looked into."""
    found = find_tensors(result)
    tensors = [tensor for _, tensor in found.tensors]
    if found.opaque or any(tensor.is_nested for tensor in tensors):
        return None
    return [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]


def node_problems(trace: fxgrad.Trace, interpreted: Interpreted, result: Any) -> list[str]:
    """The nodes that each fx node makes when it runs again are those that are tied to it."""
    told = Counter([(node.fx_node, node.name) for node in trace.graph.nodes if node.fx_node is not None])
    if any(node.kind is NodeKind.CHECKPOINT for node in trace.graph.nodes):
        return []  # a reentrant checkpoint's node stands for all operations inside
    real = Counter()
    for node in nodes_behind([tensor for _, tensor in find_roots(result).roots]):
        number = node._sequence_nr()
        owners = [name for name, window in interpreted.windows.items() if _is_in(window, number)]
        real.update([(owner, node.name()) for owner in owners])
    if any("torch::jit" in name for _, name in real):
        return []  # TorchScript makes other nodes from its second run on
    found = [f"{count} {name} of {owner} only in the trace" for (owner, name), count in (told - real).items()]
    return found + [f"{count} {name} of {owner} only in the rerun" for (owner, name), count in (real - told).items()]


def nodes_behind(tensors: list[torch.Tensor]) -> set[Any]:
    stack = [get_gradient_edge(tensor).node for tensor in tensors]
    found = set(stack)
    while stack:
        behind = {node for node, _ in stack.pop().next_functions if node is not None} - found
        found |= behind
        stack += behind
    return found


# Values


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything that a model holds, described so that any change shows: identities, values, versions, gradients."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules():
        found[f"{path} class"] = type(module).__name__
        for name, value in vars(module).items():
            found[f"{path}.{name}"] = (id(value), described(value, identity=True))
    return found


def described(value: Any, *, identity: bool = False) -> Any:
    """A value as nested tuples that can be compared: the bits of tensors, the members of containers and objects."""
    return _Descriptions(identity).of(value)


class _Descriptions:
    def __init__(self, identity: bool) -> None:
        self.identity = identity
        self.entered: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._of_tensor(value)
        if isinstance(value, torch.Generator):
            return "generator", described(value.get_state())
        if isinstance(value, np.ndarray):
            return type(value), value.dtype, value.shape, value.tobytes()
        if isinstance(value, (int, float, complex, str, bytes, bool, type(None))):
            return type(value), repr(value)
        if id(value) in self.entered:
            return "again", type(value)
        self.entered[id(value)] = value
        return self._of_container(value)

    def _of_container(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return type(value), tuple([(self.of(key), self.of(member)) for key, member in value.items()])
        if isinstance(value, (tuple, list)):
            return type(value), tuple([self.of(member) for member in value])
        if isinstance(value, (set, frozenset)):
            return type(value), len(value)
        if isinstance(value, (nn.Module, type)) or callable(value) or not hasattr(value, "__dict__"):
            return (type(value), id(value)) if self.identity else type(value)
        return type(value), tuple([(name, self.of(member)) for name, member in vars(value).items()])

    def _of_tensor(self, tensor: torch.Tensor) -> Any:
        seen = [type(tensor).__name__, tensor.dtype, tensor.layout, str(tensor.device), tensor.requires_grad]
        if self.identity:
            version = None if tensor.is_inference() else tensor._version
            grad = tensor.grad if tensor.is_leaf else None
            hooks = [tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None)]
            seen += [id(tensor), version, tensor.is_leaf, None if grad is None else self.of(grad), str(hooks)]
        return (*seen, _bits(tensor))


def _bits(tensor: torch.Tensor) -> Any:
    with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
        tensor = tensor.detach()
        if tensor.is_nested:
            return tuple([_bits(part) for part in tensor.unbind()])
        if tensor.layout is not torch.strided:
            tensor = tensor.to_dense()
        if tensor.is_quantized:
            tensor = tensor.int_repr()
        plain = tensor.resolve_conj().resolve_neg().contiguous()
        return tuple(plain.shape), plain.flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def differences(expected: Any, got: Any, where: str = "") -> list[str]:
    """Where two descriptions differ, at most a few."""
    if isinstance(expected, dict) and isinstance(got, dict):
        keys = [*expected, *[key for key in got if key not in expected]]
        return [text for key in keys for text in differences(expected.get(key), got.get(key), f"{where}{key} ")][:5]
    if expected == got:
        return []
    if isinstance(expected, tuple) and isinstance(got, tuple) and len(expected) == len(got):
        pairs = enumerate(zip(expected, got, strict=True))
        return [text for rank, (a, b) in pairs for text in differences(a, b, f"{where}[{rank}]")][:5]
    return [f"{where}: {str(expected)[:150]} became {str(got)[:150]}"]
