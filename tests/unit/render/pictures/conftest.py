"""Two programs that pictures are drawn of."""

import pytest


@pytest.fixture
def linear(program):
    """A Linear without a gradient for its input."""
    program.call("", "Linear")
    program.node(
        "AddmmBackward0_0",
        (8, 20),
        arguments=[("self", "AccumulateGrad_0"), ("mat1", None), ("mat2", "TBackward0_0")],
        schema="aten::addmm(Tensor self, Tensor mat1, Tensor mat2) -> Tensor",
        call="#1",
    )
    program.leaf("AccumulateGrad_0", "bias", 20)
    program.node("TBackward0_0", (10, 20), arguments=[("self", "AccumulateGrad_1")], call="#1")
    program.leaf("AccumulateGrad_1", "weight", 20, 10)
    return program


@pytest.fixture
def encoder(program):
    """A model with an encoder of two layers, each one function with a weight; both share a bias."""
    program.call("", "Model")
    program.call("encoder", "Encoder", parent="#1")
    program.call("encoder.0", "Layer", parent="encoder#1")
    program.call("encoder.1", "Layer", parent="encoder#1")
    program.node("SumBackward0_0", (), arguments=[("self", "MulBackward0_0")], call="#1")
    for layer, (label, after) in enumerate([("MulBackward0_0", "MulBackward0_1"), ("MulBackward0_1", None)]):
        arguments = [("self", after), ("other", f"AccumulateGrad_{layer + 1}"), ("bias", "AccumulateGrad_0")]
        program.node(label, (4,), arguments=arguments, call=f"encoder.{1 - layer}#1")
        program.leaf(f"AccumulateGrad_{layer + 1}", f"weight_{1 - layer}", 4)
    program.leaf("AccumulateGrad_0", "bias", 4)
    return program
