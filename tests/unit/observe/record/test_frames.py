from __future__ import annotations

import pytest
import torch

import fxgrad
from fxgrad.errors import TargetError
from fxgrad.observe.record.frames import format_user_traceback, user_code


def raised(function):
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def run(function):
    with user_code("trying", allowed="what works", advice=lambda error: f"not {type(error).__name__}"):
        function()


def refusal(function):
    with pytest.raises(TargetError) as caught:
        run(function)
    return caught.value


def multiply_wrong_shapes():
    return torch.nn.Linear(3, 4)(torch.ones(9, 5))


def test_frames_of_torch_are_cut():
    shown = format_user_traceback(raised(multiply_wrong_shapes))
    assert "return torch.nn.Linear(3, 4)(torch.ones(9, 5))" in shown
    assert "torch/nn/modules" not in shown
    assert shown.splitlines()[-1].startswith("RuntimeError: mat1 and mat2 shapes cannot be multiplied")


def test_frames_of_torch_are_kept_where_there_are_no_others():
    error = raised(multiply_wrong_shapes)
    while "torch" not in error.__traceback__.tb_frame.f_globals["__name__"]:
        error.__traceback__ = error.__traceback__.tb_next
    assert "in _wrapped_call_impl" in format_user_traceback(error)


def test_frames_of_fxgrad_are_cut():
    assert "frames.py" not in refusal(multiply_wrong_shapes).details.replace("test_frames.py", "")


def test_the_cause_is_shown_and_cut_as_well():
    def cause():
        try:
            multiply_wrong_shapes()
        except RuntimeError as error:
            raise ValueError("bad shapes") from error

    shown = format_user_traceback(raised(cause))
    assert "direct cause" in shown
    assert "torch/nn/modules" not in shown


def test_a_cycle_of_causes_ends():
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert "ValueError: one" in format_user_traceback(one)


def test_an_error_whose_text_raises_is_shown():
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError

    def fail():
        raise Broken

    assert "Broken" in refusal(fail).details


def test_a_syntax_error_keeps_its_line_and_caret():
    details = refusal(lambda: compile("x = = 1", "model.py", "exec")).details
    assert 'File "model.py", line 1' in details
    assert "^" in details


def test_an_error_of_the_users_code_becomes_a_target_error():
    error = refusal(lambda: 1 / 0)
    assert str(error) == "ZeroDivisionError while trying\n  allowed: what works\n  try: not ZeroDivisionError"
    assert isinstance(error.__cause__, ZeroDivisionError)


def test_an_exit_is_told_how_not_to_run_on_import():
    def leave():
        raise SystemExit(0)

    error = refusal(leave)
    assert error.given == "SystemExit while trying"
    assert error.suggestion == 'put what runs only as a program under `if __name__ == "__main__":`'


def test_a_generator_exit_is_an_error_as_any_other():
    def leave():
        raise GeneratorExit

    assert refusal(leave).given == "GeneratorExit while trying"


def test_an_interrupt_from_the_keyboard_passes():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupt)


def test_lines_are_told_apart_by_their_file_where_the_code_is_the_same(tmp_path):
    functions = {}
    for name, text in (("one.py", "return torch.tanh(x)  # one"), ("two.py", "return torch.tanh(x)  # two")):
        path = tmp_path / name
        path.write_text(f"import torch\ndef run(x):\n    {text}\n")
        names: dict = {}
        exec(compile(path.read_text(), str(path), "exec"), names)
        functions[name] = names["run"]

    class Both(torch.nn.Module):
        def forward(self, x):
            return functions["one.py"](x) + functions["two.py"](x)

    graph = fxgrad.trace(Both(), torch.ones(2, requires_grad=True)).graph
    lines = [node.source.code for node in graph.forward if node.op == "call_function"]
    assert lines == ["return torch.tanh(x)  # one", "return torch.tanh(x)  # two"]
