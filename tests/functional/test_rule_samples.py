"""Every rule has a model that it speaks of, and the same model mended, of which it says nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import fxgrad
from fxgrad.errors import TargetError
from fxgrad.observe.target.loading import load_target
from fxgrad.rules import list_codes
from fxgrad.target_options import TargetOptions
from tests.support.commands import printed_by
from tests.support.needs import needs_of_command

RAISES = ("FXG106", "FXG108", "FXG202")
"""What these rules are about raises in forward or before: they are told with the error."""
OPTIONS = {"FXG102": " --device cuda"}
INPUTS = " --inputs head.weight"

pytestmark = pytest.mark.filterwarnings("ignore")  # of PyTorch, on what some of these models do


def sample(code: str, factory: str = "") -> str:
    return f"samples/rules/{code.lower()}.py{factory and ':'}{factory}{OPTIONS.get(code, '')}"


def commands_of(code: str) -> tuple[str, ...]:
    """What shows the finding, and what shows that the mended model has none of any rule that is a warning or an error."""
    if code == "FXG114":  # check looks at a backward without inputs=
        explain = f"fxgrad explain {sample(code)}{INPUTS}"
        return explain, explain.replace(sample(code), sample(code, "build_mended"))
    return f"fxgrad check --select {code} --format json {sample(code)}", f"fxgrad check {sample(code, 'build_mended')}"


ALL = [pytest.param(code, marks=needs_of_command(commands_of(code)[0])) for code in list_codes()]


def all_printed(command: str, repository: Path) -> str:
    """All that is printed, with the error; before torch 2.13 PyTorch's message names the Function by its node."""
    text = printed_by(command, repository, with_error=True)
    return text.replace("utput 0 of BackwardHookFunctionBackward", "utput 0 of BackwardHookFunction")


@pytest.mark.parametrize("code", ALL)
def test_what_is_said_of_a_rules_sample_stands_beside_it(code: str, repository: Path, overwrite: bool) -> None:
    commands = commands_of(code)
    printed = "\n".join(f"$ {command}\n{all_printed(command, repository)}\n" for command in commands)
    report = repository / "samples" / "rules" / f"{code.lower()}.report.txt"
    if overwrite:
        report.write_text(printed, encoding="utf-8")
    assert printed == report.read_text(encoding="utf-8")


@pytest.mark.parametrize("code", ALL)
def test_the_rule_speaks_of_its_sample(code: str, repository: Path) -> None:
    printed = printed_by(commands_of(code)[0], repository, with_error=True)
    if code in RAISES:
        assert f"({code})" in printed
    elif code == "FXG114":
        assert re.search(r"^  FXG114   warning: ", printed, re.MULTILINE)
    else:
        (told,) = json.loads(printed.removesuffix("[exit status 1]"))
        assert told["code"] == code


@pytest.mark.parametrize("code", ALL)
def test_the_mended_model_has_no_finding(code: str, repository: Path) -> None:
    printed = printed_by(commands_of(code)[1], repository, with_error=True)
    assert printed == "" if code != "FXG114" else "FXG1" not in printed


@pytest.mark.parametrize("code", sorted({*list_codes()} - {*RAISES, "FXG102", "FXG114", "FXG115"}))
def test_the_rule_itself_says_nothing_of_the_mended_model(code: str, repository: Path) -> None:
    assert printed_by(f"fxgrad check --select {code} {sample(code, 'build_mended')}", repository) == ""


def test_a_checkpoint_that_is_not_reentrant_is_told_of_for_information_only(repository: Path) -> None:
    (told,) = json.loads(
        printed_by(
            f"fxgrad check --select FXG115 --format json {sample('FXG115', 'build_mended')}", repository
        ).removesuffix("[exit status 1]")
    )
    assert told["severity"] == "info"


@pytest.mark.parametrize("factory", ["build", "build_mended"])
@pytest.mark.parametrize("code", sorted({*list_codes()} - {"FXG102"}))
def test_predictions_for_the_models_hold(code: str, factory: str, repository: Path) -> None:
    path = repository / "samples" / "rules" / f"{code.lower()}.py"
    if factory == "build" and code in RAISES:
        with pytest.raises(TargetError):
            fxgrad.api.trace_target(TargetOptions(f"{path}:{factory}"))
        return
    target = load_target(TargetOptions(f"{path}:{factory}"))
    if factory == "build" and code in ("FXG109", "FXG203"):
        with pytest.raises(RuntimeError, match=r"incorrect number of values|modified by an inplace operation"):
            target.model(*target.args).sum().backward()
        return
    assert fxgrad.verify(target.model, target.args, target.kwargs).ok


def test_every_rule_has_its_sample(repository: Path) -> None:
    names = {path.stem.upper() for path in (repository / "samples" / "rules").glob("*.py")}
    assert names == set(list_codes())
