"""The same program gives the same bytes, in every process and under every seed of Python's hashes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import many_hooks
import pytest

import fxgrad
from fxgrad.graph import HookKind

PROGRAM = """
import contextlib, json, sys
from fxgrad import api
from fxgrad.render.pictures.forward import compose_forward
from fxgrad.render.drawing.layout import draw_picture
from fxgrad.render.pictures.picture import compose_picture
from fxgrad.target_options import TargetOptions
written = {}
for target in sys.argv[1:]:
    with contextlib.redirect_stdout(sys.stderr):  # forward prints
        trace = api.trace_target(TargetOptions(target))
    pictures = [compose_picture(trace.graph), compose_forward(trace.graph)]
    dot = "".join(draw_picture(picture, "dot").decode() for picture in pictures)
    texts = {"json": trace.to_json(), "dot": dot, "report": str(trace.report())}
    written[target] = texts | {"markdown": trace.to_markdown(), "text": str(trace)}
json.dump(written, sys.stdout)
"""
SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.py"))
MANY = "tests/support/many_hooks.py"
PROGRAMS = [MANY, f"{MANY}:build_with_global_hooks", f"{MANY}:build_with_global_legacy_hooks"]


@pytest.fixture(scope="module")
def written(repository: Path) -> list[dict[str, dict[str, str]]]:
    """What two processes wrote of each program."""
    targets = [*[f"samples/{sample.name}" for sample in SAMPLES], *PROGRAMS]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *targets],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(repository)},
            cwd=repository,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for seed in ("1", "77")
    ]
    return [json.loads(process.communicate()[0]) for process in processes]


@pytest.mark.parametrize("form", ["json", "dot", "report", "markdown", "text"])
def test_two_processes_write_the_same(written: list[dict[str, dict[str, str]]], form: str) -> None:
    one, other = [{target: texts[form] for target, texts in each.items()} for each in written]
    assert len(one) == len(SAMPLES) + len(PROGRAMS)
    for target, text in one.items():
        assert other[target] == text, target


@pytest.mark.parametrize("form", ["json", "dot", "report", "markdown", "text"])
def test_no_address_is_written(written: list[dict[str, dict[str, str]]], form: str) -> None:
    for target, texts in written[0].items():
        assert re.findall(r".{0,30}0x[0-9a-f]{6,}", texts[form]) == [], target


def test_every_kind_of_hook_is_among_them(written: list[dict[str, dict[str, str]]]) -> None:
    text = "".join(texts["json"] for texts in written[0].values())
    assert [kind.value for kind in HookKind if f'"kind":"{kind.value}"' not in text] == []


@pytest.mark.parametrize("build", ["build", "build_with_global_hooks", "build_with_global_legacy_hooks"])
def test_every_prediction_for_them_holds(build: str, clean_global_hooks: None) -> None:
    verified = fxgrad.verify(*getattr(many_hooks, build)())
    assert verified.differences == ()
    assert verified.unknown == ()


@pytest.fixture
def clean_global_hooks() -> Iterator[None]:
    yield
    many_hooks.with_global()
