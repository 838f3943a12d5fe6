"""A hook of each kind supposed at every module of torch.nn and at the modules inside it."""

from collections import Counter

import pytest
import torch
from supposed_hooks import GLOBAL, LOCAL, attempt
from torch.nn.modules.lazy import LazyModuleMixin
from torch.testing._internal.common_modules import module_db

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
SAMPLES = 5
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


def trials(info, training):
    for number, sample in enumerate(samples(info, training)[:SAMPLES]):
        if sample.forward_input is not None:
            build = builder(info, training, number)
            model = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
            paths = [path for path, _ in model.named_modules()][:4]
            for path, kind in [*[(path, kind) for path in paths for kind in LOCAL], *[("", kind) for kind in GLOBAL]]:
                yield f"sample {number}, {kind.value} at {path!r}", attempt(build, path, kind)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_a_hook_supposed_at_any_module_is_the_registered_one(info, training):
    counts: Counter[str] = Counter()
    for where, trial in trials(info, training):
        counts["trials"] += 1
        assert not trial.calls, f"{where}: {trial.calls}"
        assert (trial.supposed.refused is None) == (trial.error is None), f"{where}: {trial.wrong}"
        assert trial.supposed.caveats or not trial.records, f"{where}: {trial.records}"
    assert counts["trials"] or not samples(info, training)
