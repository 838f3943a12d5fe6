"""The command line as its users meet it: what every command answers to real targets."""

from __future__ import annotations

import json
import os
import re
import sys

import pytest

from fxgrad.cli import main
from fxgrad.rules import list_codes
from tests.support.needs import needs_emulation
from tests.support.targets import python


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
    assert (folder / "a.svg").read_text().startswith("<svg")
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


TWO_HOOKS = """
def build():
    model = Stack()
    for index in (0, 3):
        model.layers[index].register_full_backward_hook(lambda *given, index=index: print("called", index))
    return model, (torch.ones(2, 4, requires_grad=True),)
"""


@pytest.mark.parametrize("device", [[], pytest.param(["--device", "cuda"], marks=needs_emulation)], ids=["cpu", "cuda"])
@pytest.mark.parametrize(
    ("options", "called"),
    [([], [3, 0]), (["--inputs", "layers.2.weight"], [3]), (["--inputs", "layers.3.bias", "--api", "grad"], [])],
)
def test_verify_calls_backward_as_it_is_told(write, device, options, called):
    done = python("-m", "fxgrad", "verify", write(TWO_HOOKS), *device, *options)
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if line.startswith("called")] == [f"called {i}" for i in called]
    assert re.fullmatch(r"2 hook sites, \d entr(y|ies) compared: 0 wrong, 0 unknown\n", done.stdout)


def test_inputs_to_verify_that_are_not_there(model, fails):
    status, err = fails("verify", model, "--inputs", "layers.3.wieght")
    assert (status, err.splitlines()[0]) == (2, "error: no tensor 'layers.3.wieght'")


def test_all_rules_are_listed_with_their_titles(capsys):
    assert main(["rule"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(list_codes())


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


@needs_emulation
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


@needs_emulation
def test_a_model_is_verified_on_a_fake_accelerator(model):
    assert main(["verify", model, "--device", "cuda"]) == 0


@needs_emulation
def test_a_target_that_fails_on_a_fake_accelerator_shows_its_own_frames(write, fails):
    status, err = fails("report", write("def build():\n    raise ValueError('no data here')"), "--device", "cuda")
    assert status == 3
    assert "ValueError: no data here\nerror: ValueError while calling model.py:build()\n" in err
    assert f"{os.sep}fxgrad{os.sep}" not in err
