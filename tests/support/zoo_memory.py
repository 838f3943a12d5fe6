"""Networks that write into memory: views, in-place operations, buffers, ``out=``, and caches."""

from __future__ import annotations

import torch
from torch import nn


class _Runs(nn.Module):
    """A Linear, then the given function on what it returns."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(3, 4), function

    def forward(self, x):
        return self.function(self.linear(x))


def _on(function):
    return _Runs(function), (torch.randn(2, 3),), {}


def in_place():
    """In-place operations on plain results."""
    return _on(lambda x: x.mul_(2).add_(1).clamp_(max=3).relu_())


def copy_slices():
    """In-place on a view: the base gets a CopySlices node."""

    def run(x):
        x = x * 1
        x[:, 0].mul_(2)
        x[:, 1:3] = x[:, :2].detach() * 3
        x[0] = 1.0
        return x

    return _on(run)


def view_after_write():
    """A view that is changed through itself is returned: AsStridedBackward0."""

    def run(x):
        x = x * 1
        view = x[:1]
        view.mul_(2)
        return view

    return _on(run)


def stale_view():
    """The base is changed after the view was taken, and then the view is used."""

    def run(x):
        x = x * 1
        view = x[:, :2]
        x.mul_(3)
        return view.sum() + x.sum()

    return _on(run)


def stale_view_returned():
    """A stale view is the output, and nobody has looked at it since."""

    def run(x):
        x = x * 1
        view = x.view(4, 2)
        x.add_(3)
        return view

    return _on(run)


def views_of_many():
    """unbind, split and chunk return views in a tuple; they are used out of order."""

    def run(x):
        first, second = x.unbind(0)
        left, right = x.split([1, 3], dim=1)
        a, b = x.T.chunk(2)
        return second + first, right.sum() * left, (b * a).sum()

    return _on(run)


def detached_and_data():
    """detach, .data and a write through .data, that no version counter sees."""

    def run(x):
        y = x * 1
        y.data.mul_(2)
        return y * x.detach() + x.data

    return _on(run)


def index_put():
    """index_put_, boolean masks, scatter, gather, masked_fill_, index_add and where."""

    def run(x):
        y = x * 1
        y.index_put_((torch.tensor([0]), torch.tensor([1])), torch.tensor(5.0))
        y[y > 2] = 0.0
        y = y.scatter(1, torch.tensor([[0], [1]]), x[:, :1])
        y = y.masked_fill_(y < -1, 0.5).index_add(0, torch.tensor([1]), x[:1])
        return torch.where(y > 0, y, x.gather(1, torch.zeros(2, 4, dtype=torch.int64)))

    return _on(run)


def advanced_indexing():
    """Tensors, None, Ellipsis and slices with steps inside one index."""

    def run(x):
        cube = x.expand(3, 2, 4)
        rows = torch.tensor([0, 2])
        return cube[rows, None, ..., 1::2], cube[..., -1], cube[:, torch.tensor(1)], cube[[0, 1], [1, 0]]

    return _on(run)


def tensors_in_slices():
    """0-d integer tensors as the ends of a slice."""

    def run(x):
        return x[:, torch.tensor(1) : torch.tensor(3)] * 2

    return _on(run)


def out_argument():
    """out= is given a buffer that requires no grad."""

    def run(x):
        place = torch.empty(2, 4)
        torch.add(x.detach(), 1, out=place)
        return x * place

    return _on(run)


class _Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("missing", None)

    def forward(self, x):
        y = self.linear(x)
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        return y - self.mean / self.calls


def own_counters():
    """Buffers of its own: one is added to in place, one is replaced."""
    return _Counts(), (torch.randn(2, 3),), {}


class _Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.cache, self.seen, self.state = None, [], {}

    def forward(self, x):
        if self.cache is None:
            self.cache = torch.arange(3.0).sin()
        y = self.linear(x) + self.cache
        self.seen.append(y)
        self.state["last"] = y.detach()
        return torch.stack(self.seen).sum(0) + self.state["last"]


def lazy_cache():
    """A cache that the first call makes, a list that it appends to, a dict that it fills."""
    return _Remembers(), (torch.randn(2, 3),), {}


class _KeepsTensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.scale = torch.full((3,), 2.0)
        self.bound = {"low": torch.zeros(3), "high": [torch.ones(3)]}

    def forward(self, x):
        return torch.maximum(self.linear(x) * self.scale, self.bound["low"]).minimum(self.bound["high"][0])


def plain_tensor_attributes():
    """Tensors that are attributes but neither parameters nor buffers, also inside containers."""
    return _KeepsTensor(), (torch.randn(2, 3),), {}


class _Ema(nn.Module):
    def __init__(self):
        super().__init__()
        self.online, self.target = nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            for own, other in zip(self.target.parameters(), self.online.parameters(), strict=True):
                own.lerp_(other, 0.1)
        return (self.online(x) - self.target(x)).square().mean()


def moving_average():
    """Parameters that are written under no_grad in forward."""
    return _Ema(), (torch.randn(2, 3),), {}


def complex_numbers():
    """Complex tensors: fft, conjugation, view_as_real, polar."""

    def run(x):
        z = torch.fft.fft(torch.complex(x, x.cos()))
        w = z.conj() * torch.polar(x.abs(), x)
        return torch.view_as_real(w).sum() + w.abs().sum(), w.imag

    return _on(run)


def resized_in_place():
    """unsqueeze_, t_ and squeeze_ change the shape of a result in place."""

    def run(x):
        y = x * 1
        y.unsqueeze_(0).squeeze_(0).t_()
        return y

    return _on(run)


def requires_grad_inside():
    """A tensor made in forward gets requires_grad_() there: a leaf that is no parameter."""

    def run(x):
        extra = torch.ones(2, 4).requires_grad_()
        made = torch.zeros(4, requires_grad=True)
        return x * extra + made

    return _on(run)


def changed_input():
    """The input is changed in place by forward."""

    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3))

        def forward(self, x):
            x += 1
            return x * self.weight

    return Adds(), (torch.randn(2, 3),), {}


def foreach():
    """torch._foreach functions on lists of tensors."""

    def run(x):
        one, two = torch._foreach_mul([x, x.exp()], 2.0)
        torch._foreach_add_([one, two], [two, one])
        return one, two

    return _on(run)


def structured_results():
    """Functions that return named tuples: max, sort, topk, linalg.svd, linalg.qr."""

    def run(x):
        best = x.max(dim=1)
        values, order = x.sort(dim=-1)
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        return best.values, values + x.gather(1, order), torch.topk(x, 2).values, (u * s) @ vh, torch.linalg.qr(x).R

    return _on(run)


def einsum():
    """einsum, tensordot, bilinear forms and outer products."""

    def run(x):
        return torch.einsum("bi,bj->ij", x, x), torch.einsum("...i->...", x), torch.tensordot(x, x, dims=([1], [1]))

    return _on(run)
