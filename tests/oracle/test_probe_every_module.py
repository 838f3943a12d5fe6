"""A hook of each kind probed at every module of torch.nn and at the modules inside it."""

import pytest
import torch
from probed_hooks import GLOBAL, LOCAL, assert_as_in_reality
from torch.nn.modules.lazy import LazyModuleMixin
from torch.testing._internal.common_modules import module_db

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
SAMPLES = 5
MOST_MODULES = 4
INFOS = [info for info in module_db if not issubclass(info.module_cls, LazyModuleMixin)]


def samples(info, training):
    torch.manual_seed(0)
    return info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=True, training=training)


def builder(info, training, number):
    def build(notebook):
        sample = samples(info, training)[number]
        made, given = sample.constructor_input, sample.forward_input
        model = info.module_cls(*made.args, **made.kwargs).to(torch.float32).train(training)
        leaves = [*model.parameters(), *[value for value in given.args if isinstance(value, torch.Tensor)]]
        for rank, leaf in enumerate(leaves):
            if leaf.requires_grad:
                leaf.register_hook(notebook.tensor(f"leaf {rank}"))
        return model, given.args, given.kwargs

    return build


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_a_hook_probed_at_any_module_is_the_registered_one(info, training):
    tried = 0
    for number, sample in enumerate(samples(info, training)[:SAMPLES]):
        if sample.forward_input is not None:
            made = sample.constructor_input
            paths = [path for path, _ in info.module_cls(*made.args, **made.kwargs).named_modules()][:MOST_MODULES]
            for path, kind in [*[(path, kind) for path in paths for kind in LOCAL], *[("", kind) for kind in GLOBAL]]:
                assert_as_in_reality(builder(info, training, number), path, kind)
                tried += 1
    assert tried or not samples(info, training)
