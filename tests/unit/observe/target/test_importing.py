from __future__ import annotations

import sys
import textwrap
import typing

import pytest

from fxgrad.errors import TargetError, UsageError
from fxgrad.observe.target.importing import (
    TargetText,
    find_name,
    import_target,
    list_callables,
    parse_target,
    run_as_program,
    split_name,
)

# What a TARGET names


def refused_text(text):
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
    assert str(refused_text(wrong)) == (
        f"no such file: {wrong}\n  allowed: file.py[:factory], package.module[:factory], a class such as "
        f"torch.nn:LSTMCell, a model.pt of TorchScript, a model.pt2 of torch.export, or a saved trace.json\n  try: {model_file}"
    )


def test_a_forgotten_suffix_gets_the_file(model_file):
    assert refused_text(model_file.with_suffix("")).suggestion == str(model_file)


def test_a_missing_file_in_a_missing_folder_says_where_paths_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused_text("nowhere/x.py").suggestion == f"a path from here, {tmp_path}"


def test_a_folder_is_refused_with_the_files_in_it(model_file):
    error = refused_text(model_file.parent)
    assert (error.given, error.suggestion) == (f"{model_file.parent} is a folder", str(model_file))


def test_the_current_folder_is_refused_as_any(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(refused_text(".").given) == ". is a folder"


def test_a_folder_with_a_dotted_name_may_be_a_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert not parse_target("models").is_file


def test_a_device_is_no_file():
    assert refused_text("/dev/null").given == "/dev/null is not a file"


def test_a_file_of_another_kind_is_refused(tmp_path):
    file = tmp_path / "model.txt"
    file.touch()
    assert refused_text(file).given == f"{file} is neither a Python file nor an archive of TorchScript or torch.export"


@pytest.mark.parametrize("text", ["", ":", ":build", "a b", "a..b", "1", "nn:", "nn:1a", "nn:a-b", "pkg.:f"])
def test_what_is_neither_a_file_nor_a_module_is_refused(text):
    assert refused_text(text).given.startswith(repr(text))


def test_an_unprintable_path_is_shown_escaped():
    assert refused_text("a\n\x1b[31m\0.py").given == r"no such file: a\n\x1b[31m\x00.py"


def test_a_path_longer_than_the_system_allows_is_no_such_file():
    assert refused_text("x" * 5000 + ".py").given.startswith("no such file: ")


def test_a_control_character_in_what_to_try_is_escaped():
    with pytest.raises(UsageError) as raised:
        parse_target("a\tb:")
    assert raised.value.suggestion == r"a\tb:build, or omit the colon"


# Importing it


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="model.py"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        return str(file)

    return write_file


def imported(text):
    target = parse_target(text)
    with run_as_program(target):
        return import_target(target)


def refusal(text, kind=TargetError):
    with pytest.raises(kind) as caught:
        imported(text)
    return caught.value


def test_a_file_sees_its_own_folder_as_a_program_would(write):
    write("value = 3", "helper.py")
    assert imported(write("import helper")).helper.value == 3


def test_a_file_sees_its_name_in_argv(write):
    file = write("import sys\narguments = sys.argv")
    assert imported(file).arguments == [file]


def test_code_under_main_does_not_run(write):
    imported(write("if __name__ == '__main__': raise SystemExit"))


def test_sys_path_and_argv_are_as_before(write):
    before = (list(sys.path), sys.argv, sys.dont_write_bytecode)
    imported(write("import sys\nsys.path = ['elsewhere']\nsys.argv.append('more')"))
    assert (sys.path, sys.argv, sys.dont_write_bytecode) == before


def test_sys_path_is_as_before_when_the_import_fails(write):
    before = list(sys.path)
    refusal(write("1 / 0"))
    assert sys.path == before


def test_no_bytecode_is_written_beside_the_file(write, tmp_path):
    write("", "helper.py")
    imported(write("import helper"))
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_file_called_like_a_known_module_hides_nothing(write):
    import json

    assert imported(write("build = 1", "json.py")).build == 1
    assert sys.modules["json"] is json


def test_a_dataclass_of_the_file_resolves_its_annotations(write):
    module = imported(
        write("""
        from __future__ import annotations
        import dataclasses, typing
        @dataclasses.dataclass
        class Config:
            width: Width
        Width = int
    """)
    )
    assert typing.get_type_hints(module.Config) == {"width": int}


def test_two_files_of_one_name_have_each_its_own_helper(write):
    for folder in ("a", "b"):
        write(f"folder = {folder!r}", f"{folder}/helper.py")
    first = imported(write("import helper", "a/twin.py"))
    second = imported(write("import helper", "b/twin.py"))
    assert (first.helper.folder, second.helper.folder) == ("a", "b")
    assert (first.__name__, second.__name__) == ("fxgrad_target_twin", "fxgrad_target_twin_2")


def test_a_file_loaded_again_is_run_again_under_its_name(write):
    first = imported(write("value = 1", "again.py"))
    second = imported(write("value = 2 + 0", "again.py"))
    assert (first.value, second.value) == (1, 2)
    assert first.__name__ == second.__name__


def test_helpers_can_be_imported_late_while_the_program_runs(write):
    write("value = 3", "late_helper.py")
    target = parse_target(write("def build():\n    import late_helper\n    return late_helper.value"))
    with run_as_program(target):
        assert import_target(target).build() == 3
    assert "late_helper" not in sys.modules


def test_entering_the_same_program_again_changes_nothing(write):
    write("", "inner_helper.py")
    target = parse_target(write("import inner_helper"))
    with run_as_program(target):
        with run_as_program(target):
            import_target(target)
        assert "inner_helper" in sys.modules


def test_packages_beside_the_file_leave_with_their_submodules(write):
    write("", "nearby/__init__.py")
    write("", "nearby/part.py")
    imported(write("import nearby.part"))
    assert not {"nearby", "nearby.part"} & sys.modules.keys()


def test_modules_imported_from_elsewhere_stay(write):
    imported(write("import plistlib"))
    assert "plistlib" in sys.modules


def test_a_failed_import_leaves_no_module(write):
    refusal(write("1 / 0", "failing.py"))
    assert "fxgrad_target_failing" not in sys.modules


def test_a_failed_import_shows_the_users_frames(write):
    file = write("def f():\n    1 / 0\nf()\n")
    error = refusal(file)
    assert error.given == f"ZeroDivisionError while importing {file}"
    assert error.suggestion == f"python {file}, which should fail the same way"
    assert "    1 / 0" in error.details
    assert "importlib" not in error.details


def test_an_exit_while_importing_is_an_error_of_the_target(write):
    assert refusal(write("import sys; sys.exit(0)")).given.startswith("SystemExit while importing ")


def test_an_interrupt_while_importing_passes(write):
    with pytest.raises(KeyboardInterrupt):
        imported(write("raise KeyboardInterrupt"))


def test_a_missing_dependency_names_it_and_this_python(write):
    error = refusal(write("import no_such_dependency"))
    assert error.suggestion == (
        f"install no_such_dependency for this Python, {sys.executable}, or run fxgrad with the Python that has it"
    )


def test_a_relative_import_gets_the_dotted_name(write):
    write("", "pack/__init__.py")
    error = refusal(write("from . import other", "pack/model.py"))
    assert error.suggestion == "pass it as a module of its package, pack.model, from the folder above the package"


def test_a_module_is_found_in_the_current_folder(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("value = 5", "dotted_here.py")
    try:
        assert imported("dotted_here").value == 5
    finally:
        sys.modules.pop("dotted_here", None)


def test_an_unknown_module_is_a_usage_error():
    assert str(refusal("no_such_module", UsageError)) == (
        "no module named no_such_module\n  allowed: a module that this Python can import, or a file.py\n  try: "
        "run it from the folder that contains no_such_module, or in the environment where that is installed"
    )


def test_an_unknown_module_of_a_package_names_both():
    error = refusal("no_such_package.part", UsageError)
    assert error.given == "no module named no_such_package, which no_such_package.part is in"


def test_a_class_written_with_a_dot_gets_the_colon():
    assert refusal("torch.nn.LSTMCell", UsageError).suggestion == "torch.nn:LSTMCell"


def test_an_unimportable_file_in_the_current_folder_is_suggested(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("", "my-folder/model.py")
    write("", "there/model.py")
    write("raise ModuleNotFoundError(name='there')", "there/__init__.py")
    assert refusal("there.model", UsageError).suggestion == "there/model.py"


def test_a_module_whose_own_import_fails_is_an_error_of_the_target(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("import no_such_dependency", "needs_more.py")
    assert refusal("needs_more").given == "ModuleNotFoundError while importing needs_more"


def test_a_name_is_found_through_dots(write):
    module = imported(write("class Outer:\n    build = 7"))
    assert find_name(module, "Outer.build", shown="model.py") == 7


def test_an_unknown_name_gets_the_nearest_and_what_there_is(write):
    module = imported(write("def make_model(): ...\ndef other(): ...\nfrom textwrap import dedent\nnumber = 1"))
    with pytest.raises(UsageError) as caught:
        find_name(module, "make_modle", shown="model.py")
    assert str(caught.value) == (
        "no make_modle in model.py\n  allowed: one of make_model, other\n  try: model.py:make_model"
    )


def test_an_unknown_name_in_an_empty_file_says_to_define_it(write):
    with pytest.raises(UsageError) as caught:
        find_name(imported(write("")), "build", shown="model.py")
    assert str(caught.value) == (
        "no build in model.py\n  allowed: a function or class in it; it defines none\n  try: define build in it, "
        "or name another one in it"
    )


def test_a_name_that_raises_when_read_is_an_error_of_the_target(write):
    module = imported(write("def __getattr__(name): raise RuntimeError(name)"))
    with pytest.raises(TargetError, match=r"RuntimeError while reading build of model\.py"):
        find_name(module, "build", shown="model.py")


def test_a_package_offers_what_it_imports():
    assert "LSTMCell" in list_callables(imported("torch.nn"))
