"""What a picture of a large graph shows: equal ones once, modules closed until it fits, and hooks in the open."""

import pytest
from drawn import arrow_between, arrows_between, box_of, by_title, frame_of, texts

from fxgrad.errors import UsageError
from fxgrad.graph import HookKind, NodeKind, Source
from fxgrad.render.pictures.picture import compose_picture


def add_layers(program, count, *, sizes=(4,), functions=("Mul", "Add", "Relu", "Sin", "Cos", "Tanh")):
    """Layers in a row, the last first; each has a weight, which each node uses, and of `sizes` the next. Nodes are called MulBackward0_0."""
    program.call("", "Model")
    program.call("layers", "Stack", parent="#1")
    labels = [f"{function}Backward0_{layer}" for layer in range(count) for function in functions]
    for number, label in enumerate(labels):
        layer = number // len(functions)
        path = f"layers.{count - 1 - layer}"
        size = sizes[layer % len(sizes)]
        if number % len(functions) == 0:
            program.call(path, "Layer", parent="layers#1")
        after = labels[number + 1] if number + 1 < len(labels) else "AccumulateGrad_x"
        arguments = [("self", after), ("other", f"AccumulateGrad_{layer}")]
        program.node(label, (size,), arguments=arguments, call=f"{path}#1")
    for layer in range(count):
        program.leaf(f"AccumulateGrad_{layer}", f"layers.{count - 1 - layer}.weight", sizes[layer % len(sizes)])
    program.leaf("AccumulateGrad_x", "x", 4, kind="input")
    return program


def frames(drawn):
    return {frame.title: frame for frame in drawn.clusters}


class TestEqualModules:
    def test_equal_layers_are_drawn_once_with_their_number(self, program):
        drawn = compose_picture(add_layers(program, 12).graph("MulBackward0_0"))
        frame = frames(drawn)["layers.0 … layers.11"]
        assert (frame.times, frame.notes) == (12, ("Layer", "× 12, equal"))
        assert len(drawn.boxes) < 15

    def test_what_leads_from_each_to_the_next_loops(self, program):
        drawn = compose_picture(add_layers(program, 12).graph("MulBackward0_0"))
        arrow = arrow_between(drawn, "TanhBackward0_0", "MulBackward0_0")
        assert (arrow.loop, arrow.gradients, arrow.lines) == (True, 11, ("self", "(4,)", "× 11"))

    def test_what_leads_out_of_one_alone_is_counted_once(self, program):
        drawn = compose_picture(add_layers(program, 12).graph("MulBackward0_0"))
        arrow = arrow_between(drawn, "TanhBackward0_0", "x")
        assert (arrow.loop, arrow.gradients, arrow.lines) == (False, 1, ("self", "(4,)"))

    def test_names_inside_are_those_in_each_of_them(self, program):
        drawn = compose_picture(add_layers(program, 12).graph("MulBackward0_0"))
        assert frame_of(drawn, "weight") == ["Model", "layers", "layers.0 … layers.11"]

    def test_equal_ones_with_names_that_were_cut_are_drawn_as_well(self, program):
        for number in (1, 2, 30):
            program.call("block" * 10 + f".{number}." + "layer" * 10, "Layer")
        for number in (1, 2, 30):
            path = "block" * 10 + f".{number}." + "layer" * 10
            for index in range(30):
                program.node(f"F{index}Backward0_{number}", (3,), call=f"{path}#1")
        starts = [f"F{index}Backward0_{number}" for index in range(30) for number in (1, 2, 30)]
        assert len(compose_picture(program.graph(*starts)).clusters) == 1

    def test_other_shapes_are_not_equal(self, program):
        drawn = compose_picture(add_layers(program, 12, sizes=(4, 5)).graph("MulBackward0_0"))
        assert {frame.title: frame.times for frame in drawn.clusters if frame.times > 1} == {
            "layers.0, 2, 4, 6, 8 and 10": 6,
            "layers.1, 3, 5, 7, 9 and 11": 6,
        }

    def test_a_hook_keeps_its_module_apart(self, program):
        add_layers(program, 12)
        program.site(program.hook(HookKind.MODULE_BACKWARD, "layers.5"), "layers.5#1", "MulBackward0_6")
        drawn = compose_picture(program.graph("MulBackward0_0"))
        assert frames(drawn)["layers.0 to 4 and 6 to 11"].times == 11
        assert frame_of(drawn, "MulBackward0_6") == ["Model", "layers", "layers.5"]

    def test_the_same_hook_on_each_keeps_none_apart(self, program):
        add_layers(program, 12)
        for layer in range(12):
            hook = program.hook(HookKind.MODULE_BACKWARD, f"layers.{11 - layer}")
            program.site(hook, f"layers.{11 - layer}#1", f"MulBackward0_{layer}")
        assert frames(compose_picture(program.graph("MulBackward0_0")))["layers.0 … layers.11"].times == 12

    def test_two_are_too_few_to_be_drawn_as_one(self, program):
        names = tuple(f"F{number}" for number in range(40))
        drawn = compose_picture(add_layers(program, 2, functions=names).graph("F0Backward0_0"))
        assert all(box.times == 1 for box in drawn.boxes)

    def test_a_small_graph_is_drawn_whole(self, program):
        drawn = compose_picture(add_layers(program, 6).graph("MulBackward0_0"))
        assert len(drawn.boxes) == 6 * 7 + 2
        assert not [line for line in drawn.headline if line.startswith("Folded")]

    def test_everything_is_drawn_if_asked_for(self, program):
        drawn = compose_picture(add_layers(program, 12).graph("MulBackward0_0"), everything=True)
        assert len(drawn.boxes) == 12 * 7 + 2


class TestClosedModules:
    def test_modules_are_closed_as_far_as_it_takes(self, program):
        drawn = compose_picture(add_layers(program, 12, sizes=range(4, 16)).graph("MulBackward0_0"))
        assert texts(box_of(drawn, "layers.5")) == ["layers.5", "Layer · 6 nodes · 1 leaf"]
        assert len(drawn.boxes) == 12 + 2

    def test_the_headline_says_what_is_folded_and_how_to_open_it(self, program):
        drawn = compose_picture(add_layers(program, 12, sizes=range(4, 16)).graph("MulBackward0_0"))
        assert "Folded: 12 modules closed; --expand layers.11 opens one, --all everything" in drawn.headline

    def test_a_module_that_was_asked_for_is_open(self, program):
        graph = add_layers(program, 12, sizes=range(4, 16)).graph("MulBackward0_0")
        assert frame_of(compose_picture(graph, expand=["layers.11"]), "MulBackward0_0") == [
            "Model",
            "layers",
            "layers.11",
        ]

    def test_an_equal_one_that_was_asked_for_stands_apart(self, program):
        drawn = compose_picture(add_layers(program, 12).graph("MulBackward0_0"), expand=["layers.5"])
        assert (frames(drawn)["layers.5"].times, frames(drawn)["layers.0 to 4 and 6 to 11"].times) == (1, 11)

    def test_the_module_of_a_hook_is_open(self, program):
        add_layers(program, 12, sizes=range(4, 16))
        program.site(program.hook(HookKind.MODULE_BACKWARD, "layers.5"), "layers.5#1", "MulBackward0_6")
        assert "MulBackward0_6" in by_title(compose_picture(program.graph("MulBackward0_0")))

    def test_so_is_the_way_from_the_loss_to_it(self, program):
        add_layers(program, 12, sizes=range(4, 16))
        program.site(program.hook(HookKind.MODULE_BACKWARD, "layers.9"), "layers.9#1", "MulBackward0_2")
        drawn = compose_picture(program.graph("MulBackward0_0"))
        assert {"layers.11", "layers.10", "layers.9"} <= frames(drawn).keys()
        assert "layers.8" in by_title(drawn)

    def test_with_hooks_everywhere_the_picture_stays_small_and_the_boxes_list_them(self, program):
        add_layers(program, 30, sizes=range(4, 34))
        for layer in range(30):
            hook = program.hook(HookKind.MODULE_BACKWARD, f"layers.{29 - layer}", f"f{layer}")
            program.site(hook, f"layers.{29 - layer}#1", f"MulBackward0_{layer}")
        drawn = compose_picture(program.graph("MulBackward0_0"))
        assert len(drawn.boxes) <= 120
        shown = "\n".join(line.text for box in drawn.boxes for line in box.lines)
        assert all(f"f{layer} ·" in shown for layer in range(30))

    def test_everything_and_a_depth_contradict_each_other(self, linear):
        with pytest.raises(UsageError, match="all with depth\n  allowed: one of them"):
            compose_picture(linear.graph(), everything=True, depth=1)

    def test_an_unknown_module_is_refused(self, encoder):
        with pytest.raises(UsageError, match='"encodr" is not a module of this model'):
            compose_picture(encoder.graph(), expand=["encodr"])


class TestFunctionalCode:
    def test_nodes_in_a_row_are_one_box(self, program):
        add_row(program, 100)
        drawn = compose_picture(program.graph())
        assert texts(box_of(drawn, "nodes in a row")) == [
            "nodes in a row",
            "99 nodes",
            "50 F1Backward0, 49 F0Backward0",
        ]

    def test_a_hook_in_a_row_stands_apart(self, program):
        add_row(program, 100)
        program.site(program.hook(HookKind.NODE, "F0Backward0_50"), None, "F0Backward0_50")
        drawn = compose_picture(program.graph())
        assert [box.lines[1].text for box in drawn.boxes if box.lines[0].text == "nodes in a row"] == [
            "49 nodes",
            "49 nodes",
        ]
        assert "F0Backward0_50" in by_title(drawn)

    def test_the_steps_of_a_loop_are_drawn_once(self, program):
        add_steps(program, 50)
        drawn = compose_picture(program.graph())
        box = box_of(drawn, "TanhBackward0_0")
        assert (box.times, texts(box)) == (49, ["TanhBackward0_0", "× 49, equal"])
        assert arrow_between(drawn, "MmBackward0_0", "TanhBackward0_0").loop
        assert "TanhBackward0_49" in by_title(drawn)

    def test_a_parameter_of_all_steps_has_one_box_and_one_arrow_from_them(self, program):
        add_steps(program, 50)
        (arrow,) = arrows_between(compose_picture(program.graph()), "MmBackward0_0", "w")
        assert (arrow.gradients, arrow.lines) == (49, ("mat2", "(4, 4)", "× 49"))

    def test_what_has_no_structure_is_drawn_in_parts(self, program):
        for number in range(400):
            heads = [f"F{number + step}Backward0_0" for step in (1, 1 + number % 5) if number + step < 400]
            program.node(f"F{number}Backward0_0", (3,), arguments=[("self", head) for head in heads])
        drawn = compose_picture(program.graph())
        assert len(drawn.boxes) <= 50
        assert drawn.boxes[1].lines[0].text == "nodes near each other"

    def test_many_roots_are_one_box(self, program):
        for number in range(100):
            program.node(f"F{number}Backward0_0", (3,))
        drawn = compose_picture(program.graph(*(f"F{number}Backward0_0" for number in range(100))))
        assert texts(drawn.boxes[0])[1] == "100 roots"


def add_row(program, length):
    """Nodes each of which leads to the next alone: F0Backward0_0, F1Backward0_1, F0Backward0_2, ..."""
    names = [f"F{number % 2}Backward0_{number}" for number in range(length)]
    for name, after in zip(names, [*names[1:], "AccumulateGrad_0"], strict=True):
        program.node(name, (3,), arguments=[("self", after)])
    program.leaf("AccumulateGrad_0", "x", 3)


def add_steps(program, steps):
    """h = tanh(h @ w), over and over."""
    for step in range(steps):
        before = f"TanhBackward0_{step + 1}" if step + 1 < steps else None
        line = Source("model.py", 7, "h = torch.tanh(h @ w)")
        program.node(f"TanhBackward0_{step}", (2, 4), arguments=[("self", f"MmBackward0_{step}")], source=line)
        arguments = [("self", before), ("mat2", "AccumulateGrad_0")]
        program.node(f"MmBackward0_{step}", (2, 4), arguments=arguments, source=line)
    program.node("AccumulateGrad_0", (4, 4), kind=NodeKind.ACCUMULATE_GRAD, variable="w")
    program.variable("w", 4, 4, node="AccumulateGrad_0")
