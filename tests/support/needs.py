"""What some tests need of the installed torch, as marks that say why they are skipped where it is missing."""

from __future__ import annotations

import pytest
import torch

CANNOT_EMULATE = torch.__version__ < (2, 10)

needs_emulation = pytest.mark.skipif(
    CANNOT_EMULATE or torch.cuda.is_available(),
    reason="torch 2.9 emulates no device" if CANNOT_EMULATE else "there is a CUDA device: nothing to emulate",
)
needs_saved_tensors = pytest.mark.skipif(
    not hasattr(torch._C._autograd.SavedTensor, "unpack_hook"),
    reason="torch 2.9 does not tell whether reading a saved tensor runs a hook of the user's, so none is read",
)
needs_keywords_of_apply = pytest.mark.skipif(
    torch.__version__ < (2, 13), reason="Function.apply of this torch takes no keyword arguments"
)


def needs_of_command(command: str) -> list[pytest.MarkDecorator]:
    """What a command line that the documents show needs."""
    needs = {
        "--device cuda": needs_emulation,
        "linear_unrolled": needs_saved_tensors,
        "linear_function": needs_saved_tensors,
        "fxg203.py": needs_saved_tensors,
    }
    return [need for text, need in needs.items() if text in command]
