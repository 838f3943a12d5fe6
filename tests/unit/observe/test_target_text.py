from __future__ import annotations

import pytest

from fxgrad.errors import UsageError
from fxgrad.observe.target_text import TargetText, parse_target, split_name


def refusal(text):
    with pytest.raises(UsageError) as caught:
        parse_target(str(text))
    return caught.value


@pytest.fixture
def model_file(tmp_path):
    file = tmp_path / "lstm_cell.py"
    file.touch()
    return file


def test_a_file_alone_leaves_the_name_out(model_file):
    assert parse_target(str(model_file)) == TargetText(str(model_file), None, is_file=True)


def test_a_name_follows_the_colon(model_file):
    assert parse_target(f"{model_file}:make").name == "make"


def test_a_name_may_be_dotted(model_file):
    assert parse_target(f"{model_file}:Outer.make").name == "Outer.make"


def test_a_dotted_module_is_no_file():
    assert parse_target("torch.nn:LSTMCell") == TargetText("torch.nn", "LSTMCell", is_file=False)


def test_a_file_whose_name_holds_a_colon_is_taken_whole(tmp_path):
    file = tmp_path / "we:ird.py"
    file.touch()
    assert parse_target(str(file)).name is None


@pytest.mark.parametrize(
    ("text", "split"),
    [
        (r"C:\x.py:name", (r"C:\x.py", "name")),
        (r"C:\x.py", (r"C:\x.py", None)),
        ("C:/dir/x.py:a.b", ("C:/dir/x.py", "a.b")),
        ("C:/dir/x.py", ("C:/dir/x.py", None)),
        ("C:build", ("C", "build")),
        ("x.py:", ("x.py", "")),
    ],
)
def test_the_colon_of_a_drive_is_part_of_the_path(text, split):
    assert split_name(text) == split


def test_a_missing_file_is_said_with_the_nearest_one(model_file):
    wrong = model_file.with_name("lstm_cel.py")
    assert str(refusal(wrong)) == (
        f"no such file: {wrong}\n"
        "  allowed: file.py[:factory], package.module[:factory], a class such as torch.nn:LSTMCell, or a saved trace.json\n"
        f"  try: {model_file}"
    )


def test_a_forgotten_suffix_gets_the_file(model_file):
    assert refusal(model_file.with_suffix("")).suggestion == str(model_file)


def test_a_missing_file_in_a_missing_folder_says_where_paths_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refusal("nowhere/x.py").suggestion == f"a path from here, {tmp_path}"


def test_a_folder_is_refused_with_the_files_in_it(model_file):
    error = refusal(model_file.parent)
    assert (error.given, error.suggestion) == (f"{model_file.parent} is a folder", str(model_file))


def test_the_current_folder_is_refused_as_any(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(refusal(".").given) == ". is a folder"


def test_a_folder_with_a_dotted_name_may_be_a_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert not parse_target("models").is_file


def test_a_device_is_no_python_file():
    assert refusal("/dev/null").given == "/dev/null is not a Python file"


def test_a_file_of_another_kind_is_refused(tmp_path):
    file = tmp_path / "model.txt"
    file.touch()
    assert refusal(file).given == f"{file} is not a Python file"


@pytest.mark.parametrize("text", ["", ":", ":build", "a b", "a..b", "1", "nn:", "nn:1a", "nn:a-b", "pkg.:f"])
def test_what_is_neither_a_file_nor_a_module_is_refused(text):
    assert refusal(text).given.startswith(repr(text))


def test_an_unprintable_path_is_shown_escaped():
    assert refusal("a\n\x1b[31m\0.py").given == r"no such file: a\n\x1b[31m\x00.py"


def test_a_path_longer_than_the_system_allows_is_no_such_file():
    assert refusal("x" * 5000 + ".py").given.startswith("no such file: ")


def test_a_control_character_in_what_to_try_is_escaped():
    with pytest.raises(UsageError) as raised:
        parse_target("a\tb:")
    assert raised.value.suggestion == r"a\tb:build, or leave the colon out"
