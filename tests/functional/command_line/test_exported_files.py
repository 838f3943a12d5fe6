"""A TARGET that torch.export.save wrote; one that would run code of its own is refused without running it."""

from __future__ import annotations

import io
import json
import os
import pickle
import warnings
import zipfile
from contextlib import suppress

import pytest
import torch
from torch import nn
from torch._export.serde.schema import SCHEMA_VERSION

from fxgrad.cli import main

PICKLE = "which has a pickle of more than tensors in it"
EVIL = "__import__('os').mkdir('ran')"
COMMENTED = f"""(1 or ""\n"a" < \\\nx22 # "+str({EVIL.replace("'", '"')})\n< "b"\n"")"""
"""Nothing but a comparison with a comment; when its lines are joined, the comment is code."""


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.linear(x))[: x.shape[0] // 2]


class RunsWhenLoaded:
    """Its pickle makes a folder when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.fixture
def exported(folder):
    half = torch.export.Dim("half", min=1, max=50)
    program = torch.export.export(Block(), (torch.randn(4, 8),), dynamic_shapes={"x": {0: 2 * half}})
    torch.export.save(program, folder / "block.pt2")
    return "block.pt2"


def change(path, members=None, **edits):
    """Change members of the archive: replace their bytes, or edit what their JSON says."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(found)).partition("/")[0]
    for name, data in (members or {}).items():
        found[f"{root}/{name}"] = data
    for name, edit in edits.items():
        key = next(each for each in found if each.endswith(f"{name}.json"))
        content = json.loads(found[key])
        edit(content)
        found[key] = json.dumps(content).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in found.items():
            archive.writestr(name, data)


def pickled(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def in_sample_inputs(path):
    change(path, {"data/sample_inputs/model.pt": pickled(((RunsWhenLoaded(),), {}))})


def in_a_pickled_weight(path):
    def edit(content):
        content["config"]["linear.bias"]["use_pickle"] = True

    change(path, {"data/weights/weight_1": pickled(RunsWhenLoaded())}, model_weights_config=edit)


def in_a_pickled_constant(path):
    def edit(content):
        content["config"]["object"] = {
            "path_name": "opaque_obj_0",
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }

    change(path, {"data/constants/opaque_obj_0": pickle.dumps(RunsWhenLoaded())}, model_constants_config=edit)


def in_a_guard(path):
    change(path, model=lambda content: content["guards_code"].append(f"{EVIL} is None"))


def in_a_comment_of_a_guard(path):
    change(path, model=lambda content: content["guards_code"].append(COMMENTED))


def in_a_size(path):
    def edit(content):
        content["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = EVIL

    change(path, model=edit)


def in_a_size_under_the_name_metadata(path):
    def edit(content):
        graph = content["graph_module"]["graph"]
        text = json.dumps(graph).replace('"relu"', '"metadata"')
        content["graph_module"]["graph"] = graph = json.loads(text)
        graph["tensor_values"]["metadata"]["sizes"][0]["as_expr"]["expr_str"] = EVIL

    change(path, model=edit)


def in_the_name_of_an_argument(path):
    def edit(content):
        graph_module = content["graph_module"]
        name = f"x={EVIL}"
        graph_module["graph"]["inputs"][-1]["as_tensor"]["name"] = name
        graph_module["graph"]["tensor_values"][name] = graph_module["graph"]["tensor_values"]["x"]
        graph_module["signature"]["input_specs"][-1]["user_input"]["arg"]["as_tensor"]["name"] = name
        for node in graph_module["graph"]["nodes"]:
            for given in node["inputs"]:
                if given["arg"].get("as_tensor") == {"name": "x"}:
                    given["arg"]["as_tensor"]["name"] = name

    change(path, model=edit)


def in_what_a_node_calls(path):
    def edit(content):
        node = content["graph_module"]["graph"]["nodes"][1]
        node["target"] = "torch.os.mkdir"
        node["inputs"] = [{"name": "path", "arg": {"as_string": "ran"}, "kind": 1}]

    change(path, model=edit)


def in_a_file_that_a_node_opens(path):
    def edit(content):
        node = content["graph_module"]["graph"]["nodes"][1]
        node["target"] = "torch.ops.aten.from_file.default"
        node["inputs"] = [
            {"name": "filename", "arg": {"as_string": "ran"}, "kind": 1},
            {"name": "shared", "arg": {"as_bool": True}, "kind": 1},
            {"name": "size", "arg": {"as_int": 64}, "kind": 1},
        ]

    change(path, model=edit)


def in_sample_inputs_under_a_name_in_capitals(path):
    """PyTorchFileReader finds a member whatever the case of its name."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in found.items():
            if name.endswith("data/sample_inputs/model.pt"):
                archive.writestr(name.replace("model.pt", "model.PT"), pickled(((RunsWhenLoaded(),), {})))
            else:
                archive.writestr(name, data)


def in_members_of_the_older_format(path):
    with zipfile.ZipFile(path) as archive:
        model = next(archive.read(name) for name in archive.namelist() if name.endswith("model.json"))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("version", ".".join(map(str, SCHEMA_VERSION)))
        archive.writestr("serialized_exported_program.json", model)
        archive.writestr("serialized_state_dict.pt", pickled(Block().state_dict()))
        archive.writestr("serialized_constants.pt", pickled({"constant": RunsWhenLoaded()}))
        archive.writestr("serialized_example_inputs.pt", pickled(((torch.ones(4, 8),), {})))


PLACES = [
    (in_sample_inputs, f"error: block.pt2, {PICKLE} (data/sample_inputs/model.pt): loading it could run code"),
    (in_a_pickled_weight, f"error: block.pt2, {PICKLE} (linear.bias): loading it could run code from the file\n"),
    (in_a_pickled_constant, "error: block.pt2, which holds an object that is no tensor (object): "),
    (in_a_guard, f"error: block.pt2, which checks arguments by `{EVIL} is None`: "),
    (in_a_comment_of_a_guard, "error: block.pt2, which checks arguments by `"),
    (in_a_size, f"error: block.pt2, which has `{EVIL}` as a size: "),
    (in_a_size_under_the_name_metadata, f"error: block.pt2, which has `{EVIL}` as a size: "),
    (in_the_name_of_an_argument, f"error: block.pt2, which has `x={EVIL}` as a name: "),
    (in_members_of_the_older_format, "error: RuntimeError while reading block.pt2"),
    (in_a_file_that_a_node_opens, "error: block.pt2, whose graph calls `torch.ops.aten.from_file.default`: "),
    (in_sample_inputs_under_a_name_in_capitals, "error: UnpicklingError while loading block.pt2"),
    (in_what_a_node_calls, "error: block.pt2, whose graph calls `torch.os.mkdir`: "),
]


def test_a_program_is_traced_with_its_sample_inputs(exported, capsys):
    assert main(["report", exported]) == 0
    out, err = capsys.readouterr()
    assert "nodes         6: 4 function and 2 accumulate grad" in out
    assert err == ""


def test_inputs_of_the_command_line_replace_the_sample_inputs(exported, capsys):
    assert main(["explain", exported, "--input", "f32[6,8]", "--hook", "register_full_backward_hook"]) == 0
    assert "(3, 8)" in capsys.readouterr().out


def test_inputs_that_the_program_was_not_exported_for_are_told(exported, fails):
    status, err = fails("report", exported, "--input", "f32[4,9]")
    assert status == 3
    assert "x.size()[1] == 8" in err


def test_a_program_is_moved_to_the_device_that_is_asked_for(exported, capsys):
    assert main(["report", exported, "--device", "meta"]) == 0
    assert "on meta" in capsys.readouterr().out


def test_backward_of_a_program_is_verified(exported, capsys):
    assert main(["verify", exported]) == 0
    assert capsys.readouterr().err == ""


def test_a_program_has_the_mode_that_it_was_exported_in(exported, fails):
    assert fails("report", exported, "--eval") == (
        2,
        "error: --eval with block.pt2, a program of torch.export\n"
        "  allowed: a model that has the mode in its Python; this has that in which it was exported\n"
        "  try: omit --eval, or export the model in that mode\n",
    )


@pytest.mark.parametrize(("put", "message"), PLACES, ids=[put.__name__ for put, _ in PLACES])
def test_code_in_a_file_does_not_run(exported, fails, put, message):
    put(exported)
    status, err = fails("report", exported)
    assert status in (2, 3)
    assert message in err
    assert not os.path.exists("ran")


RUNS = [put for put, _ in PLACES if put is not in_what_a_node_calls]  # torch's Verifier refuses what os.mkdir is


@pytest.mark.parametrize("put", RUNS, ids=[put.__name__ for put in RUNS])
def test_torch_export_itself_runs_the_code_in_it(exported, put):
    put(exported)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(Exception):
            torch.export.load(exported).module()(torch.ones(4, 8))
    assert os.path.exists("ran")


def test_the_environment_is_as_it_was(exported, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert main(["check", exported]) == 0
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_a_factory_may_return_an_exported_program(folder, capsys):
    (folder / "programs.py").write_text(
        "import torch\n"
        "def build():\n"
        "    x = torch.ones(2, 3)\n"
        "    return torch.export.export(torch.nn.Linear(3, 3), (x,)), (x,)\n"
    )
    assert main(["verify", "programs.py"]) == 0
    assert "0 wrong" in capsys.readouterr().out
