"""How odd arguments, operations and outputs are written into the recorded graph."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
from typing import NamedTuple

import numpy as np
import pytest
import torch
from module_hooks import FromFunction
from recorded_forward import lint_problems, meta_problems
from recorded_functions import Received, Twice, problems
from torch import nn
from torch.utils import _pytree as pytree

import fxgrad


class Mode(enum.Enum):
    FAST = 1


class Level(enum.IntEnum):
    LAST = -1


class Text(str):
    def __repr__(self):
        return "<no Python>"


@dataclasses.dataclass
class Options:
    scale: float = 1.0
    tensor: torch.Tensor | None = None


ARGUMENTS = {
    "an enum": lambda: Mode.FAST,
    "an int of its own class": lambda: Level.LAST,
    "a str of its own class": lambda: Text("a"),
    "a numpy number": lambda: np.float64(2),
    "a numpy array": lambda: np.ones(2),
    "a dataclass": Options,
    "a dict whose keys are no strings": lambda: {1: torch.ones(1), Mode.FAST: [2]},
    "a lambda": lambda: lambda: 1,
    "a partial": lambda: functools.partial(torch.add, 1),
    "a class": lambda: nn.ReLU,
    "a set": lambda: {1, 2},
    "a range": lambda: range(3),
    "a slice with a tensor": lambda: slice(torch.tensor(1), None),
    "a size": lambda: torch.Size([2, 3]),
    "bytes": lambda: b"\x00'",
    "text with everything": lambda: "quote'\"\n\x00{}%",
    "Ellipsis": lambda: ...,
    "a dtype, a device, a layout": lambda: (torch.float64, torch.device("cpu"), torch.strided, torch.channels_last),
    "not a number": lambda: [float("nan"), float("-inf"), complex(0, float("nan"))],
    "a negative zero": lambda: (-0.0, complex(-0.0, -1.0)),
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_an_argument_of_any_kind_is_the_same_in_the_rerun(argument):
    value = ARGUMENTS[argument]()
    Received.arguments.clear()
    assert problems(lambda w: Received.apply(w, value)) == []
    traced, rerun, _, real = Received.arguments
    assert traced == rerun == real


def test_a_list_that_holds_itself_is_an_argument_like_others():
    ring = []
    ring.append(ring)
    assert problems(lambda w: Twice.apply(w, ring)) == []


def test_what_cannot_be_printed_compared_or_copied_is_not_kept():
    class Bad:
        __hash__ = None

        def __repr__(self):
            raise RuntimeError

        def __eq__(self, other):
            raise RuntimeError

        def __deepcopy__(self, memo):
            raise RuntimeError

    bad = Bad()
    model = FromFunction(lambda self: Twice.apply(self.weight, bad, [bad]))
    trace = fxgrad.trace(model)
    assert lint_problems(trace.forward) + meta_problems(trace.forward) == []
    with pytest.raises(fxgrad.UsageError, match="it passes Twice a Bad, which is neither a tensor nor a plain value"):
        trace.forward_module(model)


OPERATORS = {
    "a negative base": lambda w: (-2) ** w.detach().round() + w,
    "a number on the left": lambda w: (1 - w) * (2 / (3 + w * w)) + 2**w - 7 // w.detach(),
    "a complex number": lambda w: (w * complex(-0.0, -1.5)).imag,
    "numpy on the left": lambda w: np.float32(2) * w,
    "an index with everything": lambda w: w.expand(2, 3)[torch.tensor([0]), None, ..., ::2],
    "an index of Python's": lambda w: w[[0, 1]] + w[np.array([1, 2])] + w[True][0, :2],
    "a memory format": lambda w: w.view(1, 3, 1, 1).contiguous(memory_format=torch.channels_last),
    "an in-place operator": lambda w: (w * 1).__iadd__(2).__ipow__(2),
    "setting an item": lambda w: (y := w * 1, y.__setitem__(slice(1), -5.0), y)[2],
    "setting data": lambda w: (y := torch.zeros(3), setattr(y, "data", torch.ones(3)), y * w)[2],
    "an operator of torch.ops": lambda w: torch.ops.aten.mul.Tensor(w, 2.0),
    "iteration": lambda w: sum(w.unbind()),
}


@pytest.mark.parametrize("case", OPERATORS)
def test_an_operation_of_any_kind_is_the_same_in_the_rerun(case):
    assert problems(OPERATORS[case]) == []


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor | None


class Result(collections.OrderedDict):
    """Like the outputs of Hugging Face's models (transformers/utils/generic.py: ModelOutput)."""


pytree.register_pytree_node(
    Result,
    lambda result: (list(result.values()), list(result)),
    lambda values, keys: Result(zip(keys, values, strict=True)),
    serialized_type_name="Result",
)

OUTPUTS = {
    "options and numbers": lambda w: (w * 2, Mode.FAST, Level.LAST, np.float64(2), torch.float32, print, {1}),
    "keys that are no strings": lambda w: {None: w * 2, 1.5: w, (1, 2): [w]},
    "one tensor twice": lambda w: [w, [w], w * 1],
    "a container that is registered with torch.utils._pytree": lambda w: Result(hidden=w * 2),
    "a namedtuple and a defaultdict": lambda w: (Pair(w * 2, None), collections.defaultdict(list, {3: [w]})),
    "a PackedSequence": lambda w: nn.utils.rnn.pack_sequence([w * 2]),
    "a size": lambda w: (w * 1, w.shape),
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_of_any_kind_is_the_same_in_the_rerun(output):
    assert problems(OUTPUTS[output]) == []
