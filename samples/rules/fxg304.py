"""FXG304: fully_shard replaces each parameter, and hooks on the one before are not called."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard


def print_norm(parameter):
    print(parameter.grad.norm())


def make_mesh():
    if not dist.is_initialized():  # one process is enough to see it
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return dist.init_device_mesh("cpu", (1,))


def build():
    model = nn.Linear(10, 1)
    model.weight.register_post_accumulate_grad_hook(print_norm)
    return fully_shard(model, mesh=make_mesh()), (torch.randn(8, 10),)


def build_mended():
    model = fully_shard(nn.Linear(10, 1), mesh=make_mesh())
    model.weight.register_post_accumulate_grad_hook(print_norm)
    return model, (torch.randn(8, 10),)
