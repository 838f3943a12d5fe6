"""Module hooks supposed in every model of the zoo, held against really registering them in one that is made anew."""

import re
from collections import Counter

import pytest
import torch
from zoo import ZOO

import fxgrad
from fxgrad.graph import HookKind

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
REGISTER = {
    HookKind.MODULE_BACKWARD: "register_backward_hook",
    HookKind.MODULE_FULL_BACKWARD: "register_full_backward_hook",
    HookKind.MODULE_FULL_BACKWARD_PRE: "register_full_backward_pre_hook",
}
MOST_MODULES = 6
"""Of each model."""


def made(name):
    torch.manual_seed(0)
    return ZOO[name]()


def registered(name, path, kind):
    """The trace of a model with the hook; None where PyTorch refuses it, at once or in forward."""

    def supposed(*_):
        return None

    model, args, kwargs = made(name)
    try:
        getattr(dict(model.named_modules())[path], REGISTER[kind])(supposed)
        return fxgrad.trace(model, args, kwargs)
    except (fxgrad.FxgradError, RuntimeError):
        return None


def told(graph, sites):
    """What is said of each site. A jagged tensor has another name for its size each time that it is made."""
    text = [
        (
            site.call,
            None if site.node is None else graph.nodes[site.node].label,
            (site.slot, site.fires, site.times),
            [(entry.status, entry.shape, entry.dtype) for entry in (*site.grad_input, *site.grad_output)],
        )
        for site in sites
    ]
    return Counter(re.sub(r"'j\d+'", "jagged", repr(each)) for each in text)


def is_supposed(site):
    return site.hook.function.endswith("registered.<locals>.supposed")


@pytest.mark.parametrize("name", ZOO)
def test_a_supposed_hook_is_where_the_registered_one_is(name):
    model, args, kwargs = made(name)
    trace = fxgrad.trace(model, args, kwargs)
    for path, _ in [*model.named_modules()][:MOST_MODULES]:
        for kind in REGISTER:
            probe = trace.probe(path, kind)
            real = registered(name, path, kind)
            is_open = bool(probe.caveats) or any(site.fires is None for site in probe.sites)
            if real is None:
                assert probe.refused or is_open, (path, kind)
                continue
            assert not probe.refused, (path, kind, probe.refused)
            sites = [site for site in real.sites if is_supposed(site)]
            assert is_open or told(probe.explanations.graph, probe.sites) == told(real.graph, sites), (path, kind)
