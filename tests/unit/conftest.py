"""A builder of small graphs by hand, for tests of what is made from records."""

import pytest
from msgspec.structs import replace

from fxgrad.graph import (
    BackwardGraph,
    Edge,
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
    TensorMeta,
    TensorRef,
    Variable,
)


def meta(*shape, dtype="float32"):
    return TensorMeta(shape, dtype, "cpu")


class Program:
    """Collects records that name each other by label, path and id; `graph` puts the numbers in.

    Nodes are added from the root on: an argument names the label of a node that is added later, or None.
    """

    def __init__(self):
        self.info = GraphInfo(2, "0.1.0", "2.13.0", "3.12.0", "cpu", False, "the output of forward")
        self._nodes, self._arguments = [], []
        self.modules, self.calls, self.variables, self.hooks, self.sites = [], [], [], [], []

    def node(self, label, *shapes, arguments=(), schema=None, kind=NodeKind.FUNCTION, call=None, sequence=None, **more):
        """`shapes` of its grad_outputs; `arguments` as (name, label of the next node or None, slot)."""
        names = tuple(f"result {slot}" for slot in range(len(shapes))) if len(shapes) > 1 else ("result",)
        number = len(self._nodes)
        sequence = 100 - number if sequence is None else sequence
        metas = tuple(meta(*shape) for shape in shapes)
        name = label.rpartition("_")[0]
        self._nodes.append(Node(number, label, name, kind, schema, sequence, metas, names, (), call=call, **more))
        self._arguments.append([(*argument, 0)[:3] for argument in arguments])
        return label

    def leaf(self, label, name, *shape, kind="parameter"):
        self.node(label, shape, kind=NodeKind.ACCUMULATE_GRAD, variable=name)
        self.variable(name, *shape, kind=kind, node=label)
        return label

    def variable(self, name, *shape, kind="parameter", node=None, requires_grad=True):
        number = None if node is None else self.number(node)
        self.variables.append(Variable(name, (), kind, meta(*shape), requires_grad, is_leaf=True, node=number))

    def module(self, path, type_name, *, parameters=(), sticky=None, description=""):
        record = Module(path, (), type_name, True, sticky, (), tuple(parameters), description)
        self.modules.append(record)

    def call(self, path, type_name, *, inputs=(), outputs=(), window=(0, 1000), parent=None, **more):
        """`inputs` and `outputs` from `ref`; outputs at ("result",) are a Tensor, at numbers a tuple, else a dict."""
        index = 1 + sum(call.path == path for call in self.calls)
        tops = [ref.path[1] for ref in inputs if ref.path[0] == "args"]
        alone = any(ref.path == ("result",) for ref in outputs)
        places = [ref.path[1] for ref in outputs if isinstance(ref.path[-1], int)]
        known = {
            "n_args": 1 + max(tops, default=-1),
            "n_results": 1 if alone else 1 + max(places, default=-1),
            "result_type": "Tensor" if alone else "tuple" if places else "dict",
            "grad_enabled": True,
            "completed": True,
            "training": True,
            "legacy_tensor": outputs[0] if outputs else None,
        }
        call = ModuleCall(
            f"{path}#{index}",
            path,
            type_name,
            index,
            parent,
            window,
            tuple(inputs),
            tuple(outputs),
            **(known | more),
        )
        self.calls.append(call)
        return call.id

    def ref(self, path, *shape, node=None, slot=0, requires_grad=True):
        """A tensor of a call; made before the nodes are there, so `node` is a label that `graph` looks up."""
        return TensorRef(path, meta(*shape), requires_grad, False, node, slot)

    def hook(self, kind, owner, function="show", **more):
        source = Source("model.py", 5, f"def {function}(module, grad_input, grad_output):")
        hook = Hook(len(self.hooks), kind, owner, function, source=source, **more)
        self.hooks.append(hook)
        return hook

    def site(self, hook, call=None, node=None, *, grad_input=(), grad_output=(), fires=True, reason="", **more):
        known = {"slot": None, "times": 1 if fires else 0 if fires is False else None}
        order = None if fires is False else sum(site.order is not None for site in self.sites)
        number = None if node is None else self.number(node)
        known = known | {"order": order} | more
        self.sites.append(
            HookSite(
                hook, call, number, grad_input=grad_input, grad_output=grad_output, fires=fires, reason=reason, **known
            )
        )

    def number(self, label):
        return next(node.id for node in self._nodes if node.label == label)

    def graph(self, *roots):
        numbers = {node.label: node.id for node in self._nodes}
        edges = [
            tuple(
                Edge(name, None, numbers[after] if after else None, slot, None if after else "requires no grad")
                for name, after, slot in arguments
            )
            for arguments in self._arguments
        ]
        nodes = [replace(node, edges=out) for node, out in zip(self._nodes, edges, strict=True)]
        calls = [self._with_numbers(call, numbers) for call in self.calls]
        starts = [Root(numbers[label], 0, ("result",)) for label in roots or [nodes[0].label]]
        parts = (starts, nodes, self.modules, calls, self.variables, self.hooks, self.sites, [])
        return BackwardGraph(*map(tuple, parts), self.info)

    @staticmethod
    def _with_numbers(call, numbers):
        def numbered(ref):
            return ref if ref is None else replace(ref, node=numbers.get(ref.node))

        return replace(
            call,
            inputs=tuple(map(numbered, call.inputs)),
            outputs=tuple(map(numbered, call.outputs)),
            legacy_tensor=numbered(call.legacy_tensor),
            input_hook_node=numbers.get(call.input_hook_node),
            output_hook_node=numbers.get(call.output_hook_node),
        )


def entries(*told, dtype="float32"):
    """Gradients from (argument, shape or None, expression, reason); None is a None entry."""
    padded = [(*entry, None, None)[:4] for entry in told]
    return tuple(
        Gradient(index, name, "none" if shape is None else "tensor", shape, dtype, expression, reason)
        for index, (name, shape, expression, reason) in enumerate(padded)
    )


@pytest.fixture
def program():
    return Program()


@pytest.fixture(name="entries")
def entries_fixture():
    return entries


@pytest.fixture
def linear(program):
    """Linear(10, 20) on a batch of 8 that requires no grad, with one non-full hook (FACTS 7)."""
    program.node(
        "AddmmBackward0_0",
        (8, 20),
        arguments=[("self", "AccumulateGrad_0"), ("mat1", None), ("mat2", "TBackward0_0")],
        schema="aten::addmm(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1) -> Tensor",
        call="fc#1",
        source=Source("model.py", 12, "y = self.fc(x)"),
    )
    program.node(
        "TBackward0_0",
        (10, 20),
        arguments=[("self", "AccumulateGrad_1")],
        schema="aten::t(Tensor(a) self)",
        call="fc#1",
    )
    program.leaf("AccumulateGrad_0", "fc.bias", 20)
    program.leaf("AccumulateGrad_1", "fc.weight", 20, 10)
    program.module("", "Net")
    program.module(
        "fc", "Linear", parameters=("fc.weight", "fc.bias"), description="Linear(in_features=10, out_features=20)"
    )
    program.call(
        "fc",
        "Linear",
        inputs=[program.ref(("args", 0), 8, 10, requires_grad=False)],
        outputs=[program.ref(("result",), 8, 20, node="AddmmBackward0_0")],
        argument_names=("input",),
    )
    hook = program.hook(
        HookKind.MODULE_BACKWARD, "fc", registered=Source("model.py", 31, "fc.register_backward_hook(show)")
    )
    program.site(
        hook,
        "fc#1",
        "AddmmBackward0_0",
        grad_output=entries(("result", (8, 20), "the module's result, `y` at model.py:12")),
        grad_input=entries(
            ("self", (20,), "fc.bias"),
            ("mat1", None, "input", "it does not require grad"),
            ("mat2", (10, 20), "fc.weight.t()"),
        ),
        reason="the grad_fn of the tensor that Linear returns",
    )
    return program


@pytest.fixture
def lstm_cells(program):
    """The seed: three steps of LSTMCell(1000, 1000), batch 9, on a fake accelerator; the last cell state is unused."""
    program.info = replace(program.info, device="cuda", emulated=True)
    program.module(
        "layers.3",
        "LSTMCell",
        parameters=("layers.3.weight_ih", "layers.3.weight_hh", "layers.3.bias_ih", "layers.3.bias_hh"),
        description="LSTMCell(1000, 1000)",
    )
    steps = (3, 2, 1)
    for step in steps:
        _lstm_step(program, step)
    leaves = {"weight_ih": (4000, 1000), "weight_hh": (4000, 1000), "bias_ih": (4000,), "bias_hh": (4000,)}
    for number, (name, shape) in enumerate(leaves.items()):
        program.leaf(f"AccumulateGrad_{number}", f"layers.3.{name}", *shape)
    for step in reversed(steps):
        _lstm_call(program, step)
    hook = program.hook(
        HookKind.MODULE_BACKWARD,
        "layers.3",
        "print_sizes",
        registered=Source("samples/lstm_cell.py", 31, "cell.register_backward_hook(print_sizes)"),
    )
    for step in steps:
        _lstm_site(program, hook, step)
    return program


_FUSED = (
    "_thnn_fused_lstm_cell(Tensor input_gates, Tensor hidden_gates, Tensor cx, Tensor? input_bias, Tensor? hidden_bias)"
)


def _lstm_step(program, step):
    call, number = f"layers.3#{step}", 3 - step
    before = f"ThnnFusedLstmCellBackward0_{number + 1}" if step > 1 else None
    program.node(
        f"ThnnFusedLstmCellBackward0_{number}",
        (9, 1000),
        (9, 1000),
        arguments=[
            ("input_gates", f"MmBackward0_{2 * number}"),
            ("hidden_gates", f"MmBackward0_{2 * number + 1}"),
            ("cx", before, 1),
            ("input_bias", "AccumulateGrad_2"),
            ("hidden_bias", "AccumulateGrad_3"),
        ],
        schema=_FUSED,
        call=call,
        source=Source("samples/lstm_cell.py", 38, "hidden, cell = rnn(input, (prev_hiddens[i], prev_cells[i]))"),
    )
    for side, leaf in enumerate(("AccumulateGrad_0", "AccumulateGrad_1")):
        label = 2 * number + side
        after = before if side else None
        program.node(
            f"MmBackward0_{label}",
            (9, 4000),
            arguments=[("self", after), ("mat2", f"TBackward0_{label}")],
            schema="mm(Tensor self, Tensor mat2)",
            call=call,
        )
        program.node(
            f"TBackward0_{label}", (1000, 4000), arguments=[("self", leaf)], schema="t(Tensor(a) self)", call=call
        )


def _lstm_call(program, step):
    label = f"ThnnFusedLstmCellBackward0_{3 - step}"
    before = f"ThnnFusedLstmCellBackward0_{4 - step}" if step > 1 else None
    program.call(
        "layers.3",
        "LSTMCell",
        inputs=[
            program.ref(("args", 0), 9, 1000, requires_grad=False),
            program.ref(("args", 1, 0), 9, 1000, node=before, requires_grad=step > 1),
            program.ref(("args", 1, 1), 9, 1000, node=before, slot=1, requires_grad=step > 1),
        ],
        outputs=[
            program.ref(("result", 0), 9, 1000, node=label),
            program.ref(("result", 1), 9, 1000, node=label, slot=1),
        ],
        argument_names=("input", "hx"),
    )


def _lstm_site(program, hook, step):
    cell = (9, 1000) if step < 3 else None
    unused = "nothing after this call uses it" if cell is None else None
    cx = ("cx", (9, 1000), f"layers.3 call {step - 1} result[1]")
    program.site(
        hook,
        f"layers.3#{step}",
        f"ThnnFusedLstmCellBackward0_{3 - step}",
        grad_output=entries(
            ("result 0", (9, 1000), "the module's result[0], `hidden` at samples/lstm_cell.py:38"),
            ("result 1", cell, "the module's result[1], `cell` at samples/lstm_cell.py:38", unused),
        ),
        grad_input=entries(
            ("input_gates", (9, 4000), "mm(layers.2 result[0], layers.3.weight_ih.t())"),
            ("hidden_gates", (9, 4000), "mm(hx[0], layers.3.weight_hh.t())"),
            cx if step > 1 else ("cx", None, "hx[1]", "it does not require grad"),
            ("input_bias", (4000,), "layers.3.bias_ih"),
            ("hidden_bias", (4000,), "layers.3.bias_hh"),
        ),
        reason="the grad_fn of the first tensor that LSTMCell returns",
    )
