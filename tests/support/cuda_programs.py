"""The graphs that programs have on CUDA, real or emulated, as text: what a machine with a GPU compares.

Run as a program it prints, as JSON, those of the emulated device; without a CUDA device in sight.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from module_cases import Case, mapped, module_cases
from module_hooks import roots_in
from torch import nn
from torch.nn import functional
from zoo import ZOO

from fxgrad.observe.accelerator.backend import emulate
from tests.support.emulation import structure

Lines = list[str]
Program = Callable[[Any], Any]
"""Takes a device and returns tensors."""


def programs() -> Iterator[tuple[str, Program]]:
    """The models of the zoo, every module of torch.nn, and attention on every kind of argument."""
    yield from ((f"zoo {name}", _zoo_program(name)) for name in ZOO)
    for training in (True, False):
        yield from (
            (case.name, _module_program(case)) for _, case in module_cases(training=training) if case is not None
        )
    yield from _attention_programs()


def _zoo_program(name: str) -> Program:
    def program(device: Any) -> Any:
        with torch.device(device):
            model, args, kwargs = ZOO[name]()
            return model(*args, **kwargs)

    return program


def _module_program(case: Case) -> Program:
    return lambda device: moved_case(case, device).build()(*_moved(case, device)[0], **_moved(case, device)[1])


def moved_case(case: Case, device: Any) -> Case:
    """The same model and inputs on a device: leaves that require grad stay leaves."""

    def build() -> nn.Module:
        return case.build().to(device)

    return Case(case.name, build, lambda: _moved(case, device))


def _moved(case: Case, device: Any) -> Any:
    return mapped(lambda tensor: _on(device, tensor), case.inputs())


def _on(device: Any, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_leaf:
        return tensor.to(device)
    return tensor.detach().to(device).requires_grad_(tensor.requires_grad)


def _attention_programs() -> Iterator[tuple[str, Program]]:
    """In float32, where the kernel is certain."""
    for length in (1, 5, 8):
        for mask in ("none", "bool", "float", "needs grad"):
            for causal in (False, True) if mask == "none" else (False,):
                yield f"attention {length} {mask} {causal}", _attention_program(length, mask, causal)


def _attention_program(length: int, mask: str, causal: bool) -> Program:
    def program(device: Any) -> Any:
        query, key, value = (torch.ones(2, 4, length, 8, device=device, requires_grad=True) for _ in "qkv")
        masks = {
            "none": lambda: None,
            "bool": lambda: torch.ones(length, length, dtype=torch.bool, device=device),
            "float": lambda: torch.zeros(length, length, device=device),
            "needs grad": lambda: torch.zeros(length, length, device=device, requires_grad=True),
        }
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=masks[mask](), is_causal=causal)

    return program


def graphs(device: Any) -> dict[str, Lines | str]:
    """The graph of each program, or the name of the error that it raises."""
    found: dict[str, Lines | str] = {}
    for name, program in programs():
        torch.default_generator.manual_seed(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[name] = structure(*roots_in(program(device)))
        except Exception as error:
            found[name] = type(error).__name__
    return found


def emulated_graphs() -> dict[str, Lines | str]:
    """Those of the emulated device, made in a process that sees no CUDA device."""
    code = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tests.support.cuda_programs import main; main()"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", "-c", code, json.dumps(sys.path)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    graphs_by_name: dict[str, Lines | str] = json.loads(done.stdout.splitlines()[-1])
    return graphs_by_name


def main() -> None:
    """Print the graphs of the emulated device."""
    for training in (True, False):
        module_cases(training=training)  # which makes sample inputs on the CPU, with data
    with emulate("cuda") as device:
        print(json.dumps(graphs(device)))
