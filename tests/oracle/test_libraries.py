"""Models of libraries that are built on PyTorch, under hooks of every kind, where these libraries are installed.

CI installs them with the extra "libraries" of setup.cfg.
"""

import importlib.metadata

import pytest
import torch
from library_models import LIBRARIES
from module_cases import WAYS, Case, Hooks, hold
from tally import tally_of

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
LEAST = 0.8
"""Of the models in all ways, those that must be compared: PyTorch refuses hooks on leaves' nodes where a Function calls
autograd.grad in its backward."""


@pytest.fixture(scope="module", autouse=True)
def operators_of_torchvision():
    """timm and transformers import torchvision, whose wheel on PyPI is compiled for a torch with CUDA: beside another torch
    its operators are missing, and the import fails at those two. No model here calls them."""
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
    return library  # as long as it lives, the operators are there


def library_case(library, name):
    def made():
        torch.manual_seed(0)
        return LIBRARIES[library][name]()

    return Case(name, lambda: made()[0], lambda: made()[1:], has_hooks=True)


@pytest.mark.parametrize("library", LIBRARIES)
def test_no_hook_of_a_library_s_models_is_predicted_wrongly(library):
    pytest.importorskip(library)
    tally = tally_of("models of other libraries", f"{library} {importlib.metadata.version(library)}")
    for name in LIBRARIES[library]:
        for kinds in WAYS.values():
            hold(library_case(library, name), Hooks.of_kinds(*kinds), tally)
    tally.assert_nothing_is_wrong()
    assert tally.tried > LEAST * len(LIBRARIES[library]) * len(WAYS)
