"""Every sentence of PyTorch's documentation about backward hooks, predicted, and held against a real backward.

The note "Backward Hooks execution" (docs/source/notes/autograd.rst) and the docstrings of the registering functions,
in our own words. `held` compares all that was predicted with what happened; the tests say what that is.
"""

import pytest
from module_hooks import Notebook


@pytest.fixture
def notebook():
    made = Notebook()
    yield made
    made.close()
