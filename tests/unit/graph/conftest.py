import pytest

from fxgrad.graph import (
    BackwardGraph,
    Edge,
    FxNode,
    Gradient,
    GraphInfo,
    Hook,
    HookKind,
    HookSite,
    Module,
    ModuleCall,
    Node,
    NodeKind,
    Root,
    Source,
    Taken,
    TensorMeta,
    TensorRef,
    Value,
    Variable,
)


def meta(*shape, dtype="float32"):
    return TensorMeta(shape, dtype, "cpu")


def leaf(number, label, name, *shape):
    return Node(
        number,
        label,
        "torch::autograd::AccumulateGrad",
        NodeKind.ACCUMULATE_GRAD,
        None,
        None,
        (meta(*shape),),
        ("variable",),
        (),
        variable=name,
        call_reason="a leaf is made outside",
        fx_reason="a leaf is made outside",
    )


def parameter(name, node, *shape):
    return Variable(name, (), "parameter", meta(*shape), requires_grad=True, is_leaf=True, node=node)


@pytest.fixture
def linear_graph():
    """One call of Linear(10, 20) on a batch of 8 that requires no grad, with three hooks (FACTS: addmm)."""
    addmm = Node(
        0,
        "AddmmBackward0_0",
        "AddmmBackward0",
        NodeKind.FUNCTION,
        "aten::addmm",
        1,
        (meta(8, 20),),
        ("result",),
        (
            Edge("self", None, 1, 0, value=Value("fc_bias")),
            Edge("mat1", None, None, 0, "this argument requires no grad", meta(8, 10), Value("x")),
            Edge("mat2", None, 2, 0),
        ),
        call="fc#1",
        fx_node="linear",
        source=Source("/home/me/model.py", 12, "return self.fc(x)", "forward"),
    )
    transpose = Node(
        2,
        "TBackward0_0",
        "TBackward0",
        NodeKind.FUNCTION,
        "aten::t",
        0,
        (meta(10, 20),),
        ("result",),
        (Edge("self", None, 3, 0),),
        call="fc#1",
        fx_reason="it is inside linear",
    )
    legacy = Hook(
        0,
        HookKind.MODULE_BACKWARD,
        "fc",
        "print_sizes",
        source=Source("/home/me/model.py", 3),
        registered=Source("/home/me/model.py", 20),
    )
    on_weight = Hook(1, HookKind.TENSOR, "fc.weight", "double", observed=(3, 0), may_return=True)
    unused = Hook(2, HookKind.MODULE_FULL_BACKWARD, "spare", "never", unplaced="spare was not called")
    output = TensorRef(("result",), meta(8, 20), True, False, 0, 0, "AddmmBackward0", fx_node="linear")
    return BackwardGraph(
        roots=(Root(0, 0, ("result",)),),
        nodes=(
            addmm,
            leaf(1, "AccumulateGrad_0", "fc.bias", 20),
            transpose,
            leaf(3, "AccumulateGrad_1", "fc.weight", 20, 10),
        ),
        modules=(
            Module("fc", (), "Linear", True, False, (0,), ("fc.weight", "fc.bias"), "Linear(10, 20)"),
            Module("spare", (), "ReLU", True, True, (2,), (), is_fx_leaf=True, made_by="torch.compile"),
        ),
        calls=(
            ModuleCall(
                "fc#1",
                "fc",
                "Linear",
                1,
                None,
                (0, 2),
                (TensorRef(("args", 0), meta(8, 10), False, True),),
                (output,),
                1,
                1,
                "Tensor",
                grad_enabled=True,
                completed=True,
                training=True,
                hooks=(0,),
                legacy_tensor=output,
            ),
        ),
        variables=(parameter("fc.weight", 3, 20, 10), parameter("fc.bias", 1, 20)),
        hooks=(legacy, on_weight, unused),
        sites=(
            HookSite(
                legacy,
                "fc#1",
                0,
                None,
                (
                    Gradient(0, "self", "tensor", (20,), "float32", "fc.bias"),
                    Gradient(1, "mat1", "none", (8, 10), "float32", "x", "this argument requires no grad"),
                    Gradient(2, "mat2", "tensor", (10, 20), "float32", "fc.weight.t()"),
                ),
                (Gradient(0, "result", "tensor", (8, 20), "float32", None),),
                True,
                1,
                0,
                "the grad_fn of the first tensor that Linear returns",
            ),
            HookSite(
                on_weight,
                None,
                3,
                0,
                (),
                (Gradient(0, None, "tensor", (20, 10), "float32", "fc.weight"),),
                True,
                1,
                1,
                "the gradient of fc.weight",
            ),
            HookSite(unused, None, None, None, (), (), False, 0, None, "spare was not called"),
        ),
        forward=(
            FxNode("x", "placeholder", "x", "", (), None, (meta(8, 10),), None),
            FxNode("fc_bias", "get_attr", "fc.bias", "", ("fc#1",), None, (meta(20),), None),
            FxNode(
                "linear",
                "call_function",
                "linear",
                "x",
                ("fc#1",),
                None,
                (meta(8, 20),),
                (0, 2),
                requires_grad=(True,),
                taken=(Taken("item", Source("/home/me/model.py", 14)),),
            ),
        ),
        info=GraphInfo(2, "0.1.0", "2.13.0", "3.11.7", "cpu", False, "the output of forward"),
    )
