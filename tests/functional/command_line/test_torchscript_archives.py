"""A TARGET that is an archive of TorchScript; a pickle under the same ending is refused without being loaded."""

from __future__ import annotations

import os
import zipfile

import pytest
import torch
from torch import nn

from fxgrad.cli import main


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x, scale: float = 2.0):
        return torch.relu(self.linear(x)) * scale + x


class RunsWhenLoaded:
    """Its pickle makes a folder when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("loaded",)


@pytest.fixture
def archive(folder):
    with pytest.warns((DeprecationWarning, FutureWarning), match="deprecated"):
        torch.jit.script(Block()).save(folder / "block.pt")
    return "block.pt"


def test_an_archive_is_traced_with_inputs_made_for_it(archive, capsys):
    assert main(["report", archive, "--input", "f32[2,8]"]) == 0
    out, err = capsys.readouterr()
    assert "nodes         7: 5 function and 2 accumulate grad" in out
    assert err == ""


def test_an_archive_is_loaded_onto_the_device_that_is_asked_for(archive, capsys):
    assert main(["report", archive, "--input", "f32[2,8]", "--device", "meta"]) == 0
    assert "on meta" in capsys.readouterr().out


def test_backward_of_an_archive_is_verified(archive, capsys):
    assert main(["verify", archive, "--input", "f32[2,8]"]) == 0
    assert capsys.readouterr().err == ""


def test_inputs_that_forward_does_not_take_are_told_by_its_schema(archive, fails):
    status, err = fails("report", archive, "--input", "y=f32[2,8]")
    assert (status, err) == (
        2,
        "error: --input of block.pt: missing a required argument: 'x'\n  allowed: forward(x, [scale])\n"
        "  try: --input 'f32[9,1000]', once for each argument\n",
    )


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_is_refused_and_not_loaded(is_zip, folder, fails):
    torch.save(RunsWhenLoaded(), folder / "model.pt", _use_new_zipfile_serialization=is_zip)
    status, err = fails("report", "model.pt")
    assert status == 2
    assert err.startswith(
        "error: model.pt is a pickle, as torch.save writes: loading a model from it runs code that is in it\n"
        "  allowed: a file.py, or an archive that torch.jit.save or torch.export.save wrote\n"
    )
    assert not (folder / "loaded").exists()


def test_a_file_of_no_known_form(folder, fails):
    (folder / "model.pt").write_text("weights", encoding="utf-8")
    status, err = fails("report", "model.pt")
    assert status == 2
    assert err.startswith("error: model.pt is neither a Python file nor an archive of TorchScript or torch.export\n")


def test_an_archive_that_torch_cannot_read(folder, fails):
    with zipfile.ZipFile(folder / "block.pt", "w") as file:
        file.writestr("block/constants.pkl", b"")
    status, err = fails("report", "block.pt", "--input", "f32[2,8]")
    assert status == 3
    assert "error: RuntimeError while loading block.pt\n" in err
    assert "allowed: an archive of TorchScript that torch.jit.load can read\n" in err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["block.pt:build"], "'build' after block.pt, which holds one program of TorchScript"),
        (["block.pt", "--init", "8"], "--init with block.pt, a program of TorchScript that has been built already"),
        (["block.pt", "--device", "cuda"], "TorchScript on an emulated device"),
    ],
)
def test_what_an_archive_does_not_take(archive, fails, arguments, problem):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("CUDA is there")
    status, err = fails("report", *arguments)
    assert status == 2
    assert err.startswith(f"error: {problem}\n")


class Saves(nn.Linear):
    def forward(self, x):
        torch.save(x, "written")
        return nn.functional.linear(x, self.weight)


class Maps(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight) + torch.from_file("written", True, 4).sum()


class SavesWhenLoaded(nn.Linear):
    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.bias, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, torch.Tensor, bool]):
        torch.save(state[0], "written")
        self.weight, self.bias, self.training = state


class SavesInFunction(nn.Linear):
    def forward(self, x):
        save_it(x)
        return nn.functional.linear(x, self.weight)


def save_it(x: torch.Tensor) -> None:
    torch.save(x, "written")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", [Saves, Maps, SavesWhenLoaded, SavesInFunction])
def test_an_archive_that_would_write_a_file_is_refused_before_anything_of_it_runs(kind, folder, fails):
    torch.jit.script(kind(3, 3)).save(folder / "model.pt")
    status, err = fails("report", "model.pt", "--input", "f32[3]")
    word = "from_file" if kind is Maps else "save"
    assert status == 2
    assert err.startswith(f"error: model.pt, whose code has `{word}` in it: running it could write a file\n")
    assert not (folder / "written").exists()
    torch.jit.load(folder / "model.pt")(torch.ones(3))
    assert (folder / "written").exists()
