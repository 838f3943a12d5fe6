"""The nodes whose gradients are not all defined as soon as one of their grad_outputs is.

Everything else that derivatives.yaml describes computes each gradient that is needed from any defined grad_output
(torchgen/packaged/autograd/gen_autograd_functions.py: ``any_grad_defined``). The exceptions sit in the formulas'
own C++ (torch/csrc/autograd/FunctionsManual.cpp) and are listed here, in one place. tests/oracle holds this list
against every operator that torch can differentiate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fxgrad.graph import BackwardGraph, Node, TensorMeta

TENSOR, NONE, UNKNOWN = "tensor", "none", "unknown"
"""What an entry of grad_input or grad_output is: `Gradient.status`."""


class Verdict(NamedTuple):
    """What a formula makes of its arguments. ``statuses`` has one per edge, as if each of them were needed."""

    statuses: tuple[str, ...]
    reason: str


Formula = Callable[[BackwardGraph, Node, Sequence[str]], Verdict | None]
"""Takes the statuses of the node's grad_outputs, at least one not None; returns None where nothing is special."""


def verdict(graph: BackwardGraph, node: Node, grad_outputs: Sequence[str]) -> Verdict | None:
    """Ask the node's exception, if it has one."""
    formula = _FORMULAS.get(_family(node.short_name))
    if formula is None and len(node.grad_outputs) > 1 and _is_double_backward(node.short_name):
        formula = _double_backward
    return None if formula is None else formula(graph, node, grad_outputs)


def _is_elementwise_over_lists(node: Node) -> bool:
    """Whether entry i of each list gets a gradient iff grad_output i is one, as in ``_foreach_*`` functions."""
    return node.short_name.startswith("Foreach")


def own_slots(node: Node) -> tuple[int | None, ...]:
    """For each edge the only grad_output that its gradient is computed from; None where that is all of them."""
    if not _is_elementwise_over_lists(node):
        return (None,) * len(node.edges)
    slots = range(len(node.grad_outputs))
    return tuple([member if member in slots else None for member in node.members])


def _family(name: str) -> str:
    """The name without the counter of overloads: ``NormBackward0`` and ``NormBackward3`` are one family."""
    return re.sub(r"Backward\d+(Scalar|List|Tensor|ScalarList)?$", "", name)


def _is_double_backward(name: str) -> bool:
    return re.search(r"BackwardBackward\d+$", name) is not None


def _everywhere(node: Node, status: str) -> tuple[str, ...]:
    return (status,) * len(node.edges)


def _norm(graph: BackwardGraph, node: Node, grad_outputs: Sequence[str]) -> Verdict | None:  # noqa: ARG001
    """``norm_backward`` returns an undefined gradient for the 0-norm."""
    if not node.settings:
        return Verdict(_everywhere(node, UNKNOWN), "only the 0-norm has no gradient, and the order is not known")
    ((_, order),) = node.settings
    if order not in ("0", "0.0", "-0.0"):
        return None
    status = UNKNOWN if node.short_name.startswith("Dist") else NONE
    return Verdict(_everywhere(node, status), "the 0-norm has no gradient")


def _copy_slices(graph: BackwardGraph, node: Node, grad_outputs: Sequence[str]) -> Verdict | None:  # noqa: ARG001
    """CopySlices runs the node of the in-place operation, which a Python Function may have made and which is hidden.

    Functions of torch give a gradient wherever one is needed (torch/csrc/autograd/functions/tensor.cpp).
    """
    fx_node = graph.fx_nodes_by_name.get(node.fx_node) if node.fx_node is not None else None
    if fx_node is None:
        return Verdict(_everywhere(node, UNKNOWN), "which function changed the view in place was not recorded")
    if fx_node.op == "call_method" or _is_of_torch(fx_node.target):
        return None
    return Verdict(_everywhere(node, UNKNOWN), "the backward of the function that changed the view in place decides")


def _is_of_torch(target: str) -> bool:
    """Whether a recorded call is of a function whose derivative is torch's own.

    >>> [_is_of_torch(name) for name in ("operator.setitem", "torch.relu_", "torch.autograd.function.apply", "m.f")]
    [True, True, False, False]
    """
    return target.startswith(("operator.", "torch.")) and not target.startswith(("torch.autograd.", "torch.ops."))


def _double_backward(graph: BackwardGraph, node: Node, grad_outputs: Sequence[str]) -> Verdict | None:  # noqa: ARG001
    return Verdict(
        _everywhere(node, UNKNOWN), "which gradients a second derivative has depends on which of its terms are zero"
    )


def _slogdet(graph: BackwardGraph, node: Node, grad_outputs: Sequence[str]) -> Verdict | None:  # noqa: ARG001
    """``slogdet_backward``: the sign of a real determinant is constant, so only the logarithm counts."""
    if node.grad_outputs[0].dtype.startswith("complex"):
        return None
    return Verdict(_everywhere(node, grad_outputs[1]), "the sign of a real determinant is constant")


def _lstsq(graph: BackwardGraph, node: Node, grad_outputs: Sequence[str]) -> Verdict | None:  # noqa: ARG001
    """``linalg_lstsq_backward``: residuals without elements, as systems without full rank have, pass nothing on."""
    solution, residuals = grad_outputs
    empty = _is_empty(node.grad_outputs[1])
    if solution == TENSOR or residuals == NONE or (residuals == TENSOR and empty is False):
        return None
    status = solution if empty else UNKNOWN
    return Verdict(_everywhere(node, status), "residuals without elements pass no gradient on")


_NO_ELEMENTS = "without elements there is no gradient (None)"
_GROUP_NORM_CHANGED = (2, 14)


def _version(graph: BackwardGraph) -> tuple[int, ...]:
    """The major and minor version of the torch that made the graph."""
    return tuple(int(part) for part in re.findall(r"\d+", graph.info.torch)[:2])


def _group_norm(graph: BackwardGraph, node: Node, grad_outputs: Sequence[str]) -> Verdict | None:
    """``infinitely_differentiable_native_group_norm_backward``: mean and rstd count only where both have a gradient."""
    result, mean, rstd = grad_outputs
    if result == TENSOR:
        return None
    if _version(graph) >= _GROUP_NORM_CHANGED:
        return Verdict(_everywhere(node, UNKNOWN), "what mean and rstd alone give depends on the version of torch")
    statistics = NONE if NONE in (mean, rstd) else UNKNOWN if UNKNOWN in (mean, rstd) else TENSOR
    into_input = TENSOR if statistics == TENSOR else UNKNOWN if UNKNOWN in (result, statistics) else NONE
    statuses = (into_input, *(result,) * (len(node.edges) - 1))
    return Verdict(
        statuses, "without a gradient for the result, those for mean and rstd count only for the input, together"
    )


def _fused_rms_norm(graph: BackwardGraph, node: Node, grad_outputs: Sequence[str]) -> Verdict | None:  # noqa: ARG001
    if grad_outputs[0] == TENSOR:
        return None
    return Verdict(_everywhere(node, UNKNOWN), "what the gradient of rstd alone gives is not known")


_DET_CHANGED = (2, 12)


def _det(graph: BackwardGraph, node: Node, grad_outputs: Sequence[str]) -> Verdict | None:  # noqa: ARG001
    """``linalg_det_backward`` returned an undefined gradient for a matrix without elements before torch 2.12."""
    if _version(graph) >= _DET_CHANGED or _is_empty(_meta_behind(graph, node, 0)) is False:
        return None
    status = NONE if _is_empty(_meta_behind(graph, node, 0)) else UNKNOWN
    return Verdict(_everywhere(node, status), _NO_ELEMENTS)


def _householder(graph: BackwardGraph, node: Node, grad_outputs: Sequence[str]) -> Verdict | None:  # noqa: ARG001
    """``householder_product_backward`` returns undefined gradients for empty arguments."""
    reflectors = [_meta_behind(graph, node, edge) for edge in range(len(node.edges))][:2]
    empty = [_is_empty(meta) for meta in reflectors]
    if all(known is False for known in empty):
        return None
    status = NONE if True in empty else UNKNOWN
    statuses = tuple(status if edge < len(reflectors) else TENSOR for edge in range(len(node.edges)))
    return Verdict(statuses, _NO_ELEMENTS)


def _meta_behind(graph: BackwardGraph, node: Node, edge: int) -> TensorMeta | None:
    record = node.edges[edge]
    if record.next_node is None:
        return record.operand
    return graph.nodes[record.next_node].grad_outputs[record.input_nr]


def _is_empty(meta: TensorMeta | None) -> bool | None:
    if meta is None or meta.shape is None or any(isinstance(size, str) for size in meta.shape):
        return None
    return 0 in meta.shape


_FORMULAS: dict[str, Formula] = {
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
