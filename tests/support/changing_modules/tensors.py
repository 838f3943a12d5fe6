"""Changes of a module's own tables, and of tensors."""

from __future__ import annotations

import torch
from torch import nn

from changing_modules.making import change, ignored


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
