"""Random ways of calling backward, on the hooked programs: inputs, autograd.grad, roots, second calls."""

import random

import pytest
from fuzzing import all_modules
from hooked_programs import PROGRAMS

import fxgrad
from fxgrad.errors import FxgradError

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
WAYS = 6


def random_way(rng, graph):
    """Arguments of `Trace.predict` with places that are in the graph, or are not."""
    slots = [f"{node.label}[{slot}]" for node in graph.nodes for slot in range(len(node.grad_outputs))]
    names = [*slots, *(variable.name for variable in graph.variables if variable.requires_grad)]
    way = {"after": rng.choice([None, None, "retained", "freed"])}
    if rng.random() < 0.6:
        way |= {
            "inputs": rng.sample(names, min(len(names), rng.randint(1, 3))),
            "api": rng.choice(["backward", "grad"]),
        }
    if rng.random() < 0.4:
        way["roots"] = rng.choices(slots, k=rng.randint(1, 3))
    return way


def add_hooks(rng, model):
    """More hooks than the program has; PyTorch refuses some."""
    for module in all_modules(model):
        for register in (module.register_full_backward_pre_hook, module.register_full_backward_hook):
            if rng.random() < 0.4:
                try:
                    register(lambda *_: None)
                except RuntimeError:
                    continue
    for parameter in model.parameters():
        if parameter.requires_grad and rng.random() < 0.5:
            parameter.register_hook(lambda grad: None)
            parameter.register_post_accumulate_grad_hook(lambda leaf: None)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_hook_gets_what_is_predicted_for_the_way_of_calling(name, notebook):
    model, args, kwargs = PROGRAMS[name](notebook)
    try:
        add_hooks(random.Random(name), model)
        graph = fxgrad.trace(model, args, kwargs).graph
    except (FxgradError, RuntimeError) as error:
        pytest.skip(f"with more hooks it does not run: {str(error).splitlines()[0]}")
    for seed in range(WAYS):
        way = random_way(random.Random(f"{name} {seed}"), graph)
        try:
            verification = fxgrad.verify(model, args, kwargs, **way)
        except FxgradError as error:
            assert "backward raised" in error.given, way  # noqa: PT017
        else:
            assert verification.ok, f"{way}\n{verification}"
