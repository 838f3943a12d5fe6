"""A target traced on the fake accelerator is compared with what the CPU really does: a real hook in a real backward."""

from __future__ import annotations

import json
import textwrap

import pytest
import torch
import torch._dynamo  # what FakeTensorMode imports at its first use, here once instead of in every child
from torch import nn

from fxgrad import api, emulated, load
from fxgrad.cli import main
from fxgrad.graph import Landing
from fxgrad.rules import explain
from fxgrad.target_options import TargetOptions
from tests.support.needs import needs_emulation

pytestmark = needs_emulation

HEAD = """
import os
import torch
from torch import nn

def show(module, grad_input, grad_output):
    pass

def hooked(model):
    model.register_backward_hook(show)
    return model
"""
CELL = "def build(): return hooked(nn.LSTMCell(4, 3)), (torch.ones(5, 4),)"


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """Trace a target on the fake accelerator."""
    monkeypatch.chdir(tmp_path)

    def trace_text(text):
        (tmp_path / "model.py").write_text(HEAD + textwrap.dedent(text))
        return api.trace_target(TargetOptions("model.py", device="cuda"))

    return trace_text


def findings(trace):
    return [told for told in explain(trace.graph) if told.code == "FXG102"]


@pytest.mark.filterwarnings("ignore:Using (a )?non-full backward hook:FutureWarning")
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
def test_the_cpu_side_is_what_a_real_hook_gets_on_the_cpu(trace, kind):
    cell, seen = getattr(nn, kind)(4, 3), []
    cell.register_backward_hook(
        lambda _, grad_input, grad_output: seen.append(
            (torch._C._current_autograd_node().name(), len(grad_input), len(grad_output))
        )
    )
    result = cell(torch.ones(5, 4))
    (result if isinstance(result, torch.Tensor) else result[0]).sum().backward()
    ((node, grad_input, grad_output),) = seen
    traced = trace(CELL.replace("LSTMCell", kind))
    assert traced.graph.info.other_device.landings == (Landing("#1", node, grad_input, grad_output),)
    (found,) = findings(traced)
    assert f"it sits on {node} and gets {grad_input} grad_input and {grad_output} grad_output" in found.because


def test_nothing_is_said_where_both_devices_have_the_same_node(trace):
    traced = trace("def build(): return hooked(nn.Linear(4, 3)), (torch.ones(5, 4),)")
    assert traced.graph.info.other_device.landings == (Landing("#1", "AddmmBackward0", 3, 1),)
    assert findings(traced) == []


def test_without_a_non_full_hook_the_target_runs_once(trace):
    assert trace("def build(): return nn.LSTMCell(4, 3), (torch.ones(5, 4),)").graph.info.other_device is None


def test_a_class_is_compared_for_a_non_full_hook_that_is_tried(capsys):
    target = ["torch.nn:LSTMCell", "--init", "4, 3", "--input", "f32[5,4]", "--device", "cuda"]
    assert main(["explain", *target, "--hook", "register_backward_hook"]) == 0
    assert "on the CPU this hook sits on another node, MulBackward0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        ("raise ValueError('only on an accelerator')", "forward raised ValueError in the model (Cell), at model.py:16"),
        ("os._exit(3)", "the forked child ended with exit status 3 before it had a result"),
        ("os.kill(os.getpid(), 11)", "the forked child was killed by SIGSEGV"),
    ],
)
def test_a_target_that_fails_on_the_cpu_is_explained_without_it(trace, failing, said):
    traced = trace(f"""
        class Cell(nn.LSTMCell):
            def forward(self, x):
                if x.device.type == "cpu":
                    {failing}
                return super().forward(x)
        def build(): return hooked(Cell(4, 3)), (torch.ones(5, 4),)
    """)
    other = traced.graph.info.other_device
    assert other.landings == ()
    assert other.failure.startswith(said)
    (found,) = findings(traced)
    assert f"Its node on the CPU is unknown: {said}" in found.because


def test_what_the_target_prints_is_printed_once(trace, capfd):
    trace("print('from the target')\n" + CELL)
    assert capfd.readouterr() == ("from the target\n", "")


def test_each_side_imports_the_target_afresh_and_has_an_engine_of_its_own(trace):
    traced = trace("""
        import builtins
        assert not hasattr(builtins, "imported_before")
        builtins.imported_before = True
        def build():
            torch.ones(2, requires_grad=True).sum().backward()
            return hooked(nn.LSTMCell(4, 3)), (torch.ones(5, 4),)
    """)
    assert traced.graph.info.other_device.landings


def test_a_model_with_too_many_elements_is_left_alone(trace, monkeypatch):
    text = CELL.replace("LSTMCell(4, 3)", "Sequential(nn.Embedding(600_000_000, 1), nn.LSTMCell(1, 3))")
    traced = trace(text.replace("torch.ones(5, 4)", "torch.zeros(5, dtype=torch.long)"))
    assert traced.graph.info.other_device.failure.startswith("its tensors hold 600,000,0")


def test_a_saved_trace_says_the_same(trace, tmp_path):
    traced = trace(CELL)
    traced.to_json(tmp_path / "trace.json")
    saved = load(tmp_path / "trace.json")
    assert saved.graph.info == traced.graph.info
    assert str(saved.explain()) == str(traced.explain())
    assert json.loads((tmp_path / "trace.json").read_text())["info"]["other_device"] == {
        "device": "cpu",
        "landings": [{"call": "#1", "node": "MulBackward0", "grad_input": 2, "grad_output": 1}],
    }


def test_where_nothing_can_fork_the_target_is_still_traced(trace, monkeypatch):
    monkeypatch.setattr(emulated.forked, "can_fork", lambda: False)
    traced = trace(CELL)
    assert [node.name for node in traced.graph.nodes][:1] == ["ThnnFusedLstmCellBackward0"]
    assert traced.graph.info.other_device is None
