"""Which hooks of a parameter that fully_shard replaced are called?

The post-accumulate hook, by FSDP itself after it has reduced the gradient. Never the tensor hook on the DTensor, and never
what was registered on the parameter before fully_shard replaced it.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

fired, kept = [], []


def note_gradient(grad):
    fired.append("gradient")


def note_parameter(parameter):
    fired.append("parameter")


def shard(model):
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def build():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    model[0].weight.register_hook(note_gradient)
    shard(model)
    model[2].weight.register_hook(note_gradient)
    model[0].weight.register_post_accumulate_grad_hook(note_parameter)
    return model, (torch.randn(3, 8),)


def build_every_parameter():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(note_parameter)
    return shard(model), (torch.randn(3, 8),)


def build_accumulators():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    for parameter in model.parameters():
        node = parameter.view_as(parameter).grad_fn.next_functions[0][0]
        node.register_hook(lambda *grads: note_gradient(grads))
        kept.append(node)  # else PyTorch frees it
    return shard(model), (torch.randn(3, 8),)


def build_mended():
    model = shard(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)))
    model[0].weight.register_post_accumulate_grad_hook(note_parameter)
    model[2].weight.register_post_accumulate_grad_hook(note_parameter)
    return model, (torch.randn(3, 8),)
