# ruff: noqa: ARG001  (every formula of the table takes the same arguments)
"""What one node returns, given what it receives: a Tensor, None or unknown for each entry of grad_input.

A node that derivatives.yaml describes computes each gradient that is needed from any defined grad_output
(``any_grad_defined`` in torchgen/packaged/autograd/gen_autograd_functions.py). The exceptions are in the C++ of the
formulas themselves (torch/csrc/autograd/FunctionsManual.cpp). One table here lists them, and tests/oracle checks it
against every operator that torch can differentiate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from fxgrad.graph import BackwardGraph, Node, NodeKind, TensorMeta
from fxgrad.graph.records import Status
from fxgrad.predict.engine import Schedule

TENSOR: Status = "tensor"
NONE: Status = "none"
UNKNOWN: Status = "unknown"
"""What an entry of grad_input or grad_output is: `Gradient.status`."""

Statuses = tuple[Status, ...]
"""One of these for each entry."""

INPUT_SIDE, OUTPUT_SIDE = "input", "output"
"""Where a BackwardHookFunction node is: on the inputs of its module, or on the outputs."""


def compute_grad_inputs(
    graph: BackwardGraph, node: Node, received: Statuses, schedule: Schedule, side: str | None
) -> Statuses:
    """Return one status for each edge of a node that receives gradients of the statuses `received`, one for each slot.

    `side` is that of a BackwardHookFunction node, if it is known.
    """
    if not schedule.runs[node.id]:
        return (NONE,) * len(node.edges)
    if node.kind.decides_alone:
        return _apply_code(node, received)
    if node.kind is NodeKind.BACKWARD_HOOK:
        return tuple(_apply_hook_function(received, len(node.edges), side))
    if TENSOR not in received and UNKNOWN not in received:
        return (NONE,) * len(node.edges)
    special = apply_special_formula(graph, node, received)
    computed = _apply_formula(node, received) if special is None else special.statuses
    wanted = find_wanted_edges(node, schedule.needed)
    return tuple([status if want else NONE for status, want in zip(computed, wanted, strict=True)])


def _apply_code(node: Node, received: Statuses) -> Statuses:
    """What the code of a Python backward returns, as far as it could be read; it returns also what is not needed."""
    returned = node.returned
    if returned is None:
        return (UNKNOWN,) * len(node.edges)
    arrived = all([received[slot] == TENSOR for slot in returned.slots])
    return returned.if_arrived if arrived else returned.whenever


def _apply_hook_function(received: Statuses, edges: int, side: str | None) -> Iterator[Status]:
    """BackwardHookFunction (torch/nn/modules/_functions.py) is the identity, with zeros for what is undefined.

    On the output side ``BackwardHook.setup_output_hook`` (torch/utils/hooks.py) turns those zeros back into None.
    """
    for index in range(edges):
        status = received[index] if index < len(received) else UNKNOWN
        if side == INPUT_SIDE or status == TENSOR:
            yield TENSOR
        else:
            yield status if side == OUTPUT_SIDE else UNKNOWN


def _apply_formula(node: Node, received: Statuses) -> Statuses:
    """One defined gradient is enough for all that the node computes (``any_grad_defined`` in Functions.cpp)."""
    whole = TENSOR if TENSOR in received else UNKNOWN
    return tuple([whole if slot is None else received[slot] for slot in find_own_slots(node)])


def find_own_slots(node: Node) -> tuple[int | None, ...]:
    """Return for each edge the only slot that its gradient is computed from; None if it is computed from all."""
    if not _is_elementwise_over_lists(node):
        return (None,) * len(node.edges)
    slots = range(len(node.grad_outputs))
    return tuple([member if member in slots else None for member in node.members])


def _is_elementwise_over_lists(node: Node) -> bool:
    """Whether entry i of each list gets a gradient iff grad_output i is one, as in ``_foreach_*`` functions."""
    return node.short_name.startswith("Foreach")


def find_wanted_edges(node: Node, needed: Sequence[int]) -> list[bool]:
    """Return for each edge whether the node computes its gradient, given which nodes' gradients are needed.

    It computes those that go somewhere and are needed. If one of a list argument is, it computes the whole list:
    ``task_should_compute_output`` (torch/csrc/autograd/function.h) is called once for a list.
    """
    wanted = [edge.next_node is not None and bool(needed[edge.next_node]) for edge in node.edges]
    groups = {edge.group for edge, want in zip(node.edges, wanted, strict=True) if want and edge.group is not None}
    if not groups:
        return wanted
    return [want or edge.group in groups for edge, want in zip(node.edges, wanted, strict=True)]


# The exceptions


class SpecialFormula(NamedTuple):
    """What an exception returns. ``statuses`` has one entry for each edge, as if each of them were needed."""

    statuses: Statuses
    reason: str


_Formula = Callable[[BackwardGraph, Node, Statuses], SpecialFormula | None]
"""Takes the statuses of the node's grad_outputs, at least one not None; returns None if nothing is special."""


def apply_special_formula(graph: BackwardGraph, node: Node, received: Statuses) -> SpecialFormula | None:
    """Return what the node's exception decides; None if it has none, or none for these gradients."""
    if node.kind.decides_alone or (TENSOR not in received and UNKNOWN not in received):
        return None
    formula = _FORMULAS.get(_family(node.short_name))
    if formula is None and len(node.grad_outputs) > 1 and _is_double_backward(node.short_name):
        formula = _double_backward
    return None if formula is None else formula(graph, node, received)


def _family(name: str) -> str:
    """The name without the counter of overloads: ``NormBackward0`` and ``NormBackward3`` are one family."""
    return re.sub(r"Backward\d+(Scalar|List|Tensor|ScalarList)?$", "", name)


def _is_double_backward(name: str) -> bool:
    return re.search(r"BackwardBackward\d+$", name) is not None


def _everywhere(node: Node, status: Status, reason: str) -> SpecialFormula:
    return SpecialFormula((status,) * len(node.edges), reason)


def _norm(graph: BackwardGraph, node: Node, received: Statuses) -> SpecialFormula | None:
    """``norm_backward`` returns an undefined gradient for the 0-norm."""
    if not node.settings:
        return _everywhere(node, UNKNOWN, "only the 0-norm has no gradient, and the order is unknown")
    ((_, order),) = node.settings
    if order not in ("0", "0.0", "-0.0"):
        return None
    status = UNKNOWN if node.short_name.startswith("Dist") else NONE
    return _everywhere(node, status, "the 0-norm has no gradient")


def _copy_slices(graph: BackwardGraph, node: Node, received: Statuses) -> SpecialFormula | None:
    """CopySlices runs the node of the in-place operation, which is hidden and may be that of a Python Function.

    Functions of torch return a gradient wherever one is needed (torch/csrc/autograd/functions/tensor.cpp).
    """
    fx_node = graph.fx_nodes_by_name.get(node.fx_node) if node.fx_node is not None else None
    if fx_node is None:
        return _everywhere(node, UNKNOWN, "which function changed the view in place was not recorded")
    if fx_node.op == "call_method" or _is_of_torch(fx_node.target):
        return None
    return _everywhere(node, UNKNOWN, "the backward of the function that changed the view in place decides")


def _is_of_torch(target: str) -> bool:
    """Whether a recorded call is of a function whose derivative is torch's own.

    >>> [_is_of_torch(name) for name in ("operator.setitem", "torch.relu_", "torch.autograd.function.apply", "m.f")]
    [True, True, False, False]
    """
    return target.startswith(("operator.", "torch.")) and not target.startswith(("torch.autograd.", "torch.ops."))


def _double_backward(graph: BackwardGraph, node: Node, received: Statuses) -> SpecialFormula | None:
    return _everywhere(node, UNKNOWN, "the gradients of a second derivative depend on which of its terms are zero")


def _slogdet(graph: BackwardGraph, node: Node, received: Statuses) -> SpecialFormula | None:
    """``slogdet_backward``: the sign of a real determinant is constant, so only the logarithm counts."""
    if node.grad_outputs[0].dtype.startswith("complex"):
        return None
    return _everywhere(node, received[1], "the sign of a real determinant is constant")


def _lstsq(graph: BackwardGraph, node: Node, received: Statuses) -> SpecialFormula | None:
    """``linalg_lstsq_backward``: residuals without elements, as systems without full rank have, pass nothing on."""
    solution, residuals = received
    empty = _is_empty(node.grad_outputs[1])
    if solution == TENSOR or residuals == NONE or (residuals == TENSOR and empty is False):
        return None
    return _everywhere(node, solution if empty else UNKNOWN, "residuals without elements pass no gradient on")


_GROUP_NORM_CHANGED = (2, 14)


def _group_norm(graph: BackwardGraph, node: Node, received: Statuses) -> SpecialFormula | None:
    """``infinitely_differentiable_native_group_norm_backward``: mean and rstd count only if both have a gradient."""
    result, mean, rstd = received
    if result == TENSOR:
        return None
    if torch_version(graph) >= _GROUP_NORM_CHANGED:
        return _everywhere(node, UNKNOWN, "the gradients from mean and rstd alone depend on the version of torch")
    statistics = NONE if NONE in (mean, rstd) else UNKNOWN if UNKNOWN in (mean, rstd) else TENSOR
    into_input = TENSOR if statistics == TENSOR else UNKNOWN if UNKNOWN in (result, statistics) else NONE
    statuses = (into_input, *(result,) * (len(node.edges) - 1))
    return SpecialFormula(
        statuses,
        "without a gradient for the result, those for mean and rstd count only together, and only for the input",
    )


def _fused_rms_norm(graph: BackwardGraph, node: Node, received: Statuses) -> SpecialFormula | None:
    if received[0] == TENSOR:
        return None
    return _everywhere(node, UNKNOWN, "the result of a gradient for rstd alone is unknown")


_NO_ELEMENTS = "without elements there is no gradient (None)"
_DET_CHANGED = (2, 12)


def _det(graph: BackwardGraph, node: Node, received: Statuses) -> SpecialFormula | None:
    """``linalg_det_backward`` returned an undefined gradient for a matrix without elements before torch 2.12."""
    empty = _is_empty(_meta_behind(graph, node, 0))
    if torch_version(graph) >= _DET_CHANGED or empty is False:
        return None
    return _everywhere(node, NONE if empty else UNKNOWN, _NO_ELEMENTS)


def _householder(graph: BackwardGraph, node: Node, received: Statuses) -> SpecialFormula | None:
    """``householder_product_backward`` returns undefined gradients for input and tau if one of them has no elements."""
    reflectors = range(min(2, len(node.edges)))
    empty = [_is_empty(_meta_behind(graph, node, edge)) for edge in reflectors]
    if all(known is False for known in empty):
        return None
    status = NONE if True in empty else UNKNOWN
    statuses = tuple(status if edge in reflectors else TENSOR for edge in range(len(node.edges)))
    return SpecialFormula(statuses, _NO_ELEMENTS)


def _meta_behind(graph: BackwardGraph, node: Node, edge: int) -> TensorMeta | None:
    record = node.edges[edge]
    if record.next_node is None:
        return record.operand
    return graph.nodes[record.next_node].grad_outputs[record.input_nr]


def _is_empty(meta: TensorMeta | None) -> bool | None:
    """Whether a tensor has no elements; None if its shape is not known."""
    if meta is None or meta.shape is None or any(isinstance(size, str) for size in meta.shape):
        return None
    return 0 in meta.shape


def torch_version(graph: BackwardGraph) -> tuple[int, ...]:
    """The major and minor version of the torch that made the graph: (2, 13) for 2.13.0+cpu."""
    return tuple(int(part) for part in re.findall(r"\d+", graph.info.torch)[:2])


_FORMULAS: dict[str, _Formula] = {
    "CopySlices": _copy_slices,
    "Norm": _norm,
    "LinalgVectorNorm": _norm,
    "ForeachNorm": _norm,
    "Dist": _norm,
    "LinalgSlogdet": _slogdet,
    "LinalgLstsq": _lstsq,
    "NativeGroupNorm": _group_norm,
    "FusedRmsNorm": _fused_rms_norm,
    "LinalgDet": _det,
    "LinalgHouseholderProduct": _householder,
    "Ormqr": _householder,
}


# Zeros


def returns_zeros(node: Node) -> bool:
    """Whether each gradient that the node returns is zeros, whichever gradients it receives.

    Of a saturated node, for the values that forward had.
    """
    family = _family(node.short_name)
    if family == "Sgn":
        return not node.grad_outputs[0].dtype.startswith("complex")
    return node.saturated or family in _ZEROS or (family == "Div" and bool(node.settings))


_ZEROS = frozenset(
    {
        *("Round", "Floor", "Ceil", "Trunc", "Sign"),
        *("Eq", "Ge", "Gt", "Le", "Lt", "Ne", "Zero"),  # in place: eq_, zero_
        *("Bernoulli", "Cauchy", "Exponential", "Geometric", "LogNormal", "Normal", "Poisson", "Random", "Uniform"),
    }
)
"""Families of which derivatives.yaml has nothing but ``zeros_like``; of Div, with a rounding_mode (FunctionsManual.cpp)."""


def keeps_zeros(node: Node) -> bool:
    """Whether the node surely returns zeros for zeros, if forward had finite values.

    Where a derivative may be infinite, 0 * inf is NaN: those of sqrt, norm, hypot or an eigenvalue decomposition are at
    some finite values.
    """
    if node.kind is NodeKind.FUNCTION:
        return _family(node.short_name) in _KEEP_ZEROS
    return node.kind in (NodeKind.ACCUMULATE_GRAD, NodeKind.BACKWARD_HOOK)


_KEEP_ZEROS = frozenset(
    {
        *(
            "Add",
            "Sub",
            "Rsub",
            "Mul",
            "Neg",
            "Sum",
            "Mean",
            "Abs",
            "Exp",
            "Sin",
            "Cos",
            "Where",
            "MaskedFill",
            "Cumsum",
        ),
        *("Mm", "Addmm", "Bmm", "Baddbmm", "Mv", "Addmv", "Dot", "Convolution", "Embedding", "NativeDropout"),
        *(
            "T",
            "Transpose",
            "Permute",
            "View",
            "UnsafeView",
            "ReshapeAlias",
            "Expand",
            "Squeeze",
            "Unsqueeze",
            "Repeat",
        ),
        *(
            "Slice",
            "Select",
            "Split",
            "SplitWithSizes",
            "Unbind",
            "Cat",
            "Stack",
            "Index",
            "IndexSelect",
            "Gather",
            "Flip",
        ),
        *(
            "Clone",
            "ToCopy",
            "Alias",
            "ConstantPadNd",
            "AvgPool2D",
            "MaxPool2DWithIndices",
            "AdaptiveAvgPool2D",
        ),
        *(
            "Relu",
            "LeakyRelu",
            "Gelu",
            "Silu",
            "Sigmoid",
            "Tanh",
            "Hardtanh",
            "Clamp",
            "ClampMin",
            "ClampMax",
            "Threshold",
        ),
        *("Softmax", "LogSoftmax", "NativeLayerNorm", "NativeBatchNorm", "NativeGroupNorm"),
    }
)
"""Families whose backward multiplies gradients by what is finite, or moves them (derivatives.yaml)."""
