"""What a trace on the emulated device cannot promise, as sentences for the report."""

from __future__ import annotations

from collections.abc import Iterable

NOTES: tuple[str, ...] = (
    "the emulated CUDA device holds no data: whatever depends on the values of tensors cannot be traced on it",
    "kernels are chosen as a build of PyTorch for NVIDIA CUDA with cuDNN chooses them, not as one for ROCm",
    "code that is not PyTorch's own (extensions, compiled kernels) runs as it would without a CUDA device",
)
"""What holds for every emulated trace."""

_choices: dict[tuple[str | None, str], None] = {}


def note_choice(node_name: str | None, sentence: str) -> None:
    """Remember that `sentence` holds of a choice made in this process, when a node of `node_name` is in the graph.

    ``None`` is for a choice that left no node of its own name.
    """
    _choices[node_name, sentence] = None


def forget_choices() -> None:
    """Start anew: what an earlier emulation chose does not concern the next."""
    _choices.clear()


def caveats(node_names: Iterable[str]) -> tuple[str, ...]:
    """The sentences that must accompany a graph with nodes of these names (``CudnnRnnBackward0``).

    To be asked in the process that emulated, after its forward: what is uncertain is noted where it was chosen.

    >>> caveats(["AddmmBackward0"])
    ()
    """
    names = set(node_names)
    return tuple(sentence for node_name, sentence in _choices if node_name is None or node_name in names)
