"""Sharded (FSDP2) and replicated (DDP) models, in two processes with gloo, which run once for all tests here."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

RANKS = (0, 1)
SECONDS = 300
"""After which the processes are killed."""

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")

EVERY_WAY = ("traced", "recorded", "captured")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> dict[str, Any]:
    """What `tests.support.two_ranks` wrote: the same on each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.two_ranks", str(folder), str(rank)],
            cwd=repository,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in RANKS
    ]
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline and any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                break  # one has failed; the other waits for it
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
    first, second = [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in RANKS]
    assert first == second
    return dict(first)


@pytest.mark.parametrize("way", EVERY_WAY)
def test_fsdp_calls_post_accumulate_hooks_and_no_tensor_hooks_on_sharded_parameters(
    way: str, found: dict[str, Any]
) -> None:
    assert found["fsdp"][way]["fires"] == {
        "full first": True,
        "post-accumulate first.weight": True,
        "post-accumulate second.weight": True,
        "post-accumulate unused.weight": False,
        "tensor first.weight": False,
    }


def test_real_backward_of_a_sharded_model_calls_the_hooks_that_are_told_to_fire(found: dict[str, Any]) -> None:
    assert sorted(found["fsdp"]["fired"]) == ["first.weight", "module", "second.weight"]
    assert found["fsdp"]["verify"] == "9 hook sites, 6 entries compared: 0 wrong, 0 unknown"


@pytest.mark.parametrize("way", EVERY_WAY)
def test_what_fsdp_gathers_is_named_after_the_sharded_parameter(way: str, found: dict[str, Any]) -> None:
    names = ["first.bias", "first.weight", "second.bias", "second.weight"]
    assert found["fsdp"][way]["leaves"] == [f"{name} (unsharded)" for name in names]


@pytest.mark.parametrize(("way", "lost"), [("traced", ["unused.weight"]), ("recorded", ["unused.weight"])])
def test_a_sharded_parameter_that_gets_a_gradient_is_not_told_as_unused(
    way: str, lost: list[str], found: dict[str, Any]
) -> None:
    assert found["fsdp"][way]["lost"] == lost


@pytest.mark.parametrize("way", EVERY_WAY)
def test_a_tensor_hook_on_the_sharded_parameter_is_a_finding(way: str, found: dict[str, Any]) -> None:
    assert found["fsdp"][way]["FXG304"] == ["tensor first.weight"]


def test_a_hook_from_before_fully_shard_is_a_finding(found: dict[str, Any]) -> None:
    expected = ["tensor first.weight", "tensor first.weight before"]
    assert found["before"] == (expected if found["numbers originals"] else expected[:1])


def test_without_gradient_sync_no_post_accumulate_hook_is_called(found: dict[str, Any]) -> None:
    sync = found["sync"]
    assert sync["unsynced"] == "9 hook sites, 6 entries compared: 0 wrong, 0 unknown"
    assert sync["said"] == [
        "FSDP does not reduce the gradient after this backward: set_requires_gradient_sync(False) is in effect"
    ]
    assert sync["first"] == ["module"]


def test_how_often_is_open_while_a_gradient_waits_to_be_reduced(found: dict[str, Any]) -> None:
    assert found["sync"]["second"] == ["second.weight", "second.weight", "module", "first.weight"]
    assert found["sync"]["synced"] == "9 hook sites, 6 entries compared: 0 wrong, 0 unknown"


@pytest.mark.parametrize(
    "program",
    [
        "fsdp, looked at",
        "fsdp, looked at later",
        "fsdp, parts looked at",
        "fsdp, kept gathered",
        "fsdp, raises",
        "fsdp, raises later",
        "fsdp, graph alive",
        "ddp, looked at",
        "ddp, looked at later",
        "ddp, raises",
    ],
)
def test_training_goes_on_as_if_nobody_had_looked(program: str, found: dict[str, Any]) -> None:
    assert found[program] is True


@pytest.mark.parametrize(
    "program", ["tied", "mixed precision", "two meshes", "no all-reduce", "checkpoint", "frozen", "inner", "penalty"]
)
def test_predictions_equal_the_real_backward(program: str, found: dict[str, Any]) -> None:
    assert " 0 wrong" in found["verified"][program].splitlines()[0], found["verified"][program]


def test_a_reentrant_checkpoint_leaves_open_what_fsdp_reduces(found: dict[str, Any]) -> None:
    verified = found["verified"]["reentrant checkpoint"]
    assert " 0 wrong" in verified.splitlines()[0]
    assert "CheckpointFunctionBackward_0 runs a nested backward, which may bring second.weight a gradient" in verified


@pytest.mark.parametrize("way", EVERY_WAY)
def test_a_replicated_model_has_the_same_graph_below_module(way: str, found: dict[str, Any]) -> None:
    assert found["ddp"][way] == {
        "fires": {"full module.first": True, "post-accumulate module.first.weight": True},
        "leaves": ["module.first.bias", "module.first.weight", "module.second.bias", "module.second.weight"],
        "lost": [],
        "FXG304": [],
    }


def test_real_backward_of_a_replicated_model_calls_the_hooks_that_are_told_to_fire(found: dict[str, Any]) -> None:
    assert found["ddp"]["fired"] == ["module", "first.weight"]
    assert found["ddp"]["verify"] == "2 hook sites, 2 entries compared: 0 wrong, 0 unknown"
