"""What a notebook shows of each result: the user's names are text in it, never markup."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import fxgrad

EVIL = "<script>alert(1)</script>&amp;\"'<img src=x onerror=alert(2)>"
SVG_ELEMENTS = {"svg", "style", "defs", "marker", "g", "title", "path", "rect", "text"}


@pytest.fixture(scope="module")
def model():
    def show(module, grad_input, grad_output):
        pass

    show.__qualname__ = EVIL
    model = nn.Sequential()
    model.add_module(EVIL, nn.Linear(2, 2))
    model.get_submodule(EVIL).register_full_backward_hook(show)
    return model


@pytest.fixture(scope="module")
def trace(model):
    return fxgrad.trace(model, torch.ones(3, 2, requires_grad=True))


class Reader(HTMLParser):
    """Collects the elements of a page and its text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, attrs))

    def handle_data(self, data):
        self.text += data


RESULTS = {
    "a trace": lambda trace, model: (trace, str(trace.report())),
    "a report": lambda trace, model: (trace.report(), str(trace.report())),
    "explanations": lambda trace, model: (trace.explain(), str(trace.explain())),
    "a probe": lambda trace, model: (
        found := fxgrad.probe(model, torch.ones(3, 2), module=EVIL, kind="register_full_backward_hook"),
        str(found),
    ),
    "a verification": lambda trace, model: (
        found := fxgrad.verify(model, torch.ones(3, 2, requires_grad=True)),
        str(found),
    ),
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
def test_html_is_one_preformatted_text_with_the_words_of_str(trace, model, result):
    shown, text = result(trace, model)
    page = Reader(shown._repr_html_())
    assert page.elements == [("pre", [])]
    assert page.text == text


def test_evil_names_are_in_what_is_shown(trace):
    assert "<script>alert(1)</script>&amp;" in str(trace.report())


def test_svg_has_elements_that_show_something_only(trace):
    root = ET.fromstring(trace._repr_svg_())
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= SVG_ELEMENTS
    names = {name.rpartition("}")[2] for element in root.iter() for name in element.attrib}
    assert not {name for name in names if name.startswith("on") or name == "href"}


def test_svg_styles_nothing_else_of_the_page(trace):
    """A browser applies the style sheet of a picture inside a page to all of the page."""
    root = ET.fromstring(trace._repr_svg_())
    (sheet,) = root.iter("{http://www.w3.org/2000/svg}style")
    name = root.get("class").split()[-1]
    light, dark = sheet.text.split("@media (prefers-color-scheme:dark){")
    selectors = [each for rule in (light + dark).split("}") if "{" in rule for each in rule.split("{")[0].split(",")]
    assert len(selectors) > 10
    assert all(each.startswith(f".{name} ") for each in selectors)
    other = fxgrad.trace(nn.Linear(3, 3), torch.ones(3))._repr_svg_()
    assert name not in other


def test_svg_shows_evil_names_as_text(trace):
    root = ET.fromstring(trace._repr_svg_())
    assert any("<script>" in (text.text or "") for text in root.iter("{http://www.w3.org/2000/svg}text"))
