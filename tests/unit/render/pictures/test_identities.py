"""What each box and frame stands for: what scripts and links find in a picture."""

from drawn import box_of
from msgspec.structs import replace

from fxgrad.graph import Source
from fxgrad.render.pictures.parts import Identity
from fxgrad.render.pictures.picture import compose_picture


def test_a_node_has_its_label_its_module_and_its_line(encoder):
    graph = encoder.graph()
    node = replace(graph.nodes_by_label["MulBackward0_0"], source=Source("model.py", 12, "x * w"))
    graph = replace(graph, nodes=tuple(node if each.id == node.id else each for each in graph.nodes))
    box = box_of(compose_picture(graph), "MulBackward0_0")
    assert box.identity == Identity("node", "MulBackward0_0", "encoder.1", "model.py", 12)


def test_a_leaf_has_the_name_of_its_variable(encoder):
    assert box_of(compose_picture(encoder.graph()), "weight_0").identity == Identity("leaf", "weight_0", "encoder.0")


def test_a_frame_has_the_id_of_its_module_call(encoder):
    frame = next(frame for frame in compose_picture(encoder.graph()).clusters if frame.title == "encoder.1")
    assert frame.identity == Identity("module", "encoder.1#1", "encoder.1")


def test_a_closed_module_has_the_id_of_its_call(encoder):
    box = box_of(compose_picture(encoder.graph(), depth=0), "encoder")
    assert box.identity == Identity("module", "encoder#1", "encoder")


def test_a_root_has_its_path(linear):
    assert box_of(compose_picture(linear.graph()), "result").identity == Identity("root", "result")
