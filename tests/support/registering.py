"""Registers hooks that write into a notebook, each under a name of its own."""

import torch


def leaf(*shape):
    return torch.randn(shape or (3,), requires_grad=True)


def on_tensor(notebook, tensor, name):
    return tensor.register_hook(notebook.tensor(notebook.name(name)))


def on_node(notebook, tensor, name):
    return tensor.grad_fn.register_hook(notebook.on_node(notebook.name(name)))


def before_node(notebook, tensor, name):
    return tensor.grad_fn.register_prehook(notebook.before_node(notebook.name(name)))


def after_accumulation(notebook, tensor, name):
    return tensor.register_post_accumulate_grad_hook(notebook.leaf(notebook.name(name)))
