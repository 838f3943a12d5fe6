"""The target failed: exit status 3, with the user's own frames."""

from __future__ import annotations

import os

import pytest

from fxgrad.cli import main
from tests.support.targets import MODEL


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
    assert "  try: loss(model(*args, **kwargs)) by itself, to see whether it raises without fxgrad as well\n" in err
    assert "no_such_method" in err


def test_a_forward_that_raises_only_while_it_is_traced_is_not_said_to_raise_without_fxgrad(write, fails):
    file = write("""
        class Alone(nn.Module):
            def forward(self, x):
                if torch._C._len_torch_function_stack():
                    raise RuntimeError("a function mode is around")
                return x * 2
        def build(): return Alone(), (torch.ones(2, requires_grad=True),)
        model, args = build()
        model(*args)
    """)
    _, err = fails("report", file)
    assert "a function mode is around" in err
    assert "  try: model(*args, **kwargs) by itself, to see whether it raises without fxgrad as well\n" in err
