"""The command line as its users meet it: real targets, real files, every error, its exit status and its text."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from click import Context

from fxgrad.cli import main
from fxgrad.cli.commands import fxgrad as command_line

HEAD = """
import torch
from torch import nn

def print_sizes(module, grad_input, grad_output):
    print([None if grad is None else tuple(grad.shape) for grad in grad_input])

class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
"""
MODEL = """
def build():
    model = Stack()
    model.layers[3].register_full_backward_hook(print_sizes)
    return model, (torch.ones(2, 4),)
"""
needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device: nothing to emulate")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder of the test, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(folder):
    def write_file(text, name="model.py"):
        (folder / name).write_text(HEAD + textwrap.dedent(text), encoding="utf-8")
        return name

    return write_file


@pytest.fixture
def model(write):
    return write(MODEL)


@pytest.fixture
def fails(capsys):
    """Run a command line that fails: its status, and what stderr says. No error may lack one of its three parts."""

    def run(*arguments):
        status = main(arguments)
        out, err = capsys.readouterr()
        assert out == ""
        assert re.search(r"^error: .+\n(?:.*\n)*  allowed: .+\n(?:.*\n)*  try: .+", err, re.M), err
        return status, err

    return run


def python(*arguments, **options):
    """Run another Python on this fxgrad, warnings as Python shows them by default."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=120, **options
    )


# What works


def test_nothing_is_said_of_numpy_where_it_is_missing(model, folder):
    (folder / "numpy.py").write_text("raise ModuleNotFoundError('no numpy', name='numpy')", encoding="utf-8")
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    done = python("-m", "fxgrad", "explain", model, env={**os.environ, "PYTHONPATH": path})
    assert (done.returncode, done.stderr) == (0, "")


def test_a_report_names_the_hook_and_its_node(model, capsys):
    assert main(["report", model]) == 0
    out, err = capsys.readouterr()
    assert "print_sizes" in out
    assert "BackwardHookFunctionBackward" in out
    assert err == ""


def test_a_report_writes_its_files(model, folder, capsys):
    assert main(["report", model, "--svg", "a.svg", "--json", "a.json", "--markdown", "a.md"]) == 0
    assert (folder / "a.svg").read_text().lstrip().startswith(("<?xml", "<svg"))
    assert json.loads((folder / "a.json").read_text())["info"]["schema_version"]
    assert "print\\_sizes" in (folder / "a.md").read_text()
    assert capsys.readouterr().err.splitlines() == ["wrote a.svg", "wrote a.json", "wrote a.md"]


def test_the_seeds_cell_is_explained_from_its_class_alone(capsys):
    arguments = ["torch.nn:LSTMCell", "--init", "1000, 1000", "--input", "f32[9,1000]"]
    assert main(["explain", *arguments, "--hook", "register_full_backward_hook"]) == 0
    assert "(9, 1000)" in capsys.readouterr().out


def test_a_saved_trace_is_explained_as_the_model_is(model, capsys):
    main(["report", model, "--json", "trace.json"])
    capsys.readouterr()
    assert main(["explain", model, "layers.3"]) == 0
    fresh = capsys.readouterr().out
    assert main(["explain", "trace.json", "layers.3"]) == 0
    assert capsys.readouterr().out == fresh


def test_explain_writes_json_that_any_reader_reads(model, capsys):
    assert main(["explain", model, "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), list)


@pytest.mark.parametrize("format", ["svg", "png", "pdf", "dot"])
def test_every_format_is_drawn(model, folder, format):
    assert main(["draw", model, "-o", f"graph.{format}"]) == 0
    assert (folder / f"graph.{format}").stat().st_size


def test_verify_finds_its_own_predictions_right(model, capsys):
    assert main(["verify", model]) == 0
    assert capsys.readouterr().out


def test_a_rule_is_described(capsys):
    assert main(["rule", "FXG101"]) == 0
    assert capsys.readouterr().out.startswith("FXG101")


def test_the_same_program_gives_the_same_bytes(model, capsys):
    texts = []
    for _ in range(2):
        main(["report", model, "--json", "/dev/null"])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_a_models_own_prints_stay_out_of_the_result(write, capsys):
    file = write(
        "print('importing')\ndef build():\n    print('building')\n    return nn.Linear(2, 2), (torch.ones(2),)"
    )
    assert main(["explain", file, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) is not None
    assert err == "importing\nbuilding\n"


def test_what_other_programs_and_c_code_print_stays_out_of_the_result(write):
    file = write("""
        import os, subprocess
        def build():
            os.write(1, b"from a file descriptor\\n")
            subprocess.run(["echo", "from a program"])
            return nn.Linear(2, 2), (torch.ones(2),)
    """)
    done = python("-m", "fxgrad", "explain", file, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
    assert done.stderr == "from a file descriptor\nfrom a program\n"


def test_strict_fails_where_a_finding_is_a_warning(write):
    file = write("""
        def build():
            model = Stack()
            model.layers[3].register_backward_hook(print_sizes)
            return model, (torch.ones(2, 4),)
    """)
    assert main(["explain", file, "--strict"]) == 1


def test_helpers_beside_the_file_may_be_imported_while_forward_runs(write, folder):
    (folder / "late_beside.py").write_text("scale = 2")
    file = write("""
        class Late(nn.Module):
            def forward(self, x):
                import late_beside
                return x * late_beside.scale
        def build(): return Late(), (torch.ones(2, requires_grad=True),)
    """)
    assert main(["report", file]) == 0


def test_nothing_is_left_beside_the_users_file(model, folder):
    before = list(sys.path)
    main(["verify", model])
    assert [path.name for path in folder.iterdir()] == [model]
    assert sys.path == before


# A device that is not there


@needs_no_cuda
def test_the_seeds_cell_is_fused_on_a_fake_accelerator(write, capsys):
    file = write("""
        def build():
            cell = nn.LSTMCell(8, 6)
            cell.register_backward_hook(print_sizes)
            return cell, (torch.ones(9, 8),)
    """)
    assert main(["explain", file, "--device", "cuda"]) == 0
    out = capsys.readouterr().out
    assert "ThnnFusedLstmCellBackward0" in out
    assert "input_gates" in out
    assert main(["explain", file]) == 0
    assert "ThnnFusedLstmCellBackward0" not in capsys.readouterr().out


@needs_no_cuda
def test_a_model_is_verified_on_a_fake_accelerator(model):
    assert main(["verify", model, "--device", "cuda"]) == 0


@needs_no_cuda
def test_a_target_that_fails_on_a_fake_accelerator_shows_its_own_frames(write, fails):
    status, err = fails("report", write("def build():\n    raise ValueError('no data here')"), "--device", "cuda")
    assert status == 3
    assert "ValueError: no data here\nerror: ValueError while calling model.py:build()\n" in err
    assert f"{os.sep}fxgrad{os.sep}" not in err


# Usage errors: 2


def test_no_such_file(model, fails):
    status, err = fails("report", "modle.py")
    assert status == 2
    assert err == (
        "error: no such file: modle.py\n"
        "  allowed: file.py[:factory], package.module[:factory], a class such as torch.nn:LSTMCell, or a saved trace.json\n"
        "  try: model.py\n"
    )


def test_a_name_without_a_near_one_is_looked_for_from_here(model, fails, folder):
    status, err = fails("report", "nothing_alike.py")
    assert status == 2
    assert f"  try: a path from here, {folder}\n" in err


def test_an_address_is_not_fetched(fails):
    status, err = fails("report", "http://localhost/model.py")
    assert status == 2
    assert "error: 'http://localhost/model.py' is an address: nothing is fetched\n" in err


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
        "error: no command 'reprot'\n  allowed: one of report, explain, draw, verify, check, rule\n  try: fxgrad report\n"
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
    assert err.startswith("error: an output without a name\n")


@pytest.mark.parametrize("loss", ["", "torch", "model.py:"])
def test_a_loss_that_names_no_function(model, fails, loss):
    status, err = fails("report", model, "--loss", loss)
    assert status == 2
    assert "names no function" in err


def test_a_device_that_torch_knows_and_that_is_not_there(model, fails):
    status, err = fails("report", model, "--device", "privateuseone")
    assert status == 2
    assert err.startswith("error: device privateuseone: there is none here\n")


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


# The target failed: 3


def test_a_file_that_fails_to_import_shows_its_own_frames_only(write, fails):
    status, err = fails("report", write("def configure():\n    return {}['width']\nconfigure()"))
    assert status == 3
    assert "return {}['width']" in err
    assert "KeyError: 'width'\nerror: KeyError while importing model.py\n" in err
    assert "importlib" not in err
    assert f"{os.sep}fxgrad{os.sep}" not in err


def test_debug_shows_every_frame(write, capsys):
    assert main(["report", write("1 / 0"), "--debug"]) == 3
    assert f"{os.sep}fxgrad{os.sep}" in capsys.readouterr().err


def test_a_file_with_a_syntax_error_shows_its_line(write, fails):
    status, err = fails("report", write("def build(:\n    pass"))
    assert status == 3
    assert "def build(:" in err
    assert "SyntaxError" in err


def test_a_file_that_exits(write, fails):
    status, err = fails("report", write("raise SystemExit(0)"))
    assert status == 3
    assert "__main__" in err


def test_a_factory_that_raises(write, fails):
    status, err = fails("report", write("def build():\n    raise ValueError('no data here')"))
    assert status == 3
    assert "ValueError: no data here\nerror: ValueError while calling model.py:build()\n" in err


def test_a_factory_that_returns_a_bare_model(write, fails):
    status, err = fails("report", write("def build(): return Stack()"))
    assert status == 3
    assert "error: model.py:build returned a Stack\n" in err
    assert "  try: return model, (x,)" in err


def test_a_factory_that_returns_nonsense(write, fails):
    status, err = fails("report", write("def build(): return 'abc'"))
    assert status == 3
    assert "error: model.py:build returned a str\n" in err


@pytest.mark.parametrize("command", ["report", "explain", "verify"])
def test_a_forward_that_raises_shows_the_users_frames_and_the_module(write, fails, command):
    file = write("""
        class Bad(nn.Module):
            def forward(self, x):
                raise ValueError("shapes do not fit")
        def build():
            model = nn.Sequential(nn.Linear(4, 4), Bad())
            return model, (torch.ones(2, 4),)
    """)
    status, err = fails(command, file)
    assert status == 3
    assert 'raise ValueError("shapes do not fit")' in err
    assert "torch/nn/modules/module.py" not in err
    assert f"{os.sep}fxgrad{os.sep}" not in err


def test_a_builtin_forward_that_raises_says_why(fails):
    status, err = fails("report", "torch.nn:Linear", "--init", "3, 4", "--input", "f32[9,5]")
    assert status == 3
    assert "mat1 and mat2 shapes cannot be multiplied (9x5 and 3x4)" in err


@pytest.mark.parametrize("command", ["report", "explain", "verify"])
def test_no_differentiable_output(write, fails, command):
    file = write("""
        def build(): return Stack().requires_grad_(False), (torch.ones(2, 4),)
    """)
    status, err = fails(command, file)
    assert status == 3
    assert "requires grad" in err


def test_a_lazy_module_is_refused_with_the_line_to_run_first(write, fails):
    status, err = fails("report", write("def build(): return nn.Sequential(nn.LazyLinear(3)), (torch.ones(2, 4),)"))
    assert status == 2
    assert "error: 0 is a LazyLinear, whose parameters have no shape yet\n" in err
    assert "  try: run model(*args) once before tracing\n" in err


def test_a_hook_that_raises_while_verifying(write, fails):
    file = write("""
        def fail(module, grad_input, grad_output):
            raise RuntimeError("from the hook")
        def build():
            model = Stack()
            model.layers[1].register_full_backward_hook(fail)
            return model, (torch.ones(2, 4, requires_grad=True),)
    """)
    status, err = fails("verify", file)
    assert status == 3
    assert 'raise RuntimeError("from the hook")' in err


def test_a_hook_that_raises_is_still_reported_on(write, capsys):
    file = write("""
        def fail(module, grad_input, grad_output):
            raise RuntimeError("from the hook")
        def build():
            model = Stack()
            model.layers[1].register_full_backward_hook(fail)
            return model, (torch.ones(2, 4, requires_grad=True),)
    """)
    assert main(["report", file]) == 0
    assert "fail" in capsys.readouterr().out


def test_a_forward_that_exits_is_no_success(write, fails):
    file = write("""
        class Leave(nn.Module):
            def forward(self, x):
                raise SystemExit(0)
        def build(): return Leave(), (torch.ones(2, requires_grad=True),)
    """)
    status, err = fails("report", file)
    assert status == 3
    assert "raise SystemExit(0)" in err


def test_a_loss_that_raises(write, fails):
    status, err = fails(
        "report", write(MODEL + "def loss(output): return output.no_such_method()"), "--loss", "model:loss"
    )
    assert status == 3
    assert "  try: loss(model(*args, **kwargs)) by itself: it raises without fxgrad, too\n" in err
    assert "no_such_method" in err


# Cannot draw or write: 4


@pytest.mark.parametrize("place", ["missing/graph.svg", "folder.svg"])
def test_an_unwritable_picture(model, fails, folder, place):
    (folder / "folder.svg").mkdir()
    status, err = fails("draw", model, "-o", place)
    assert status == 4
    assert place in err


def test_a_folder_that_is_not_there_is_told_before_the_target_runs(write, fails):
    file = write("print('running')\ndef build(): ...")
    status, err = fails("draw", file, "-o", "missing/graph.svg")
    assert status == 4
    assert err == (
        'error: cannot write "missing/graph.svg": No such file or directory\n'
        "  allowed: a file in a folder that exists and that you may write to\n"
        '  try: make the folder "missing" first\n'
    )


FAILING = {
    "the factory": "def build(): raise ValueError",
    "forward": """
        class Bad(nn.Module):
            def forward(self, x): raise ValueError
        def build(): return Bad(), (torch.ones(2),)
    """,
    "nothing to differentiate": "def build(): return nn.Identity(), (torch.ones(2),)",
}


@pytest.mark.parametrize("text", FAILING.values(), ids=FAILING)
@pytest.mark.parametrize(
    "command", [["draw", "-o", "a.svg"], ["report", "--svg", "a.svg", "--json", "a.json", "--markdown", "a.md"]]
)
def test_a_run_that_fails_leaves_the_outputs_that_were_there(write, fails, folder, text, command):
    outputs = [name for name in command if name.startswith("a.")]
    for name in outputs:
        (folder / name).write_text("before")
    status, _ = fails(*command, write(text))
    assert status == 3
    assert {path.name: path.read_text() for path in folder.glob("a.*")} == dict.fromkeys(outputs, "before")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*outputs, "model.py"])


def test_the_second_of_two_outputs_fails(model, folder, capsys):
    assert main(["report", model, "--svg", "a.svg", "--json", "missing/a.json"]) == 4
    out, err = capsys.readouterr()
    assert "print_sizes" in out
    assert "missing/a.json" in err
    assert "\nwritten: a.svg\n" in err
    assert (folder / "a.svg").exists()


def test_a_file_that_was_there_is_as_it_was_when_drawing_fails(model, folder, fails, monkeypatch):
    (folder / "graph.svg").write_text("before")
    monkeypatch.setattr("fxgrad.render.layout._engine", lambda format: ["/bin/false"])
    status, _ = fails("draw", model, "-o", "graph.svg")
    assert status == 4
    assert (folder / "graph.svg").read_text() == "before"
    assert sorted(path.name for path in folder.iterdir()) == ["graph.svg", model]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout(model, folder):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fxgrad", "rule", "FXG101"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 4
    assert done.stderr.startswith("error: cannot write to stdout: No space left on device\n")


# Names that are hard to show


@pytest.mark.parametrize(
    "name", ["a\"b'c", "<b>&amp;", "two\nlines", "fire 🔥", "\x1b[31mred", "\u202eback", "{x|y}", "a\\n"]
)
def test_a_module_of_any_name_is_reported_drawn_and_found(write, folder, capsys, name):
    file = write(f"""
        def build():
            model = nn.Sequential()
            model.add_module({name!r}, nn.Linear(4, 4))
            model.get_submodule({name!r}).register_full_backward_hook(print_sizes)
            return model, (torch.ones(2, 4),)
    """)
    assert main(["report", file, "--svg", "a.svg", "--json", "a.json", "--markdown", "a.md"]) == 0
    assert main(["explain", "a.json", name]) == 0
    out, err = capsys.readouterr()
    assert "print_sizes" in out
    assert not set(out + err + (folder / "a.md").read_text("utf-8")) & {"\x1b", "\u202e", "\r"}


def test_a_file_whose_name_is_no_utf8_is_traced(folder):
    name = b"mod\xff.py"
    (folder / os.fsdecode(name)).write_text(HEAD + MODEL)
    done = subprocess.run(
        [sys.executable.encode(), b"-m", b"fxgrad", b"report", name], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "settings",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["PYTHONIOENCODING", "the C locale"],
)
def test_a_stdout_that_knows_ascii_only(model, settings):
    done = python("-m", "fxgrad", "explain", model, env={**os.environ, **settings})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


# The process


def test_help_imports_click_and_nothing_heavier():
    heavy = {"torch", "numpy", "networkx", "rich", "graphviz", "pygraphviz", "sympy"}
    code = f"import sys; from fxgrad.cli import main; main(['report', '--help']); print({heavy!r} & sys.modules.keys())"
    assert python("-c", code).stdout.endswith("\nset()\n")


def test_a_saved_trace_needs_no_torch(model, capsys):
    main(["report", model, "--json", "trace.json"])
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from fxgrad.cli import main\n"
        "sys.exit(main(['report', 'trace.json', '--svg', 'a.svg']) or main(['explain', 'trace.json']))"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "wrote a.svg\n")


def test_a_reader_that_goes_early_is_no_error(model):
    command = f"{shlex.quote(sys.executable)} -m fxgrad report {model}; echo $? >&2"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == "0\n"


def test_a_closed_stdout_is_no_error(model):
    done = python(
        "-c", f"import sys; sys.stdout = None\nfrom fxgrad.cli import main\nsys.exit(main(['report', {model!r}]))"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_piped_is_coloured(model):
    done = python("-m", "fxgrad", "report", model, env={**os.environ, "TERM": "xterm-256color"})
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("whole_group", [True, False], ids=["the terminal's Ctrl-C", "a signal to fxgrad alone"])
@pytest.mark.parametrize("options", [[], pytest.param(["--device", "cuda"], marks=needs_no_cuda)], ids=["cpu", "cuda"])
def test_an_interrupt_ends_everything_without_a_traceback(write, folder, options, whole_group):
    file = write("""
        import os, time
        class Slow(nn.Module):
            def forward(self, x):
                os.rename("pid.part", "pid")
                time.sleep(100)
        def build():
            with open("pid.part", "w") as file:
                file.write(str(os.getpid()))
            return Slow(), (torch.ones(2, requires_grad=True),)
    """)
    command = [sys.executable, "-m", "fxgrad", "report", file, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not (folder / "pid").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60)[1] == "\ninterrupted\n"
    assert process.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int((folder / "pid").read_text()), 0)


def test_an_argument_parser_of_the_target_does_not_see_fxgrads_options(write):
    file = write("import argparse\nargparse.ArgumentParser().parse_args()" + MODEL)
    assert main(["report", file]) == 0


# The help


def examples():
    """Every example in the help, in the order in which the help shows them."""
    context = Context(command_line, info_name="fxgrad")
    pages = [command_line.get_help(context)]
    for name in command_line.list_commands(context):
        command = command_line.commands[name]
        pages.append(command.get_help(Context(command, info_name=name, parent=context)))
    return [line.strip() for page in pages for line in page.splitlines() if line.startswith("    fxgrad ")]


def test_every_command_shows_examples():
    shown = examples()
    assert {line.split()[1] for line in shown} == set(command_line.commands)


def test_every_example_in_the_help_runs(model, capsys):
    assert [(line, main(shlex.split(line)[1:])) for line in examples()] == [(line, 0) for line in examples()], (
        capsys.readouterr().err
    )
