"""Modules whose forward changes what it can reach: one small change each, by name, to be composed into models."""

from __future__ import annotations

import collections
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

Change = Callable[["Changing", torch.Tensor], torch.Tensor | None]
"""Changes a module, or what it holds, and may return another tensor to go on with: of three columns."""

CHANGES: dict[str, Change] = {}
GLOBAL: set[str] = set()
"""Those that change the process, not the model."""


class Stop(Exception):
    """Raised by a forward half way."""


class Member:
    """A class with an attribute of its own that a container may hold."""


class Hashless:
    """A key that may be anything but compared."""

    def __eq__(self, other: object) -> bool:
        raise TypeError("not to be compared")

    def __hash__(self) -> int:
        return 7


class Attributes(dict):
    """A dict whose members are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def clear(self) -> None:
        raise TypeError("not to be cleared")

    def update(self, *args: Any) -> None:
        raise TypeError("not to be updated")


class Other(nn.Module):
    """What a Changing module becomes."""


class Changing(nn.Module):
    """Holds something of everything. Its forward makes the changes one after the other, then calls its children.

    An exception among the changes is raised when its turn comes.
    """

    __slots__ = ("empty_slot", "slot", "slot_list")

    def __init__(self, changes: Sequence[str | BaseException] = (), *children: nn.Module) -> None:
        super().__init__()
        self.changes = changes
        self.inner = nn.ModuleList(children)
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.embedding = nn.Embedding(5, 3, max_norm=0.1)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3))
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.scale = nn.Parameter(torch.randn(3))
        self.scale.grad = torch.ones(3)
        self.scale.register_hook(ignored)
        self.register_buffer("count", torch.zeros(3))
        self.register_buffer("codes", torch.arange(3))
        self.register_buffer("wave", torch.randn(3, dtype=torch.complex64))
        self.register_buffer("nothing", None)
        self.register_buffer("sparse", torch.eye(3).to_sparse())
        self.cache: Any = None
        self.number = 0
        self.kept: list[Any] = []
        self.table: dict[Any, Any] = {"list": [1, [2]], Hashless(): 1, (1, 2): {3}, float("nan"): 4, None: 5}
        self.members = {1, "two", (3,)}
        self.queue = collections.deque([1, 2], maxlen=3)
        self.counter = collections.Counter("aab")
        self.ordered = collections.OrderedDict(a=1, b=2)
        self.attributes = Attributes(depth=1, inside=[1])
        self.pair = (1, [torch.zeros(2)], frozenset([torch.zeros(1)]))
        self.hidden = [nn.BatchNorm1d(3), {"a": nn.Linear(3, 3)}]
        self.by_tensor = {torch.zeros(2): 1}
        self.itself = [self]
        self.__dict__["parent"] = self
        self.generator = torch.Generator()
        self.random = random.Random(0)
        self.numpy_random = np.random.default_rng(0)
        self.old_numpy_random = np.random.RandomState(0)
        self.slot = 1
        self.slot_list = [1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for change in self.changes:
            if isinstance(change, BaseException):
                raise change
            changed = CHANGES[change](self, x)
            x = x if changed is None else changed
        for child in self.inner:
            x = child(x)
        return x * self.scale

    @property
    def doubled(self) -> int:
        return self.number * 2

    @doubled.setter
    def doubled(self, value: int) -> None:
        self.number = value // 2


def ignored(*arguments: Any) -> None:
    """A hook."""


def change(function: Change) -> Change:
    CHANGES[function.__name__] = function
    return function


def process_change(function: Change) -> Change:
    GLOBAL.add(function.__name__)
    return change(function)


# Layers


@change
def batch_norm(self, x):
    return self.norm(x)


@change
def renormalized_embedding(self, x):
    return x + self.embedding(torch.arange(x.shape[0]) % 5)


@change
def spectral_norm(self, x):
    return self.spectral(x)


@change
def dropout(self, x):
    return F.dropout(x, 0.5)


@change
def module_in_a_list(self, x):
    return self.hidden[1]["a"](self.hidden[0](x))


# Attributes


@change
def cache_attribute(self, x):
    self.cache = self.linear(x)
    return self.cache


@change
def attribute_deleted(self, x):
    del self.number


@change
def attributes_reordered(self, x):
    self.__dict__["training"] = self.__dict__.pop("training")


@change
def attribute_table_replaced(self, x):
    object.__setattr__(self, "__dict__", {**self.__dict__, "number": 5})


@change
def property_set(self, x):
    self.doubled = 8


@change
def slots_set(self, x):
    self.slot = self.empty_slot = 2
    self.slot_list.append(2)


@change
def slot_deleted(self, x):
    del self.slot


@change
def train_and_eval(self, x):
    self.eval()
    self.norm.train()


@change
def class_changed(self, x):
    self.linear.__class__ = Other


@change
def tensor_attribute(self, x):
    self.scale.flag = True
    self.count.tags = ["a"]


@change
def tensor_class(self, x):
    self.count.__class__ = nn.Buffer


# Containers


@change
def list_appended(self, x):
    self.kept.append(x)


@change
def nested_list_changed(self, x):
    self.table["list"][1].insert(0, x)
    self.pair[1].clear()


@change
def dict_changed(self, x):
    self.table["new"] = self.table.pop(None)
    del self.table["list"]


@change
def set_changed(self, x):
    self.members.discard("two")
    self.members.update(range(100))
    self.table[1, 2].clear()


@change
def deque_changed(self, x):
    self.queue.extend([3, 4])
    self.queue.rotate()


@change
def counter_and_ordered_dict_changed(self, x):
    self.counter.update("abc")
    self.ordered.move_to_end("a")


@change
def dict_of_a_class_changed(self, x):
    self.attributes["inside"].append(2)
    self.attributes["depth"] = 2


# The module's own tables


@change
def submodule_added(self, x):
    self.added = nn.Linear(3, 3)
    return self.added(x)


@change
def submodule_replaced(self, x):
    self.norm(x)
    self.norm = nn.Identity()


@change
def submodule_deleted(self, x):
    del self.embedding


@change
def parameter_replaced(self, x):
    self.scale = nn.Parameter(torch.ones(3))


@change
def parameter_added(self, x):
    self.register_parameter("more", nn.Parameter(torch.ones(3)))
    return x + self.more


@change
def buffers_registered(self, x):
    self.register_buffer("late", torch.ones(3), persistent=False)
    self.nothing = torch.ones(3)


@change
def hooks_registered(self, x):
    self.linear.register_forward_hook(ignored)
    self.linear.register_forward_pre_hook(ignored)
    self.linear.register_full_backward_hook(ignored)
    self.register_state_dict_post_hook(ignored)


@change
def tensor_hooks_registered(self, x):
    self.scale.register_hook(ignored)
    self.linear.weight.register_hook(ignored)
    self.linear.bias.register_post_accumulate_grad_hook(ignored)
    if x.requires_grad:
        x.register_hook(ignored)


# Tensors


@change
def gradient_flow_flipped(self, x):
    self.scale.requires_grad_(False)
    self.frozen.requires_grad_()
    self.frozen.register_hook(ignored)
    return x * self.frozen


@change
def values_written(self, x):
    with torch.no_grad():
        self.scale.add_(1)
    self.count += 1
    self.codes[0] = 7
    self.pair[1][0].fill_(3)
    self.sparse.mul_(2)


@change
def values_written_behind_autograd(self, x):
    self.scale.data.mul_(2)
    self.wave.numpy()[0] = 5


@change
def tensors_in_sets_and_keys_written(self, x):
    for tensor in (*self.pair[2], *self.by_tensor):
        tensor.fill_(3)


@change
def data_swapped(self, x):
    self.scale.data = torch.ones(3)
    self.frozen.data = torch.ones(5)
    self.count.data = self.count.data.double()


@change
def data_seen_in_another_way(self, x):
    self.count.data = self.count.data.view(torch.int32)
    self.wave.data = self.wave.data.conj()


@change
def buffer_resized(self, x):
    self.count.resize_(8).fill_(2)


@change
def buffer_shrunk(self, x):
    self.count.set_(torch.ones(1))


@change
def sparse_buffer_grown(self, x):
    self.sparse.add_(torch.ones(3, 3).to_sparse())


@change
def history_given_to_a_buffer(self, x):
    self.count.mul_(self.scale)
    return x + self.count


@change
def gradients_changed(self, x):
    self.scale.grad.zero_()
    self.linear.weight.grad = torch.ones(3, 3)


@change
def gradients_dropped(self, x):
    self.zero_grad()


@change
def input_written(self, x):
    x.data.add_(1)


@change
def metadata_changed(self, x):
    self.codes.unsqueeze_(0)
    self.count.t_()


# The process


@process_change
def random_numbers_drawn(self, x):
    random.random(), np.random.rand(), self.random.random(), self.numpy_random.random(), self.old_numpy_random.rand()
    return x + torch.rand(3) + torch.rand(3, generator=self.generator)


@process_change
def seeds_set(self, x):
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)


@process_change
def grad_mode_left_off(self, x):
    torch.set_grad_enabled(False)
    torch.set_grad_enabled(True)
    torch.autograd.set_detect_anomaly(True, check_nan=False)
    torch.autograd.set_multithreading_enabled(False)


@process_change
def defaults_set(self, x):
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_warn_always(True)


class FunctionMode(TorchFunctionMode):
    """Passes everything on."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    """Passes everything on."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@process_change
def modes_entered(self, x):
    FunctionMode().__enter__()
    DispatchMode().__enter__()


@process_change
def default_device_set(self, x):
    torch.set_default_device("meta")


@process_change
def backends_set(self, x):
    torch._C._set_cudnn_benchmark(True)  # torch.backends refuses once torch.testing._internal is imported
    torch._C._set_cudnn_deterministic(True)
    torch._C._set_cudnn_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.mha.set_fastpath_enabled(False)


@process_change
def autocast_set(self, x):
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_cache_enabled(False)
    torch.set_autocast_enabled("cpu", False)


@process_change
def global_hooks_registered(self, x):
    module_hooks.register_module_forward_hook(ignored)
    module_hooks.register_module_full_backward_hook(ignored)
    module_hooks.register_module_buffer_registration_hook(ignored)
