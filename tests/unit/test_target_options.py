from __future__ import annotations

import pytest

from fxgrad.target_options import TargetOptions

EVERY_FIELD = TargetOptions(
    "torch.nn:LSTMCell",
    init="1, 2",
    inputs=("f32[1]", "hx=f32[2]"),
    loss="a:b",
    seed=0,
    mode="eval",
    device="cuda",
    autocast="bf16",
    backward_inputs=("weight_ih",),
    backward_api="grad",
)


@pytest.mark.parametrize("options", [TargetOptions("model.py"), EVERY_FIELD], ids=["none", "every"])
def test_another_process_gets_every_field_as_it_is(options):
    assert TargetOptions.from_json(options.to_json()) == options


def test_a_json_file_is_a_saved_trace():
    assert TargetOptions("trace.json").is_saved_trace
    assert not TargetOptions("model.py").is_saved_trace


def test_the_options_about_running_a_model_are_named_as_on_the_command_line():
    every = ["--init", "--input", "--loss", "--seed", "--train/--eval", "--device", "--autocast"]
    assert EVERY_FIELD.run_options() == every


def test_how_backward_is_called_is_no_option_about_running_a_model():
    assert TargetOptions("trace.json", backward_inputs=("weight",), backward_api="grad").run_options() == []
