"""Views on the emulated device that are changed in place: the nodes that they have on a real device."""

import pytest
import torch
from torch.nn import functional

from fxgrad.errors import FxgradError
from tests.support.emulation import emulated, structure


def made(device, *shape):
    return torch.ones(*shape or (4, 4), device=device, requires_grad=True) * 1


def flattened_and_dropped(device):
    return functional.dropout(made(device, 2, 3, 4).flatten(1), 0.5, True, inplace=True)


def kept_before_it_is_changed(device):
    view = made(device).flatten()
    product = view * view
    functional.relu(view, inplace=True)
    return view.sum(), product.detach() + view


def changed_base(device):
    x = made(device)
    view = x[:, :2]
    x.mul_(3)
    return view.sum() + x.sum()


def changed_view_of_a_view(device):
    x = made(device)
    view = x.t()[:2].t()
    row = view[0]
    row.add_(1)
    return view * 2, row * 3, x.sum()


def returned_without_a_look(device):
    x = made(device)
    view = x.view(2, 8)
    x.add_(1)
    return view


def view_of_what_needed_no_gradient(device):
    x, w = torch.ones(4, 2, device=device), torch.ones(2, device=device, requires_grad=True)
    view = x[1]
    view.mul_(w)
    return x.sum() + view.sum()


def written_by_index(device):
    x, w = torch.zeros(4, 2, device=device), torch.ones(2, device=device, requires_grad=True)
    row = x[2]
    x[0] = w
    x[1] = w * 2
    return (x * row).sum()


def in_a_list(device):
    x = made(device)
    rows = [x[0], x[1]]
    x.add_(1)
    return torch.stack(rows)


def looked_at_in_between(device):
    x = made(device)
    view = x[0]
    x.add_(1)
    first = view * 2
    x.add_(1)
    return first.sum() + view.sum()


class WritesItsArgument(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def written_by_a_function(device):
    x = made(device)
    view = x[0]
    WritesItsArgument.apply(view)
    return x.sum() + view.sum()


PROGRAMS = [
    flattened_and_dropped, kept_before_it_is_changed, changed_base, changed_view_of_a_view, returned_without_a_look,
    view_of_what_needed_no_gradient, written_by_index, in_a_list, looked_at_in_between, written_by_a_function,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_view_that_is_out_of_date_has_the_node_that_it_has_on_the_cpu(program):
    def lines(device):
        results = program(device)
        return structure(*(results if isinstance(results, tuple) else (results,)))

    expected = lines(torch.device("cpu"))
    assert any("AsStridedBackward0" in line for line in expected)
    assert emulated(lines) == expected


def unbound(device):
    x = made(device)
    first, *_ = x.unbind(0)
    x.add_(1)
    return first.sum()


def made_without_grad(device):
    x = made(device)
    with torch.no_grad():
        view = x[0]
    x.add_(1)
    return view.sum()


@pytest.mark.parametrize("program", [unbound, made_without_grad])
def test_what_pytorch_forbids_is_forbidden(program):
    with pytest.raises(RuntimeError, match="view"):
        program(torch.device("cpu"))
    with pytest.raises(FxgradError, match="view"):
        emulated(lambda device: structure(program(device)))


def test_a_view_with_hooks_is_refused():
    def program(device):
        x = made(device)
        view = x[0]
        view.register_hook(lambda grad: None)
        x.add_(1)
        return structure(view.sum())

    with pytest.raises(FxgradError, match="a view with hooks is modified in place"):
        emulated(program)


def noncontiguous(device):
    x = made(device, 4, 6)
    return (
        x[:, ::2].flatten(),
        x.t()[None].flatten(0, 1),
        x.flatten(),
        x[:, ::2][None, None].flatten(0, 2),
        x.flatten(1, 1),
    )


def without_dimensions(device):
    return torch.ones((), device=device, requires_grad=True).flatten()


def losses_of_one_input(device):
    x, target = made(device, 3), torch.zeros(3, dtype=torch.long, device=device)
    loss = functional.multilabel_margin_loss
    return loss(x, target, reduction="none"), loss(x[None], target[None], reduction="none"), loss(x, target)


def pooled_after_a_convolution(device):
    """adaptive_avg_pool2d sets the strides of its result where its input is channels_last."""
    x = torch.ones(2, 3, 4, 4, device=device).to(memory_format=torch.channels_last)
    weight = torch.ones(5, 3, 3, 3, device=device, requires_grad=True)
    return functional.adaptive_avg_pool2d(functional.conv2d(x, weight), 1), functional.conv2d(
        x.contiguous(), weight
    ).flatten()


@pytest.mark.parametrize(
    "program", [noncontiguous, without_dimensions, losses_of_one_input, pooled_after_a_convolution]
)
def test_shapes_and_aliases_are_those_of_real_tensors(program):
    def lines(device):
        results = program(device)
        return structure(*(results if isinstance(results, tuple) else (results,)))

    assert emulated(lines) == lines(torch.device("cpu"))
