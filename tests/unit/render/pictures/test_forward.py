"""What a picture of the recorded forward shows, and one of forward and backward."""

import pytest
from drawn import arrow_between, arrows_between, box_of, by_title, dot_source, frame_of, texts
from msgspec.structs import replace

from fxgrad.errors import UsageError
from fxgrad.graph import FxNode, HookKind, Source, TensorMeta, TensorRef
from fxgrad.render.drawing.layout import draw_picture
from fxgrad.render.pictures import forward, theme
from fxgrad.render.pictures.forward import compose_both, compose_forward
from fxgrad.render.pictures.theme import Flow

MODEL, LAYER = ("#1",), ("#1", "fc#1")


def fx(name, op="call_function", target="torch.relu", *, modules=(), inputs=(), shapes=((3,),), args="", **more):
    metas = tuple(TensorMeta(shape, "float32", "cpu") for shape in shapes if op.startswith("call"))
    more = {"requires_grad": (True,) * len(metas), "aliases": (None,) * len(metas)} | more
    return FxNode(name, op, target, args, modules, None, metas, None, inputs=inputs, **more)


def take(name, given, key, **more):
    return fx(name, target="operator.getitem", args=f"{given}, {key}", inputs=(given,), aliases=(), **more)


@pytest.fixture
def program(program):
    """Model: fc(x) is the larger of relu(x * w), of which the model returns the values."""
    program.call("", "Model", inputs=[replace(program.ref(("args", 0), 3), fx_node="x", requires_grad=False)])
    program.call("fc", "Layer", parent="#1")
    program.node("MaxBackward0_0", (), arguments=[("self", "ReluBackward0_0")], call="#1")
    program.node("ReluBackward0_0", (3,), arguments=[("self", "MulBackward0_0")], call="fc#1")
    program.node("MulBackward0_0", (3,), arguments=[("self", None), ("other", "AccumulateGrad_0")], call="fc#1")
    program.leaf("AccumulateGrad_0", "fc.w", 3)
    return program


RUN = (
    fx("x", "placeholder", "x"),
    fx("fc_w", "get_attr", "fc.w"),
    fx("mode", target="torch._C._set_grad_enabled", shapes=(), args="True", modules=MODEL),
    fx("mul", target="torch.mul", modules=LAYER, inputs=("x", "fc_w"), args="x, fc_w"),
    fx("relu", modules=LAYER, inputs=("mul",)),
    fx("max_1", target="torch.max", modules=MODEL, inputs=("relu",), shapes=((), ())),
    take("getitem", "max_1", 0, shapes=((),)),
    fx("output", "output", "output", inputs=("getitem",)),
)
MADE = {"MaxBackward0_0": "max_1", "ReluBackward0_0": "relu", "MulBackward0_0": "mul"}


def recorded(program, run=RUN, made=MADE):
    graph = program.graph()
    nodes = tuple(replace(node, fx_node=made.get(node.label)) for node in graph.nodes)
    return replace(graph, nodes=nodes, forward=run)


@pytest.fixture
def graph(program):
    return recorded(program)


class TestBoxes:
    def test_a_call_shows_its_name_and_where_its_backward_begins(self, graph):
        box = box_of(compose_forward(graph), "mul")
        assert (texts(box), box.look) == (["mul", "MulBackward0_0"], theme.CALL)

    def test_of_the_nodes_that_one_call_made_only_the_first_is_shown(self, program):
        graph = recorded(program, made=MADE | {"MulBackward0_0": "relu"})
        assert texts(box_of(compose_forward(graph), "relu")) == ["relu", "ReluBackward0_0"]

    def test_a_leaf_that_a_call_returned_is_not_where_its_backward_begins(self, program):
        ref = replace(program.ref(("args", 0), 3, node="AccumulateGrad_0"), fx_node="mul", is_leaf=True)
        program.calls[0] = replace(program.calls[0], inputs=(ref,))
        program.site(program.hook(HookKind.TENSOR, "fc.w"), None, "AccumulateGrad_0", slot=0)
        box = box_of(compose_forward(recorded(program, made={})), "mul")
        assert texts(box) == ["mul", "show · Tensor.register_hook · fc.w · no. 1"]

    def test_an_argument_shows_its_shape(self, graph):
        box = box_of(compose_forward(graph), "x")
        assert (texts(box), box.look) == (["x", "(3,)"], theme.ARGUMENT)

    def test_a_parameter_shows_its_name_in_the_model_and_its_shape(self, graph):
        box = box_of(compose_forward(graph), "fc.w")
        assert (texts(box), box.look) == (["fc.w", "(3,)"], theme.ATTRIBUTE)

    def test_a_constant_whose_shape_is_not_known_shows_its_name(self, program):
        run = (fx("_constant0", "get_attr", "_constant0"), fx("relu", inputs=("_constant0",)))
        assert texts(box_of(compose_forward(recorded(program, run)), "_constant0")) == ["_constant0"]

    def test_a_call_none_of_whose_results_requires_grad_is_told_apart(self, program):
        run = (fx("relu", shapes=((3,), (3,)), requires_grad=(False, False)),)
        assert box_of(compose_forward(recorded(program, run)), "relu").look is theme.CALL_WITHOUT_GRAD

    def test_a_call_one_of_whose_results_requires_grad_is_like_any_other(self, program):
        run = (fx("relu", shapes=((3,), (3,)), requires_grad=(False, True)),)
        assert box_of(compose_forward(recorded(program, run)), "relu").look is theme.CALL

    def test_what_only_changes_the_grad_mode_is_not_drawn(self, graph):
        assert "mode" not in by_title(compose_forward(graph))

    def test_an_argument_that_nothing_uses_is_drawn(self, program):
        assert "y" in by_title(compose_forward(recorded(program, (*RUN, fx("y", "placeholder", "y")))))

    def test_a_tooltip_tells_target_arguments_results_nodes_module_call_and_line(self, program):
        line = Source("model.py", 12, "y = x * self.w")
        run = (*RUN[:2], replace(RUN[3], source=line))
        assert box_of(compose_forward(recorded(program, run)), "mul").tooltip == (
            "mul: call_function torch.mul",
            "arguments: x, fc_w",
            "result 0: (3,), requires grad: True",
            "in the backward graph: MulBackward0_0",
            "in the module call fc#1",
            "model.py:12  y = x * self.w",
        )

    def test_a_tooltip_tells_which_results_require_grad(self, program):
        run = (fx("max_1", shapes=((3,), (3,)), requires_grad=(True, False)),)
        assert box_of(compose_forward(recorded(program, run, {})), "max_1").tooltip[1:] == (
            "result 0: (3,), requires grad: True",
            "result 1: (3,), requires grad: False",
        )


class TestFrames:
    def test_a_call_stands_in_the_module_calls_around_it(self, graph):
        assert frame_of(compose_forward(graph), "mul") == ["Model", "fc"]

    def test_a_parameter_stands_in_the_call_that_uses_it(self, graph):
        assert frame_of(compose_forward(graph), "fc.w") == ["Model", "fc"]

    def test_a_parameter_of_several_calls_stands_in_what_is_around_them_all(self, program):
        run = (*RUN[:-1], fx("add", modules=MODEL, inputs=("fc_w",)))
        assert frame_of(compose_forward(recorded(program, run)), "fc.w") == ["Model"]

    def test_arguments_and_results_stand_outside(self, graph):
        drawn = compose_forward(graph)
        assert (frame_of(drawn, "x"), frame_of(drawn, "output")) == ([], [])


class TestArrows:
    def test_an_arrow_carries_the_shape_of_the_result(self, graph):
        arrow = arrow_between(compose_forward(graph), "mul", "relu")
        assert (arrow.lines, arrow.flow) == (("(3,)",), Flow.VALUE)

    def test_the_arrow_of_an_argument_does_not_repeat_its_shape(self, graph):
        assert arrow_between(compose_forward(graph), "x", "mul").lines == ()

    def test_a_call_that_picks_a_result_is_the_arrow_from_it(self, graph):
        drawn = compose_forward(graph)
        assert "getitem" not in by_title(drawn)
        assert arrow_between(drawn, "max_1", "output").lines == ("[0]", "()")

    def test_picks_of_picks_are_one_arrow(self, program):
        run = (
            fx("lstm", shapes=((3,), (3,), (3,))),
            take("getitem", "lstm", 1, shapes=((3,), (3,))),
            replace(take("hidden", "getitem", "hidden"), target="getattr"),
            fx("relu", inputs=("hidden",)),
        )
        drawn = compose_forward(recorded(program, run))
        assert arrow_between(drawn, "lstm", "relu").lines == ("[1].hidden", "(3,)")

    def test_an_index_into_a_tensor_is_a_call(self, program):
        run = (fx("mul"), take("getitem", "mul", 0), fx("relu", inputs=("getitem",)))
        run = (run[0], replace(run[1], aliases=(None,)), run[2])
        assert "getitem" in by_title(compose_forward(recorded(program, run)))


class TestHooks:
    def test_the_hook_of_a_module_stands_at_the_frame_of_its_call(self, program):
        program.site(program.hook(HookKind.MODULE_BACKWARD, "fc", "look"), "fc#1", "ReluBackward0_0")
        drawn = compose_forward(recorded(program))
        hooked = {frame.title: [line.text for line in frame.hooks] for frame in drawn.clusters}
        assert hooked == {"Model": [], "fc": ["look · register_backward_hook · fc · no. 1"]}
        assert box_of(drawn, "relu").hook_kinds == ()

    def test_the_frame_of_a_hooked_module_has_the_colour_of_the_hook(self, program):
        program.site(program.hook(HookKind.MODULE_BACKWARD, "fc", "look"), "fc#1", "ReluBackward0_0")
        source = draw_picture(compose_forward(recorded(program)), "dot").decode()
        assert f'color="{theme.HOOK_FILLS[HookKind.MODULE_BACKWARD]}"' in source
        assert "carries a hook:" in source

    def test_a_hook_on_a_tensor_stands_at_the_call_that_made_its_node(self, program):
        program.site(program.hook(HookKind.TENSOR, "y"), None, "ReluBackward0_0", slot=0)
        assert box_of(compose_forward(recorded(program)), "relu").hook_kinds == (HookKind.TENSOR,)

    def test_a_hook_on_a_parameter_stands_at_the_parameter(self, program):
        program.site(program.hook(HookKind.POST_ACCUMULATE_GRAD, "fc.w"), None, "AccumulateGrad_0")
        box = box_of(compose_forward(recorded(program)), "fc.w")
        assert box.hook_kinds == (HookKind.POST_ACCUMULATE_GRAD,)

    def test_a_hook_on_a_tensor_inside_an_argument_stands_at_the_argument(self, program):
        program.leaf("AccumulateGrad_1", "batch['x']", 3, kind="input")
        program.site(program.hook(HookKind.TENSOR, "batch['x']"), None, "AccumulateGrad_1", slot=0)
        run = (fx("batch", "placeholder", "batch"), take("getitem", "batch", "x"), fx("relu", inputs=("getitem",)))
        meta = TensorMeta((3,), "float32", "cpu")
        ref = TensorRef(("args", 0, "x"), meta, True, True, "AccumulateGrad_1", fx_node="getitem")
        program.calls[0] = replace(program.calls[0], inputs=(ref,))
        assert box_of(compose_forward(recorded(program, run)), "batch").hook_kinds == (HookKind.TENSOR,)

    def test_a_hook_that_is_at_no_call_is_named_in_the_headline(self, program):
        program.site(program.hook(HookKind.MODULE_BACKWARD, "unused", "look"), fires=False)
        headline = compose_forward(recorded(program)).headline
        assert headline[-1] == "1 hook at no call of this forward: look · register_backward_hook · unused"

    def test_a_hook_at_a_module_call_in_which_nothing_ran_is_named_in_the_headline(self, program):
        program.call("same", "Identity", parent="#1")
        program.site(program.hook(HookKind.MODULE_BACKWARD, "same", "look"), "same#1", "ReluBackward0_0")
        headline = compose_forward(recorded(program)).headline
        assert headline[-1] == "1 hook at no call of this forward: look · register_backward_hook · same"


class TestParts:
    def test_deeper_calls_are_one_box_each_with_their_hooks(self, program):
        program.site(program.hook(HookKind.MODULE_BACKWARD, "fc", "look"), "fc#1", "ReluBackward0_0")
        program.site(program.hook(HookKind.TENSOR, "y", "peek"), None, "MulBackward0_0", slot=0)
        drawn = compose_forward(recorded(program), depth=0)
        assert texts(box_of(drawn, "fc")) == [
            "fc",
            "Layer · 2 function calls",
            "look · register_backward_hook · fc · no. 1",
            "peek · Tensor.register_hook · y · no. 2",
        ]
        assert "mul" not in by_title(drawn)

    def test_several_arrows_at_such_a_box_are_one_that_counts_the_values(self, program):
        run = (*RUN[:5], fx("add", target="torch.add", modules=MODEL, inputs=("mul", "relu")))
        assert arrow_between(compose_forward(recorded(program, run), depth=0), "fc", "add").lines == ("2 values",)

    def test_of_a_module_its_calls_parameters_and_neighbours_are_drawn(self, graph):
        drawn = compose_forward(graph, module="fc")
        assert set(by_title(drawn)) == {"x", "fc.w", "mul", "relu", "max_1"}
        assert box_of(drawn, "max_1").look is theme.STUB
        assert texts(box_of(drawn, "max_1")) == ["max_1", "in Model"]

    def test_the_headline_counts_the_calls_drawn(self, graph):
        assert compose_forward(graph, module="fc").headline[0] == "Forward of Model · 2 of 3 function calls · cpu"

    def test_an_unknown_module_is_refused(self, graph):
        with pytest.raises(UsageError, match='"fd" is not a module of this model'):
            compose_forward(graph, module="fd")

    def test_a_negative_depth_is_refused(self, graph):
        with pytest.raises(UsageError, match="depth -1"):
            compose_forward(graph, depth=-1)

    def test_without_a_recorded_forward_the_reason_is_given(self, program):
        program.info = replace(program.info, calls_reason="captured after the forward")
        with pytest.raises(UsageError) as error:
            compose_forward(program.graph())
        assert str(error.value).splitlines() == [
            "a picture of the forward: captured after the forward",
            "  allowed: a trace of a forward that fxgrad recorded",
            "  try: fxgrad.trace or fxgrad.record; or draw the backward graph",
        ]


class TestBoth:
    def test_everything_of_both_is_drawn_each_in_its_frame(self, graph):
        drawn = compose_both(graph)
        assert frame_of(drawn, "mul") == ["forward", "Model", "fc"]
        assert frame_of(drawn, "MulBackward0_0") == ["backward", "Model", "fc"]
        assert (frame_of(drawn, "x"), frame_of(drawn, "result")) == (["forward"], ["backward"])
        assert len({box.key for box in drawn.boxes}) == len(drawn.boxes)

    def test_a_call_is_joined_with_the_node_where_its_backward_begins(self, graph):
        drawn = compose_both(graph)
        pairs = [arrow for arrow in drawn.arrows if arrow.flow is Flow.PAIR]
        titles = {box.key: box.lines[0].text for box in drawn.boxes}
        assert {(titles[pair.tail], titles[pair.head]) for pair in pairs} == {
            ("mul", "MulBackward0_0"),
            ("relu", "ReluBackward0_0"),
            ("max_1", "MaxBackward0_0"),
        }

    def test_two_boxes_are_joined_once(self, graph):
        drawn = compose_both(graph, depth=0)
        assert sum(arrow.flow is Flow.PAIR for arrow in drawn.arrows) == 2

    def test_backward_goes_up(self, graph):
        drawn = compose_both(graph)
        (arrow,) = arrows_between(drawn, "ReluBackward0_0", "MulBackward0_0")
        assert arrow.upward
        (line,) = (line for line in draw_picture(drawn, "dot").decode().splitlines() if "n2 -> n1" in line)
        assert "dir=back" in line

    def test_the_frames_are_laid_out_apart(self, graph):
        source = draw_picture(compose_both(graph), "dot").decode()
        assert "subgraph cluster_forward" in source
        assert "subgraph cluster_backward" in source
        assert draw_picture(compose_both(graph), "svg").startswith(b"<svg")

    def test_what_nobody_could_follow_is_refused(self, graph, monkeypatch):
        monkeypatch.setattr(forward, "MOST_BOXES_OF_BOTH", 10)
        with pytest.raises(UsageError) as error:
            compose_both(graph)
        assert str(error.value).splitlines() == [
            "forward and backward in one picture: 11 boxes",
            "  allowed: at most 10",
            "  try: one module (module, --module), a smaller depth (depth, --depth), or one of the two alone",
        ]

    def test_the_picture_of_the_backward_graph_alone_has_nothing_of_the_forward(self, graph):
        assert "cluster_forward" not in dot_source(graph)
