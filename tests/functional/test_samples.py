"""Every sample prints the report beside it, and its predictions hold in a real backward."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fxgrad.api import probe_target, trace_target
from fxgrad.graph import HookKind
from fxgrad.observe.target.loading import load_target
from fxgrad.target_options import TargetOptions
from tests.support.commands import printed_by, without_versions
from tests.support.needs import needs_of_command

SAMPLES = sorted(path.stem for path in (Path(__file__).parents[2] / "samples").glob("*.py"))
VERBS = ("report", "check", "verify")
EMULATED = {"lstm_cell": ("", " --device cuda")}


def commands_of(sample: str) -> list[str]:
    options = EMULATED.get(sample, ("",))
    return [f"fxgrad {verb} samples/{sample}.py{option}" for option in options for verb in VERBS]


def needs_of(sample: str) -> list[pytest.MarkDecorator]:
    return needs_of_command(" ".join(commands_of(sample)))


@pytest.mark.usefixtures("fast_interpreters")
@pytest.mark.parametrize("sample", [pytest.param(sample, marks=needs_of(sample)) for sample in SAMPLES])
def test_sample_prints_the_report_beside_it(sample: str, repository: Path, overwrite: bool) -> None:
    printed = [f"$ {command}\n{without_versions(printed_by(command, repository))}\n" for command in commands_of(sample)]
    golden = repository / "samples" / f"{sample}.report.txt"
    if overwrite:
        golden.write_text("\n".join(printed), encoding="utf-8")
    assert "\n".join(printed) == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("sample", SAMPLES)
def test_predictions_for_sample_hold(sample: str, repository: Path) -> None:
    golden = (repository / "samples" / f"{sample}.report.txt").read_text(encoding="utf-8")
    summaries = re.findall(r"^\d+ hook sites?, .* compared: (\d+) wrong, (\d+) unknown$", golden, re.MULTILINE)
    format_choices = re.findall(r"^  unknown ", golden, re.MULTILINE)
    assert summaries
    assert all(wrong == "0" for wrong, _ in summaries)
    assert sum(int(unknown) for _, unknown in summaries) == len(format_choices)


@pytest.mark.parametrize("sample", SAMPLES)
def test_check_tells_the_warnings_and_errors_of_the_report(sample: str, repository: Path) -> None:
    golden = (repository / "samples" / f"{sample}.report.txt").read_text(encoding="utf-8")
    told = re.findall(r"^  (FXG\d+)\s+(error|warning|info): ", golden, re.MULTILINE)
    format_choices = re.findall(r"^\S+: (FXG\d+) (\w+) ", golden, re.MULTILINE)
    assert set(format_choices) == {(code, severity) for code, severity in told if severity != "info"}


@pytest.mark.usefixtures("fast_interpreters")
@pytest.mark.parametrize("sample", [pytest.param(sample, marks=needs_of(sample)) for sample in SAMPLES])
def test_the_commands_in_a_samples_docstring_run(sample: str, repository: Path) -> None:
    docstring = (
        ast.get_docstring(ast.parse((repository / "samples" / f"{sample}.py").read_text(encoding="utf-8"))) or ""
    )
    commands = re.findall(r"^    (fxgrad .*)$", docstring, re.MULTILINE)
    assert commands
    for command in commands:
        printed = printed_by(command, repository)
        assert "roots: " in printed or command.startswith("fxgrad check ")
        assert not re.search(r"\[exit status [^1]", printed)


def test_five_hooks_never_fire_each_for_another_reason(repository: Path) -> None:
    trace = trace_target(TargetOptions(str(repository / "samples" / "silent_hook.py")))
    assert [site.fires for site in trace.sites] == [False] * 5
    told = [(finding.because, finding.fix) for finding in trace.explain().findings if finding.code == "FXG104"]
    assert len({because for because, _ in told}) == len({fix for _, fix in told}) == 5


def test_a_full_hook_before_the_in_place_relu_is_refused_as_the_sample_says(repository: Path) -> None:
    sample = TargetOptions(str(repository / "samples" / "resnet_block.py"))
    refused = probe_target(sample, "bn1", HookKind.MODULE_FULL_BACKWARD).refused
    assert refused is not None
    assert refused.startswith("forward raised RuntimeError in relu (ReLU), at samples/resnet_block.py:")
    assert "is a view and is being modified inplace" in refused
    block = _built(repository / "samples" / "resnet_block.py")
    block.bn1.register_full_backward_hook(lambda module, grad_input, grad_output: None)
    with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
        block(torch.ones(2, 8, 16, 16, requires_grad=True))


def _built(path: Path) -> Any:
    return load_target(TargetOptions(str(path))).model


@pytest.mark.parametrize("sample", ["lost_gradients", "wrong_moment"])
def test_the_mended_twin_of_a_sample_has_no_finding(sample: str, repository: Path) -> None:
    assert printed_by(f"fxgrad check samples/{sample}.py:build_mended", repository) == ""


def test_every_report_has_its_sample(repository: Path) -> None:
    reports = {name.removesuffix(".report.txt") for name in os.listdir(repository / "samples") if name.endswith(".txt")}
    assert reports == set(SAMPLES)
