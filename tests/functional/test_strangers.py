"""Programs as people reported them, each with the question that they asked and the right answer in its docstring.

``build`` is the program, ``build_mended`` the same with the fix that fxgrad tells applied. What ``fxgrad check`` prints
about the first stands beside it, its first line answering the question; of the second nothing is found.
"""

from __future__ import annotations

import ast
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import fxgrad
from fxgrad.errors import TargetError
from fxgrad.observe.target.loading import load_target
from fxgrad.target_options import TargetOptions
from tests.support.commands import printed_by

PROGRAMS = sorted(path.stem for path in Path(__file__).parent.parent.joinpath("strangers").glob("*.py"))

pytestmark = pytest.mark.filterwarnings("ignore")  # of PyTorch, on what some of these programs do


@pytest.fixture(autouse=True)
def seed() -> None:
    """What is said of values, as of a ReLU that lets nothing through, depends on the weights."""
    torch.manual_seed(0)


def factories_of(path: Path) -> list[str]:
    """The TARGETs in a program: ``build``, ``build_mended`` and others that start like these."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [name for name in names if name.startswith("build")]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_first_finding_is_the_answer(program: str, repository: Path, overwrite: bool) -> None:
    path = repository / "tests" / "strangers" / f"{program}.py"
    printed = ""
    for factory in factories_of(path):
        command = f"fxgrad check tests/strangers/{program}.py:{factory}"
        printed += f"$ {command}\n{printed_by(command, repository, with_error=True)}\n\n"
    report = path.with_suffix(".report.txt")
    if overwrite:
        report.write_text(printed.rstrip() + "\n", encoding="utf-8")
    assert printed.rstrip() + "\n" == report.read_text(encoding="utf-8")


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_fix_mends_the_program(program: str, repository: Path) -> None:
    path = repository / "tests" / "strangers" / f"{program}.py"
    mended = [factory for factory in factories_of(path) if factory.startswith("build_mended")]
    assert mended
    for factory in mended:
        assert printed_by(f"fxgrad check tests/strangers/{program}.py:{factory}", repository, with_error=True) == ""


@pytest.mark.parametrize("program", PROGRAMS)
def test_predictions_equal_the_real_backward(program: str, repository: Path) -> None:
    path = repository / "tests" / "strangers" / f"{program}.py"
    for factory in factories_of(path):
        target = load_target(TargetOptions(f"{path}:{factory}"))
        checked = printed_by(f"fxgrad check {path}:{factory}", repository, with_error=True)
        raises = "backward raises:" in checked or checked.startswith("error: forward raised")
        with pytest.raises(TargetError, match=r"(back|for)ward raised") if raises else nullcontext():
            verification = fxgrad.verify(target.model, target.args, target.kwargs, loss=target.loss)
            assert verification.ok, verification


def test_the_hook_of_grad_cam_is_found_at_the_module_whose_result_it_is_on(repository: Path) -> None:
    printed = printed_by("fxgrad explain tests/strangers/gradcam_owner.py 0", repository)
    assert "result of 0" in printed
    assert "Tensor.register_hook(see)" in printed


def test_a_compiled_model_without_hooks_is_said_to_have_only_those_of_torch(repository: Path) -> None:
    torch._dynamo.reset()
    with torch._functorch.config.patch(enable_autograd_cache=False):  # what comes from the cache has no hooks
        printed = printed_by("fxgrad explain tests/strangers/compiled_no_hooks.py", repository)
    assert "hooks of PyTorch itself (torch/_functorch/_aot_autograd/…) are not shown" in " ".join(printed.split())
    assert "posthook" not in printed
