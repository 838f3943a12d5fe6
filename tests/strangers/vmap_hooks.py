"""Question: I call a network through torch.func.vmap. Its forward hooks are called, its full backward hooks are not. With
grad in place of vmap it is an error. Why?

Answer: inside a transform tensors are wrappers. In vmap and jvp their requires_grad is False, so PyTorch puts the hook on
nothing, silently; grad and vjp refuse BackwardHookFunction, and call non-full hooks in a backward of their own. Hook what is
outside of the transform.
"""

import torch
from torch import nn
from torch.func import functional_call, grad, jacfwd, vmap


def note(module, grad_input, grad_output):
    pass


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(2, 4)
        self.fc2 = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc2(self.fc1(x).tanh())


class Around(nn.Module):
    def __init__(self, transform):
        super().__init__()
        self.net = Net()
        self.transform = transform

    def forward(self, x):
        return self.transform(self.net, x)


def call_in_vmap(net, x):
    return vmap(net)(x)


def call_in_jacfwd(net, x):
    return jacfwd(net)(x[0])


def call_in_grad(net, x):
    return grad(lambda x: net(x).sum())(x)


def call_with_parameters(net, x):
    return functional_call(net, {name: parameter * 1 for name, parameter in net.named_parameters()}, (x,))


def call_in_vmap_and_without(net, x):
    return vmap(net)(x) + net(x)


def make_around(transform, register="register_full_backward_hook"):
    model = Around(transform)
    getattr(model.net.fc1, register)(note)
    return model, (torch.randn(6, 2, requires_grad=True),)


def build():
    return make_around(call_in_vmap)


def build_mended():
    model = Around(call_in_vmap)
    model.register_full_backward_hook(note)
    model.net.fc1.weight.register_hook(lambda grad: None)
    return model, (torch.randn(6, 2, requires_grad=True),)


def build_in_jacfwd():
    return make_around(call_in_jacfwd)


def build_in_grad():
    return make_around(call_in_grad)


def build_non_full_in_grad():
    return make_around(call_in_grad, "register_backward_hook")


def build_at_one_of_two_calls():
    return make_around(call_in_vmap_and_without)


def build_mended_with_functional_call():
    return make_around(call_with_parameters)
