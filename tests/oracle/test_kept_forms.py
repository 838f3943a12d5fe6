"""Modules of torch.nn in the forms in which programs come besides Python, held against real backward, and against Python.

One input of each class, in train and eval. What torch cannot bring into a form is counted as skipped.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kept_forms import MAKERS, Around, Maker, compare_owners
from module_cases import ON_TENSORS_AND_NODES, Case, Hooks, computed, hold, one_case_of_each, seed
from tally import tally_of, without_numbers

import fxgrad
from fxgrad.errors import FxgradError

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

HOOKS = "modules of torch.nn in other forms, hooks on tensors and nodes"
OWNERS = "modules of torch.nn in other forms, the modules that nodes are tied to"
LEAST_TRIED = 200
LEAST_TIED = {"optimized": 400}
"""How many nodes must be tied to a module; 1,000 where none are joined. 210 inputs and 1,136 nodes of scripts were."""


def into_form(case: Case, make: Maker) -> Case:
    """The same case, whose model is brought into a form each time that it is built."""

    def build() -> torch.nn.Module:
        args, kwargs = case.inputs()
        return Around(make(case.build(), *computed((args, kwargs))))

    return replace(case, build=build)


def find_refusal(case: Case) -> str | None:
    """Why torch cannot bring the model into the form, or cannot run it there; None where it can."""
    try:
        model = case.build()
        args, kwargs = case.inputs()
        model(*args, **kwargs)
    except Exception as error:  # whatever the compiler says
        return without_numbers(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:80]}")
    return None


@pytest.mark.parametrize("form", MAKERS)
def test_no_hook_on_another_form_is_predicted_wrongly_and_no_node_tied_wrongly(form):
    tally = tally_of(HOOKS, form)
    owners = tally_of(OWNERS, form, properties=("owner",))
    mapped = classes = 0
    for training in (True, False):
        for case in one_case_of_each(training):
            formed = into_form(case, MAKERS[form])
            refusal = find_refusal(formed)
            if refusal is not None:
                tally.skip(refusal)
                continue
            hold(formed, Hooks.of_kinds(*ON_TENSORS_AND_NODES), tally)
            classes += training
            found = _compare_with_python(case, formed)
            if found is None:
                owners.skip("another graph than in Python, or none")
                continue
            owners.tried += 1
            mapped += found[0]
            owners.wrong["owner"] += len(found[1])
            owners.texts += [f"{case.name}: {text}" for text in found[1]]
    owners.note = f"{classes} classes in train, {mapped:,} nodes tied to a module in all"
    tally.assert_nothing_is_wrong()
    owners.assert_nothing_is_wrong()
    assert tally.tried >= LEAST_TRIED
    assert mapped >= LEAST_TIED.get(form, 1_000)


def _compare_with_python(case: Case, formed: Case) -> tuple[int, list[str]] | None:
    graphs = []
    for one in (formed, case):
        args, kwargs = one.inputs()
        model = one.build()
        seed(1)
        try:
            graphs.append(fxgrad.trace(model, args, kwargs).graph)
        except FxgradError:
            return None
    return compare_owners(*graphs)
