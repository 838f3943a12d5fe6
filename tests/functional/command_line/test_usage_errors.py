"""What was asked for cannot be done: exit status 2, and what to ask for instead."""

from __future__ import annotations

import json

import pytest

from fxgrad.cli import main


def test_no_such_file(model, fails):
    status, err = fails("report", "modle.py")
    assert status == 2
    assert err == (
        "error: no such file: modle.py\n  allowed: file.py[:factory], package.module[:factory], a class such as "
        "torch.nn:LSTMCell, a model.pt of TorchScript, a model.pt2 of torch.export, or a saved trace.json\n  try: model.py\n"
    )


def test_a_name_without_a_near_one_is_looked_for_from_here(model, fails, folder):
    status, err = fails("report", "nothing_alike.py")
    assert status == 2
    assert f"  try: a path from here, {folder}\n" in err


def test_an_address_is_not_fetched(fails):
    status, err = fails("report", "http://localhost/model.py")
    assert status == 2
    assert "error: 'http://localhost/model.py' is a URL: fxgrad downloads nothing\n" in err


def test_an_empty_target(fails):
    status, err = fails("report", "")
    assert status == 2
    assert "error: '' is neither a file nor a dotted module name\n" in err


def test_a_folder_that_python_takes_for_a_package(fails, folder):
    (folder / "empty_folder_of_test").mkdir()
    status, err = fails("report", "empty_folder_of_test")
    assert status == 2
    assert "error: no build in the folder empty_folder_of_test\n" in err


def test_a_package_that_defines_nothing_shows_its_modules(fails, folder):
    (folder / "package_of_test").mkdir()
    (folder / "package_of_test" / "__init__.py").touch()
    (folder / "package_of_test" / "stack.py").touch()
    status, err = fails("report", "package_of_test")
    assert status == 2
    assert "  try: package_of_test.stack\n" in err


def test_a_command_with_a_wrong_letter(fails):
    status, err = fails("reprot", "model.py")
    assert status == 2
    assert err == (
        "error: no command 'reprot'\n  allowed: one of report, explain, draw, verify, check, rule\n  try: fxgrad "
        "report\n"
    )


def test_an_svg_is_not_written_under_the_name_of_another_format(model, fails, folder):
    status, err = fails("report", model, "--svg", "a.png")
    assert status == 2
    assert err.startswith('error: SVG picture "a.png": its name ends in .png\n')
    assert not (folder / "a.png").exists()


@pytest.mark.parametrize("option", ["--svg", "--json", "--markdown"])
def test_an_output_without_a_name(model, fails, option):
    status, err = fails("report", model, option, "")
    assert status == 2
    assert err.startswith("error: an empty output name\n")


@pytest.mark.parametrize("loss", ["", "torch", "model.py:"])
def test_a_loss_that_names_no_function(model, fails, loss):
    status, err = fails("report", model, "--loss", loss)
    assert status == 2
    assert "names no function" in err


def test_a_device_that_torch_knows_and_that_is_not_there(model, fails):
    status, err = fails("report", model, "--device", "privateuseone")
    assert status == 2
    assert err.startswith("error: device privateuseone: it does not exist here\n")


def test_no_such_saved_trace(fails, folder):
    status, err = fails("report", "trace.json")
    assert status == 2
    assert "trace.json" in err


def test_no_build_in_the_file(write, fails):
    status, err = fails("report", write("def make_model(): ..."))
    assert status == 2
    assert "error: no build in model.py\n" in err
    assert "make_model" in err


def test_no_such_factory_in_the_file(model, fails):
    status, err = fails("report", f"{model}:biuld")
    assert status == 2
    assert "  try: model.py:build\n" in err


def test_an_unknown_module_path(model, fails):
    status, err = fails("explain", model, "layer.3")
    assert status == 2
    assert "layer.3" in err.splitlines()[0]
    assert "layers.3" in err


def test_an_unknown_module_path_to_draw(model, fails, folder):
    status, err = fails("draw", model, "-o", "a.svg", "--module", "layers.33")
    assert status == 2
    assert "layers.3" in err.partition("\n")[2]
    assert not (folder / "a.svg").exists()


def test_an_unknown_kind_of_hook(model, fails):
    status, err = fails("explain", model, "layers.3", "--hook", "register_hook")
    assert status == 2
    assert "  allowed: Tensor.register_hook, Node.register_hook\n" in err


def test_an_unknown_format(model, fails):
    status, err = fails("draw", model, "-o", "graph.bmp")
    assert status == 2
    assert ".svg, .png, .pdf or .dot" in err


def test_a_malformed_init(fails):
    status, err = fails("report", "torch.nn:LSTMCell", "--init", "1000, hidden", "--input", "f32[9,1000]")
    assert status == 2
    assert "    1000, hidden\n          ^\n" in err


def test_a_malformed_input(fails):
    status, err = fails("report", "torch.nn:LSTMCell", "--init", "1000, 1000", "--input", "f32[9,1000")
    assert status == 2
    assert "    f32[9,1000\n              ^\n" in err


def test_an_init_for_a_factory(model, fails):
    status, err = fails("report", model, "--init", "3")
    assert status == 2
    assert "--init with model.py:build" in err


@pytest.mark.parametrize(
    "option",
    [
        ["--init", "3"],
        ["--input", "f32[3]"],
        ["--loss", "torch:sum"],
        ["--seed", "0"],
        ["--init", ""],
        ["--eval"],
        ["--device", "cpu"],
        ["--autocast", "bf16"],
    ],
)
def test_an_option_of_running_for_a_saved_trace(model, fails, capsys, option):
    main(["report", model, "--json", "trace.json"])
    capsys.readouterr()
    status, err = fails("report", "trace.json", *option)
    assert status == 2
    assert option[0] in err


def test_a_saved_trace_cannot_be_verified(model, fails, capsys):
    main(["report", model, "--json", "trace.json"])
    capsys.readouterr()
    status, err = fails("verify", "trace.json")
    assert status == 2
    assert "trace.json" in err


def test_json_of_another_version(model, fails, folder, capsys):
    main(["report", model, "--json", "trace.json"])
    capsys.readouterr()
    saved = json.loads((folder / "trace.json").read_text())
    saved["info"]["schema_version"] = 999
    (folder / "trace.json").write_text(json.dumps(saved))
    status, err = fails("report", "trace.json")
    assert status == 2
    assert "trace.json is of schema version 999" in err


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"info": {}}'])
def test_json_that_is_no_trace(fails, folder, content):
    (folder / "trace.json").write_bytes(content)
    status, err = fails("report", "trace.json")
    assert status == 2
    assert "trace.json is not a saved trace" in err


def test_an_unknown_rule(fails):
    status, err = fails("rule", "FXG999")
    assert status == 2
    assert "FXG" in err.partition("allowed")[2]


def test_an_unknown_device(model, fails):
    status, err = fails("report", model, "--device", "tpu")
    assert status == 2
    assert "tpu" in err
