"""Running the layout engine, writing what it made, and turning the titles that arrows cross."""

import os
import re
import stat
import sys
from pathlib import Path

import pytest

from fxgrad.errors import OutputError, UsageError
from fxgrad.render import layout as drawing
from fxgrad.render.dot import write_dot
from fxgrad.render.files import FORMATS, find_format, write_file
from fxgrad.render.layout import find_crossed_titles, read_positions, render_dot
from fxgrad.render.picture import compose_picture
from tests.support.svg_extents import Drawing

SOURCE = 'digraph { a [label="x"]; a -> b }'
BEGINS = {"svg": b"<?xml", "png": b"\x89PNG\r\n", "pdf": b"%PDF-", "dot": b"digraph"}


@pytest.fixture
def engine_on_path(tmp_path, monkeypatch):
    """Puts a program called dot on the PATH: a Python script."""

    def put(script):
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "dot"
        program.write_text(f"#!{sys.executable}\n{script}")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return put


@pytest.fixture
def no_engine_on_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_name_tells_its_format(format):
    assert find_format(f"some.folder/graph.{format}") == format


def test_the_case_of_a_suffix_does_not_matter():
    assert find_format(Path("graph.PNG")) == "png"


def test_an_unknown_format_is_refused_with_those_that_are_known():
    with pytest.raises(UsageError) as error:
        find_format("graph.jpeg")
    assert str(error.value).splitlines() == [
        'picture "graph.jpeg": unknown format "jpeg"',
        "  allowed: a file name that ends in .svg, .png, .pdf or .dot",
        '  try: "graph.svg"',
    ]


def test_a_name_without_a_format_is_refused():
    with pytest.raises(UsageError, match='picture "graph": its name does not end in a format'):
        find_format("graph")


@pytest.mark.parametrize("format", FORMATS)
def test_without_dot_on_the_path_the_bundled_engine_draws(no_engine_on_path, format):
    assert render_dot(SOURCE, format).startswith(BEGINS[format])


def test_dot_needs_no_engine(engine_on_path):
    engine_on_path("raise SystemExit(1)")
    assert render_dot(SOURCE, "dot") == SOURCE.encode()


def test_dot_on_the_path_is_used(engine_on_path):
    engine_on_path("import sys; print(sys.argv[1], sys.stdin.read())")
    assert render_dot(SOURCE, "svg").decode() == f"-Tsvg {SOURCE}\n"


def test_an_unknown_format_is_refused_before_anything_runs():
    with pytest.raises(UsageError, match='format "gif"\n  allowed: svg, png, pdf or dot'):
        render_dot(SOURCE, "gif")


def test_an_engine_that_fails_is_quoted_with_its_last_lines(engine_on_path):
    engine_on_path("import sys; sys.exit('one\\ntwo\\nthree\\nfour')")
    with pytest.raises(OutputError) as error:
        render_dot(SOURCE, "svg")
    assert error.value.given == "the layout engine failed: two; three; four"


def test_an_engine_that_writes_nothing_has_failed(engine_on_path):
    engine_on_path("")
    with pytest.raises(OutputError, match="the layout engine failed: no message"):
        render_dot(SOURCE, "svg")


def test_an_engine_that_cannot_be_started_has_failed(engine_on_path):
    engine_on_path("")
    Path(os.environ["PATH"], "dot").write_text("#!/no/such/interpreter\n")
    with pytest.raises(OutputError, match="the layout engine failed"):
        render_dot(SOURCE, "svg")


def test_source_that_is_no_dot_is_an_error_of_the_engine(no_engine_on_path):
    with pytest.raises(OutputError, match="the layout engine failed"):
        render_dot("digraph {", "svg")


def test_the_engine_leaves_the_terminal_alone(no_engine_on_path, capfd):
    render_dot(SOURCE, "svg")
    assert capfd.readouterr() == ("", "")


def test_a_module_in_the_working_directory_does_not_get_in_the_way(no_engine_on_path, tmp_path, monkeypatch):
    (tmp_path / "pygraphviz.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert render_dot(SOURCE, "svg").startswith(b"<?xml")


def test_a_file_is_written(tmp_path):
    write_file(b"picture", tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").read_bytes() == b"picture"


def test_a_file_that_is_there_is_replaced_whole(tmp_path):
    (tmp_path / "graph.svg").write_bytes(b"the old and much longer picture")
    write_file(b"picture", tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").read_bytes() == b"picture"


def test_nothing_but_the_file_is_left(tmp_path):
    write_file(b"picture", tmp_path / "graph.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["graph.svg"]


def test_a_new_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_file(b"picture", tmp_path / "graph.svg")
    assert stat.S_IMODE((tmp_path / "graph.svg").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_a_file_that_was_there_keeps_its_permissions(tmp_path):
    (tmp_path / "graph.svg").touch(mode=0o600)
    write_file(b"picture", tmp_path / "graph.svg")
    assert stat.S_IMODE((tmp_path / "graph.svg").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["a" * 251 + ".svg", "\N{FIRE}" * 62 + ".svg"])
def test_a_name_may_be_as_long_as_the_system_lets_it_be(tmp_path, name):
    write_file(b"picture", tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"picture"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "graph.svg").symlink_to(tmp_path / "elsewhere" / "real.svg")
    write_file(b"picture", tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").is_symlink()
    assert (tmp_path / "elsewhere" / "real.svg").read_bytes() == b"picture"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe.svg"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_file(b"picture", pipe)
        assert os.read(reader, 100) == b"picture"
    finally:
        os.close(reader)


def test_a_folder_is_no_place_for_a_file(tmp_path):
    with pytest.raises(OutputError) as error:
        write_file(b"picture", tmp_path)
    assert error.value.given.startswith(f'cannot write "{tmp_path}": ')
    assert error.value.suggestion == f'"{tmp_path / "graph.svg"}": it is a folder'
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(OutputError) as error:
        write_file(b"picture", tmp_path / "pictures" / "graph.svg")
    assert error.value.suggestion == f'make the folder "{tmp_path / "pictures"}" first'


def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "graph.svg").write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_file(b"picture", tmp_path / "graph.svg")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("graph.svg", b"old")]


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    with pytest.raises(OutputError, match="null"):
        write_file(b"picture", f"{tmp_path}/a\0b.svg")


# Titles that arrows cross


def layout(*arrows):
    """A frame from (0, 0) to (300, 100) with its title from 10 to 110 at the top left, and arrows of straight lines."""
    frame = {"name": "cluster0", "bb": "0,0,300,100", "lp": "110,80", "lwidth": f"{200 / 72}", "lheight": f"{20 / 72}"}
    edges = [{"pos": f"e,{x2},{y2} {x1},{y1} {x1},{y1} {x2},{y2} {x2},{y2}"} for x1, y1, x2, y2 in arrows]
    return {"objects": [frame, {"name": "n0"}], "edges": edges}


def test_a_title_that_an_arrow_crosses_is_turned():
    assert find_crossed_titles(layout((50, 200, 50, 0))) == {"cluster0"}


@pytest.mark.parametrize("arrow", [(150, 200, 150, 0), (50, 200, 50, 95), (50, 65, 50, 0), (250, 200, 250, 0)])
def test_a_title_that_no_arrow_crosses_stays(arrow):
    assert find_crossed_titles(layout(arrow)) == frozenset()


def test_a_title_stays_where_as_many_arrows_cross_on_the_other_side():
    assert find_crossed_titles(layout((50, 200, 50, 0), (250, 200, 250, 0))) == frozenset()


def test_a_title_is_turned_to_where_fewer_arrows_cross():
    assert find_crossed_titles(layout((50, 200, 50, 0), (60, 200, 60, 0), (250, 200, 250, 0))) == {"cluster0"}


def test_an_arrow_that_was_not_drawn_crosses_nothing():
    assert find_crossed_titles({**layout(), "edges": [{"tail": 0, "head": 1}]}) == frozenset()


def three_calls(program):
    """A node with arrows to three calls of one module beside each other."""
    program.call("", "Net")
    calls = [program.call("linear", "Linear", parent="#1") for _ in range(3)]
    arguments = [(f"tensors[{number}]", f"AddmmBackward0_{number}") for number in range(3)]
    program.node("StackBackward0_0", (8, 3, 20), arguments=arguments, call="#1")
    for number, call in enumerate(calls):
        leaf = [("self", "AccumulateGrad_0")]
        program.node(f"AddmmBackward0_{number}", (8, 20), arguments=leaf, call=call)
    program.leaf("AccumulateGrad_0", "linear.bias", 20)
    return compose_picture(program.graph())


def test_turning_moves_titles_only_and_out_of_the_way(program):
    shown = three_calls(program)
    before = write_dot(shown)
    turned = find_crossed_titles(read_positions(before))
    assert turned
    crossed, free = Drawing(render_dot(before, "svg")), Drawing(render_dot(write_dot(shown, turned=turned), "svg"))
    assert [box.rect for box in crossed.boxes] == [box.rect for box in free.boxes]
    assert [frame.rect for frame in crossed.frames] == [frame.rect for frame in free.frames]
    assert crossed.lines == free.lines
    assert len(free.crossed()) < len(crossed.crossed())
    assert free.problems() == []


def test_a_large_picture_is_laid_out_once(program, monkeypatch):
    three_calls(program)
    monkeypatch.setattr(drawing, "_MOST_BOXES", 3)
    monkeypatch.setattr(drawing, "read_positions", None)
    assert drawing.draw_picture(compose_picture(program.graph()), "svg")


def test_dot_is_not_laid_out(program, monkeypatch):
    three_calls(program)
    monkeypatch.setattr(drawing, "read_positions", None)
    assert re.match(b"digraph", drawing.draw_picture(compose_picture(program.graph()), "dot"))
