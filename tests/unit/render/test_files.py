"""What the end of a file's name says, and that files are written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from fxgrad.errors import OutputError, UsageError
from fxgrad.render.files import FORMATS, find_format, write_file


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
