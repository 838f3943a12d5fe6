"""A saved trace of a real run is read back equal, and answers without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import many_hooks
import pytest
import torch
from torch import nn

import fxgrad
from fxgrad import result

WITHOUT_TORCH = """
import sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("no torch here")

sys.meta_path.insert(0, Refusing())
"""
API = """
import json
import fxgrad
trace = fxgrad.load("trace.json")
module = "blocks.second"
answers = {
    "explain": str(trace.explain()),
    "explain one": str(trace.explain(module)),
    "report": str(trace.report()),
    "markdown": trace.to_markdown(),
    "text": str(trace),
    "svg": trace.draw(),
    "dot": open(trace.draw("graph.dot")).read(),
    "sites": len(trace.sites_of(module)),
    "networkx": trace.to_networkx().number_of_nodes(),
    "json": trace.to_json(),
}
print(json.dumps(answers))
assert "torch" not in sys.modules
"""
COMMAND = """
from fxgrad.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def trace() -> fxgrad.Trace:
    return fxgrad.trace(*many_hooks.build())


@pytest.fixture
def folder(trace: fxgrad.Trace, tmp_path: Path) -> Path:
    """A folder with the saved trace."""
    trace.to_json(tmp_path / "trace.json")
    return tmp_path


def without_torch(program: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH + program, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


# Read back equal


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


MODELS = {
    "Residual": lambda: (Residual(), (torch.randn(2, 3),)),
    "LSTM": lambda: (nn.LSTM(3, 4, 2), (torch.randn(5, 2, 3),)),
    "transformer": lambda: (nn.TransformerEncoderLayer(4, 2, 8), (torch.randn(3, 2, 4),)),
    "convolution": lambda: (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)), (torch.randn(1, 1, 8, 8),)),
    "embedding": lambda: (nn.Embedding(5, 3, sparse=True), (torch.tensor([1, 2]),)),
    "complex": lambda: (nn.Linear(3, 3, dtype=torch.complex64), (torch.randn(2, 3, dtype=torch.complex64),)),
    "meta": lambda: (nn.Linear(3, 3, device="meta"), (torch.empty(2, 3, device="meta"),)),
    "many hooks": many_hooks.build,
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_a_trace_is_read_back_equal(build, tmp_path: Path) -> None:
    trace = fxgrad.trace(*build())
    loaded = fxgrad.load(trace.to_json(tmp_path / "trace.json"))
    assert loaded.graph == trace.graph
    assert loaded.to_json() == trace.to_json()
    assert str(loaded.report()) == str(trace.report())
    loaded.graph.lint()


@pytest.mark.filterwarnings("ignore:drawn by", "ignore:Using a non-full backward hook")
def test_a_recording_and_a_capture_are_read_back_equal(tmp_path: Path) -> None:
    model, args, kwargs = many_hooks.build()
    with fxgrad.record(model) as recording:
        loss = model(*args, **kwargs)["result"].sum()
    for trace in (recording.trace(loss), fxgrad.capture(loss, model, node_hooks=True)):
        assert fxgrad.load(trace.to_json(tmp_path / "trace.json")).graph == trace.graph


def test_a_verified_graph_is_read_back_equal(tmp_path: Path) -> None:
    verified = fxgrad.verify(*many_hooks.build())
    saved = result.Trace(verified.graph).to_json(tmp_path / "trace.json")
    assert fxgrad.load(saved).graph == verified.graph


# Without torch


def test_an_import_of_torch_would_fail_there(folder: Path) -> None:
    done = without_torch("import torch", folder)
    assert done.returncode == 1
    assert "ImportError: no torch here" in done.stderr


def test_a_saved_trace_gives_the_same_answers_without_torch(trace: fxgrad.Trace, folder: Path) -> None:
    done = without_torch(API, folder)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    module = "blocks.second"
    assert answers == {
        "explain": str(trace.explain()),
        "explain one": str(trace.explain(module)),
        "report": str(trace.report()),
        "markdown": trace.to_markdown(),
        "text": str(trace),
        "svg": trace.draw(),
        "dot": (folder / "graph.dot").read_text(encoding="utf-8"),
        "sites": len(trace.sites_of(module)),
        "networkx": len(trace.graph.nodes),
        "json": trace.to_json(),
    }


def test_report_of_a_saved_trace_without_torch(trace: fxgrad.Trace, folder: Path) -> None:
    done = without_torch(COMMAND, folder, "report", "trace.json", "--svg", "graph.svg", "--markdown", "report.md")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    assert done.stdout.splitlines()[0] == str(trace.report()).splitlines()[0]
    assert (folder / "graph.svg").read_text(encoding="utf-8").startswith("<svg")
    assert (folder / "report.md").read_text(encoding="utf-8") == trace.to_markdown()


def test_explain_of_a_saved_trace_without_torch(folder: Path) -> None:
    done = without_torch(COMMAND, folder, "explain", "trace.json", "blocks.first")
    assert (done.returncode, done.stderr) == (0, "")
    assert "register_backward_hook(show)" in done.stdout
    assert "FXG101" in done.stdout


def test_a_hook_cannot_be_tried_on_a_saved_trace(folder: Path) -> None:
    done = without_torch(
        COMMAND, folder, "explain", "trace.json", "unused", "--hook", "register_full_backward_pre_hook"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: a hook on the saved trace trace.json\n  allowed: a target that can be run, as forward runs with the "
        "hook\n  try: pass the file or class that was traced\n"
    )


def test_picture_of_a_saved_trace_without_torch(folder: Path) -> None:
    done = without_torch(COMMAND, folder, "draw", "trace.json", "-o", "graph.dot")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert (folder / "graph.dot").read_text(encoding="utf-8").startswith("digraph")


def test_page_of_a_rule_without_torch(folder: Path) -> None:
    done = without_torch(COMMAND, folder, "rule", "FXG101")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("FXG101")


@pytest.mark.parametrize("target", ["model.py", "torch.nn:Linear"])
def test_a_program_cannot_be_traced_without_torch(folder: Path, target: str) -> None:
    (folder / "model.py").write_text("import torch\n", encoding="utf-8")
    done = without_torch(COMMAND, folder, "report", target)
    assert done.returncode == 3
    given, allowed, advice = done.stderr.splitlines()
    assert given == "error: torch cannot be imported: no torch here"
    assert allowed == "  allowed: an environment with torch to run a target; a saved trace needs no torch"
    assert advice == "  try: pip install torch, or pass a trace.json that was saved elsewhere"


def test_a_saved_trace_cannot_be_verified_without_torch(folder: Path) -> None:
    done = without_torch(COMMAND, folder, "verify", "trace.json")
    assert done.returncode == 2
    assert "trace.json" in done.stderr
    assert "  allowed: " in done.stderr
