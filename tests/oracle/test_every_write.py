"""Whatever torch's operators write to is copied before they run: held against torch's own database of operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map
from written_storages import Written, strided

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
SAMPLES = 3


def operators() -> list[Any]:
    from torch.testing._internal import common_methods_invocations as database

    kinds = ("unary", "binary", "pointwise", "reduce", "other")
    lists = [op for kind in kinds for op in getattr(database, f"foreach_{kind}_op_db")]
    return [op for op in [*database.op_db, *lists] if op.supported_dtypes("cpu")]


def samples(operator: Any) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    dtypes = operator.supported_dtypes("cpu")
    dtype = torch.float32 if torch.float32 in dtypes else next(iter(dtypes))
    found = islice(operator.sample_inputs("cpu", dtype), SAMPLES)
    return [copied((sample.input, sample.args, sample.kwargs)) for sample in found]


def copied(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf, value)


def calls(function: Callable[..., Any] | None, operator: Any) -> Iterator[tuple[list[torch.Tensor], Callable[[], Any]]]:
    for value, args, kwargs in [] if function is None else samples(operator):
        yield strided([value, args, kwargs]), lambda: function(value, *args, **kwargs)  # noqa: B023  (called at once)


def calls_with_out(operator: Any) -> Iterator[tuple[list[torch.Tensor], Callable[[], Any]]]:
    for value, args, kwargs in samples(operator) if operator.supports_out else []:
        try:
            out = copied(operator.op(*copied((value, *args)), **kwargs))
        except (RuntimeError, TypeError, ValueError):
            continue
        tensors = list(out) if isinstance(out, tuple) else [out]
        if all(isinstance(each, torch.Tensor) for each in tensors):
            for each in tensors:
                each.fill_(1)
            run = lambda: operator.op(value, *args, out=out, **kwargs)  # noqa: B023, E731  (called at once)
            yield strided([value, args, kwargs, tensors]), run


@pytest.mark.parametrize(
    ("way", "calls_of", "least"),
    [
        ("called", lambda op: calls(op.op, op), 15),
        ("called as a method", lambda op: calls(op.method_variant, op), 2),
        ("called in place", lambda op: calls(op.inplace_variant, op), 300),
        ("called with out=", calls_with_out, 500),
    ],
)
def test_nothing_is_written_to_that_was_not_copied(way: str, calls_of: Callable[[Any], Any], least: int) -> None:
    unseen, changing = set(), 0
    for operator in operators():
        for tensors, run in calls_of(operator):
            written = Written(tensors, run)
            changing += bool(written.changed)
            if written.unseen:
                unseen.add(operator.name)
    assert unseen == set(), f"when {way}"
    assert changing > least
