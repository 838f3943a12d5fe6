"""What the reader of backwards takes functions and methods of torch to return, held against what they return."""

from itertools import islice

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

from fxgrad.observe.autograd.backward_code import TENSOR, kind_of_result
from fxgrad.observe.autograd.python_code import look_up_attribute

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
SAMPLES = 4
LEAST = {"function": 1_200, "method": 700}
"""Results that must be looked at."""
LIKE_TENSORS = (torch.Tensor, bool, int, float, complex, str)


@pytest.mark.parametrize("way", LEAST)
def test_nothing_is_none_or_may_be_changed_in_what_is_taken_for_tensors(way):
    looked_at = 0
    for operator in op_db:
        for result in results_taken_for_tensors(operator, way):
            members = result if isinstance(result, tuple) else (result,)
            assert all(isinstance(member, LIKE_TENSORS) for member in members), f"{operator.name}, {way}: {result}"
            looked_at += 1
    assert looked_at > LEAST[way]


def results_taken_for_tensors(operator, way):
    function = operator.op if way == "function" else operator.method_variant
    if function is None or torch.float32 not in operator.dtypes:
        return
    found = function if way == "function" else look_up_attribute(torch.Tensor, function.__name__)
    if kind_of_result(found) != TENSOR:
        return
    for sample in islice(operator.sample_inputs("cpu", torch.float32), SAMPLES):
        try:
            yield function(sample.input, *sample.args, **sample.kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            continue  # the sample is none for this way to call it
