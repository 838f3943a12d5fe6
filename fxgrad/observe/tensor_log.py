"""Keeps track of the tensors of one run: which function made each, and which came from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from fxgrad.graph import Path, TensorMeta
from fxgrad.observe.hooks import LiveHook, has_hooks, hooks_on_tensor
from fxgrad.observe.metas import MetaTable
from fxgrad.observe.seen import Producer, SeenTensor, is_leaf


class TensorLog:
    """The tensors that were seen, by identity; each is kept alive by whoever saw it.

    ``kept`` are the tensors that were known before the run. ``foreign`` are those of them that
    have a history: it is not the recorded run's, as that of ``inputs``, which were known before it. ``hooks`` are those
    that were on them then: what is changed in place later leaves its hooks behind, on the node that it had. (Of a view
    only after the run: reading its node could make one.)
    """

    def __init__(self, known: Iterable[torch.Tensor], metas: MetaTable) -> None:
        self.foreign: list[SeenTensor] = []
        self.hooks: list[LiveHook] = []
        self.producers: dict[int, Producer] = {}
        self.kept = list(known)
        self.known = {id(tensor) for tensor in self.kept}
        self._versions: dict[int, int] = {}
        self._metas = metas
        self._first: dict[int, tuple[TensorMeta, int | None]] = {}
        for tensor in self.kept:
            self._note_first(tensor)
        self.inputs = [self.seen((), tensor) for tensor in self.kept if may_have_history(tensor)]

    def _note_first(self, tensor: torch.Tensor) -> None:
        self._first[id(tensor)] = self._metas.of_tensor(tensor), None if tensor.is_inference() else tensor._version

    def add_constant(self, tensor: torch.Tensor) -> None:
        """Note a tensor that the recorded run has not made, before it is used."""
        self.known.add(id(tensor))
        self._note_first(tensor)
        if may_have_history(tensor):
            self.foreign.append(self.seen((), tensor))
            if not tensor._is_view() and has_hooks(tensor):
                self.hooks.extend(hooks_on_tensor(tensor))

    def add_result(self, tensor: torch.Tensor, producer: Producer) -> None:
        """Note that a function returned a tensor."""
        self.known.add(id(tensor))
        self.producers[id(tensor)] = producer

    def note_fresh(self, view: torch.Tensor) -> None:
        """Note that a view knows its grad_fn now: it was just made, or changed itself."""
        if not view.is_inference():
            self._versions[id(view)] = view._version

    def is_stale(self, tensor: torch.Tensor) -> bool:
        """Whether reading ``grad_fn`` may make a node: a view whose base may have changed since it was last seen."""
        if not tensor._is_view() or tensor.is_inference():
            return False
        return self._versions.get(id(tensor)) != tensor._version

    def seen(self, path: Path, tensor: torch.Tensor) -> SeenTensor:
        """A tensor as it is at this moment."""
        producer = self.producers.get(id(tensor))
        return SeenTensor(path, tensor, producer, self._metas.of_tensor(tensor), stale=self.is_stale(tensor))

    def first_meta(self, tensor: torch.Tensor) -> TensorMeta:
        """The tensor as it was when it was first known; as it is now, where a recorded function made it."""
        first = self._first.get(id(tensor))
        return self._metas.of_tensor(tensor) if first is None else first[0]

    def has_changed(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor that no recorded function made was changed in place since it was first known."""
        _, version = self._first.get(id(tensor), (None, None))
        return version is not None and tensor._version != version


def may_have_history(tensor: torch.Tensor) -> bool:
    """Whether a tensor may have a graph behind it; a view that requires grad always has."""
    return tensor.requires_grad and (tensor._is_view() or not is_leaf(tensor))
