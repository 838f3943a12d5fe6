"""A hook of each kind probed at every model of the zoo and its modules, held against really registering it."""

import pytest
import torch
from probed_hooks import GLOBAL, LOCAL, assert_as_in_reality
from zoo import ZOO

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
MOST_MODULES = 6
"""Of each model."""


@pytest.mark.parametrize("name", ZOO)
def test_a_probed_hook_is_the_registered_one(name):
    torch.manual_seed(0)
    model = ZOO[name]()[0]
    paths = [path for path, _ in model.named_modules()][:MOST_MODULES]
    for path, kind in [*[(path, kind) for path in paths for kind in LOCAL], *[("", kind) for kind in GLOBAL]]:
        assert_as_in_reality(lambda _: ZOO[name](), path, kind, others=True)
