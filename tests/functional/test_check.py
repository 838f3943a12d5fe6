"""``fxgrad check`` as a linter: what is told, in which form, and the exit status."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest

from fxgrad.cli import main

HEAD = """
import torch
from torch import nn

def show(module, grad_input, grad_output):
    print(len(grad_input))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.spare = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.first(x)
"""
FINE = """
def build():
    model = Net()
    model.spare.requires_grad_(False)
    model.first.register_full_backward_hook(show)
    return model, (torch.ones(2, 3, requires_grad=True),)
"""
SILENT = """
def build():
    model = Net()
    model.spare.requires_grad_(False)
    model.spare.register_full_backward_hook(show)
    return model, (torch.ones(2, 3),)
"""
UNUSED = """
def build():
    return Net(), (torch.ones(2, 3),)
"""
BROKEN = """
def build():
    return Net(), (torch.ones(2, 4),)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder of the test, with a file for each kind of target."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("fine", FINE), ("silent", SILENT), ("unused", UNUSED), ("broken", BROKEN)):
        Path(f"{name}.py").write_text(HEAD + textwrap.dedent(text), encoding="utf-8")
    return tmp_path


@pytest.fixture
def check(capsys):
    """Run ``fxgrad check``: exit status, stdout and stderr."""

    def run(*arguments):
        status = main(["check", *arguments])
        return status, *capsys.readouterr()

    return run


SILENT_LINE = "silent.py:19: FXG104 warning `show` never fires: the module is never called (`spare`)\n"
UNUSED_LINE = (
    "unused.py: FXG204 warning autograd sees no use of `spare.weight` and `spare.bias`: `spare` is never called\n"
)


def test_a_model_without_findings_prints_nothing_and_exits_with_0(check):
    assert check("fine.py") == (0, "", "")


def test_a_finding_is_a_line_with_the_place_where_the_hook_was_registered_and_exits_with_1(check):
    assert check("silent.py") == (1, SILENT_LINE, "")


def test_the_line_is_the_one_that_it_says(check):
    _, out, _ = check("silent.py")
    number = int(re.findall(r"silent.py:(\d+):", out)[0])
    assert "spare.register_full_backward_hook(show)" in Path("silent.py").read_text().splitlines()[number - 1]


def test_several_targets_are_told_together_in_order(check):
    assert check("unused.py", "fine.py", "silent.py") == (1, SILENT_LINE + UNUSED_LINE, "")


def test_the_order_of_targets_does_not_matter(check):
    assert check("silent.py", "unused.py") == check("unused.py", "silent.py")


def test_a_target_given_twice_is_told_once(check):
    assert check("silent.py", "silent.py:build") == (1, SILENT_LINE, "")


def test_select_takes_codes_and_beginnings_of_codes(check):
    assert check("silent.py", "unused.py", "--select", "FXG2") == (1, UNUSED_LINE, "")
    assert check("silent.py", "unused.py", "--select", "fxg104,FXG204")[1] == SILENT_LINE + UNUSED_LINE


def test_ignore_takes_away(check):
    assert check("silent.py", "unused.py", "--ignore", "FXG2") == (1, SILENT_LINE, "")
    assert check("silent.py", "--select", "FXG1", "--ignore", "FXG104") == (0, "", "")


@pytest.mark.parametrize(("option", "given"), [("--select", "FXG9"), ("--ignore", "E501"), ("--select", "")])
def test_a_code_that_no_rule_has_is_refused(check, option, given):
    status, out, err = check("silent.py", option, given)
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert lines[0] == f"error: {option} {given}: no rule's code starts with it"
    assert lines[1].startswith("  allowed: codes, or prefixes of codes: FXG101, ")
    assert re.fullmatch(rf"  try: {option} FXG\d+", lines[2])


def test_findings_of_severity_info_are_told_on_demand_and_do_not_count(check):
    status, out, _ = check("fine.py", "--all")
    assert (status, out) == (0, "fine.py: FXG201 info 2 parameters are frozen (`spare.weight`)\n")


def test_a_code_that_is_selected_whole_is_told_whatever_its_severity(check):
    assert check("fine.py", "--select", "FXG201")[1] == check("fine.py", "--all")[1] != ""
    assert check("fine.py", "--select", "FXG2")[1] == ""


def test_exit_zero_never_counts(check):
    assert check("silent.py", "--exit-zero") == (0, SILENT_LINE, "")


@pytest.mark.parametrize("form", ["json", "sarif"])
def test_a_format_for_programs_is_whole_also_without_findings(check, form):
    status, out, _ = check("fine.py", "--format", form)
    assert status == 0
    assert json.loads(out) is not None


def test_github_annotations_are_workflow_commands(check):
    status, out, _ = check("silent.py", "--format", "github")
    assert status == 1
    assert out.startswith(
        "::warning file=silent.py,line=19,title=FXG104::`show` never fires: the module is never called (`spare`)%0A"
    )
    assert check("fine.py", "--format", "github") == (0, "", "")


def test_an_unknown_format_is_refused(check):
    status, _, err = check("silent.py", "--format", "junit")
    assert status == 2
    assert "'text', 'json', 'github', 'sarif'" in err


def test_no_target_is_refused(check):
    status, _, err = check()
    assert status == 2
    assert "Missing argument 'TARGET...'" in err


def test_a_target_that_cannot_be_traced_does_not_hide_the_findings_of_others(check):
    status, out, err = check("broken.py", "silent.py")
    assert (status, out) == (3, SILENT_LINE)
    assert "error: forward raised RuntimeError in first (Linear), at broken.py:14 `return self.first(x)`" in err
    assert "\n  allowed: " in err
    assert "\n  try: " in err


def test_all_targets_that_are_missing_are_named(check):
    status, out, err = check("nowhere.py", "silent.py", "also.py")
    assert (status, out) == (2, SILENT_LINE)
    assert err.splitlines()[:2] == ["error: no such file: nowhere.py", "and no such file: also.py"]


def test_a_saved_trace_is_checked_like_the_model(check):
    main(["report", "silent.py", "--json", "trace.json"])
    status, out, _ = check("trace.json")
    assert (status, out.splitlines()[-1] + "\n") == (1, SILENT_LINE)


def test_the_options_of_a_module_class_are_taken(check):
    status, out, _ = check("torch.nn:Linear", "--init", "3, 2", "--input", "f32[4,3]")
    assert (status, out) == (0, "")


def test_what_the_target_prints_is_no_finding(check):
    Path("loud.py").write_text(HEAD + "print('loading')\n" + SILENT, encoding="utf-8")
    status, out, err = check("loud.py")
    assert (status, out) == (1, SILENT_LINE.replace("silent.py:19", "loud.py:20"))
    assert err == "loading\n"
