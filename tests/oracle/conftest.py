"""What the long comparisons share."""

import gc

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """The tensors are small: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _nothing_stays_in_the_way():
    """Hooks that PyTorch can free no more, as those of models that raised, are not searched again in the next test."""
    yield
    gc.collect()
    gc.freeze()
