"""The table of widths, held against letters that a layout engine measures with the fonts of this machine."""

import json
import string

import pytest

from fxgrad.render.drawing.engine import run_engine
from fxgrad.render.drawing.metrics import is_measured, measure

SIZE = 100
TEXTS = [
    string.ascii_lowercase,
    string.ascii_uppercase,
    string.digits,
    string.punctuation.replace("\\", "").replace('"', ""),
    "AddmmBackward0_12",
    "encoder.layers.0.self_attn.out_proj.weight",
    "(2, 16, 4, 4) × 12 · to result[0] … — ",
    "print_sizes · register_full_backward_hook · layers.3",
]


def measure_really(texts, *, bold):
    """The widths that the engine finds, in points: it sets each text in a font of 100 points."""
    font = "DejaVu Sans Bold" if bold else "DejaVu Sans"
    nodes = [
        f'n{number} [label="{text}" fontname="{font}" fontsize={SIZE} shape=plain width=0 height=0]'
        for number, text in enumerate(texts)
    ]
    laid_out = json.loads(run_engine([f"digraph {{ {'; '.join(nodes)} }}"], "json"))
    widths = {each["name"]: float(each["_ldraw_"][-1]["width"]) for each in laid_out["objects"]}
    return [widths[f"n{number}"] for number in range(len(texts))]


@pytest.mark.parametrize("bold", [False, True])
def test_no_text_is_wider_than_the_table_says(bold):
    told = [measure(text, SIZE, bold=bold) for text in TEXTS]
    real = measure_really(TEXTS, bold=bold)
    assert {text for text, most, width in zip(TEXTS, told, real, strict=True) if width > 1.01 * most} == set()
    assert all(width > 0.6 * most for most, width in zip(told, real, strict=True))
    assert all(map(is_measured, TEXTS))
