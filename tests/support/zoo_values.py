"""Networks with unusual arguments and results: containers, classes of the user's, random numbers, numbers of Python."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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


Pair = namedtuple("Pair", ["mean", "spread"])


@dataclasses.dataclass
class Scores:
    """An output of the user's: tensors, a number, a list of tensors, None."""

    logits: torch.Tensor
    temperature: float
    hidden: list[torch.Tensor]
    mask: torch.Tensor | None = None


class Holder:
    """A plain class, into which nobody can look."""

    def __init__(self, value):
        self.value = value


class Mode(enum.Enum):
    """An option of the user's."""

    SUM = "sum"
    MEAN = "mean"


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the user's, which torch.fx cannot write down."""

    scale: float = 2.0
    mode: Mode = Mode.SUM
    names: tuple[str, ...] = ("a", "b")


def dict_output():
    """A dict, whose keys are strings, numbers and None."""
    return _on(lambda x: {"logits": x, 1: x * 2, None: x.exp(), "text": "no tensor"})


def nested_output():
    """Lists in dicts in tuples, with numbers and None in between."""
    return _on(lambda x: (x, [x * 2, {"a": (x.sin(), None, 3)}], ()))


def namedtuple_output():
    """A namedtuple."""
    return _on(lambda x: Pair(x.mean(1), x.std(1)))


def dataclass_output():
    """A dataclass."""
    return _on(lambda x: Scores(x, 0.5, [x.sin(), x.cos()]))


def ordered_dict_output():
    """An OrderedDict, as Hugging Face models return."""
    return _on(lambda x: OrderedDict(first=x, second=x.relu()))


def object_in_output():
    """A plain object with a tensor in it, beside the tensors."""
    return _on(lambda x: (x, Holder(x.detach() * 2)))


def loss_in_output():
    """An output that has a scalar ``loss``, which is then the root."""
    return _on(lambda x: {"loss": x.square().mean(), "logits": x})


class _Passes(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x, mask):
        return x, self.linear(x), mask, self.linear.bias


def input_in_output():
    """An output holds the inputs as they are, and a parameter as it is."""
    return _Passes(), (torch.randn(2, 3, requires_grad=True), torch.tensor([True, False])), {}


class _Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, *, query, scale=1.0, **rest):
        out = self.linear(query) * scale
        for value in rest.values():
            out = out + value
        return out


def keywords_only():
    """Keyword-only arguments, and keywords that are no identifiers or are Python's own words."""
    extra = {"bias": torch.randn(3), "not a name": torch.randn(3), "class": torch.randn(2, 3)}
    return _Keywords(), (), {"query": torch.randn(2, 3), "scale": 2.0, **extra}


class _Varargs(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))

    def forward(self, first, /, *others, power=2):
        return torch.cat([first, *others]) * self.weight**power


def varargs():
    """A positional-only argument and varargs."""
    return _Varargs(), (torch.randn(1, 3), torch.randn(2, 3), torch.randn(3, 3, requires_grad=True)), {"power": 3}


class _Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, batch, state):
        a, (b, c) = batch["images"], batch["pairs"][0]
        return self.linear(a) + b * c + state[1][2]


def nested_inputs():
    """Tensors inside dicts, lists and tuples of the arguments; keys that are no strings."""
    batch = {"images": torch.randn(2, 3), "pairs": [(torch.randn(2, 3), torch.randn(3, requires_grad=True))]}
    return _Nested(), (batch, {1: {2: torch.randn(3)}}), {}


def object_inputs():
    """A plain object and a dataclass of the user's as arguments, with tensors in them."""

    class Takes(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, holder, scores):
            return self.linear(holder.value) + scores.logits * scores.temperature + scores.hidden[1]

    scores = Scores(torch.randn(2, 3, requires_grad=True), 0.5, [torch.randn(3), torch.randn(3)])
    return Takes(), (Holder(torch.randn(2, 3)), scores), {}


class _Configured(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x, config: Config, act: Any = torch.tanh, size=(2, 3)):
        y = act(self.linear(x)).view(size) * config.scale
        return y.sum() if config.mode is Mode.SUM else y.mean()


def option_arguments():
    """A dataclass of options, an enum, a function and a torch.Size as arguments."""
    return _Configured(), (torch.randn(2, 3), Config()), {"act": F.silu, "size": torch.Size([3, 2])}


class _Samples(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x, generator=None):
        logits = self.linear(x)
        noise = torch.rand(4, generator=generator)
        pick = torch.multinomial(logits.softmax(-1).detach(), 1, generator=generator)
        return logits.gather(1, pick) + noise, pick


def generator_argument():
    """A torch.Generator as an argument: the run advances it."""
    return _Samples(), (torch.randn(2, 3),), {"generator": torch.Generator().manual_seed(3)}


def random_numbers():
    """dropout, rand, randn_like, bernoulli, multinomial and randperm from the default generator."""

    def run(x):
        x = F.dropout(x, 0.3) + torch.rand(4) + torch.randn_like(x)
        mask = torch.bernoulli(torch.full((2, 4), 0.7))
        return x[:, torch.randperm(4)] * mask, torch.multinomial(torch.ones(2, 4), 2)

    return _on(run)


def seeded_inside():
    """Sets torch's seed in forward, and forks the random state."""

    def run(x):
        torch.manual_seed(5)
        first = torch.rand(4)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(9)
            second = torch.rand(4)
        return x * first + second + torch.rand(4)

    return _on(run)


def random_state_put_back():
    """Draws the same numbers twice, by set_rng_state; the last fork_rng ends after the last function."""

    def run(x):
        state = torch.get_rng_state()
        first = torch.rand(4)
        torch.set_rng_state(state)
        second = torch.rand(4)
        with torch.random.fork_rng(devices=[]):
            return x * first + second + torch.rand(4)

    return _on(run)


def reparameterised():
    """torch.distributions: rsample, log_prob and kl_divergence."""

    def run(x):
        normal = torch.distributions.Normal(x[:, :2], x[:, 2:].exp())
        prior = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
        sample = normal.rsample()
        return normal.log_prob(sample).sum() + torch.distributions.kl_divergence(normal, prior).mean()

    return _on(run)


def gumbel_softmax():
    """A straight-through estimator: gumbel_softmax with hard=True."""
    return _on(lambda x: F.gumbel_softmax(x, tau=0.7, hard=True) @ torch.arange(4.0))


def numpy_inside():
    """numpy arrays made in forward, and arrays as arguments of torch functions."""

    def run(x):
        table = np.linspace(0, 1, 4, dtype=np.float32)
        scale = float(x.detach().numpy().mean())
        return x * torch.from_numpy(table) * scale + torch.as_tensor(np.ones(4, dtype=np.float32)) * np.float32(2)

    return _on(run)


def numbers_of_python():
    """.item(), .tolist(), len, int and float of tensors decide what is computed."""

    def run(x):
        level = x.mean().item()
        sizes = torch.tensor([1, 3]).tolist()
        left, right = x.split(sizes, dim=1)
        return left * level + right * math.pi + len(x) + int(torch.tensor(3)) - float(x.detach()[0, 0])

    return _on(run)


def control_flow_by_data():
    """if and while on the values of tensors."""

    def run(x):
        if x.sum() > 0:
            x = x * 2
        steps = 0
        while x.norm() > 0.5 and steps < 4:
            x = x * 0.5
            steps += 1
        return x if steps else -x

    return _on(run)


def scalars_everywhere():
    """Python numbers of every kind as operands: on the left, complex, bool, inf, nan."""

    def run(x):
        y = 1 - x + 2 * x / (3 + x.abs()) - (0.5 ** x.sigmoid()) + True
        return torch.nan_to_num(y * math.inf, nan=0.0, posinf=2.0, neginf=-math.inf).clamp(-1, 1) + y, y * 1j

    return _on(run)


def dtypes_and_devices():
    """dtype, device, layout and memory_format as arguments; to() in several ways."""

    def run(x):
        y = x.to(torch.float64).to(torch.device("cpu")).to("cpu", torch.float32).type_as(x)
        image = y.view(1, 2, 2, 2).contiguous(memory_format=torch.channels_last)
        plain = torch.zeros_like(image, dtype=torch.float32, device="cpu", layout=torch.strided)
        return image + plain + torch.ones((), dtype=torch.float64), x.double().float(), x.type(torch.float64)

    return _on(run)


def integers_and_bools():
    """Integer and bool results beside the differentiable ones: argmax, comparisons, one_hot."""

    def run(x):
        best = x.argmax(-1)
        return x * F.one_hot(best, 4), best, (x > 0) & (x < 1), best // 2

    return _on(run)


def grids_of_shapes():
    """torch.Size, unpacked sizes, reshape with -1, meshgrid and broadcasting of shapes."""

    def run(x):
        rows, columns = x.shape
        grid = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        wide = x.reshape(-1, *x.size()).expand(torch.Size([3, *x.shape]))
        return wide + torch.stack(grid).sum(0), x.new_full(x.shape, 2.0) * x

    return _on(run)


class Wrapped(torch.Tensor):
    """A subclass of Tensor without a ``__torch_function__`` of its own."""


class _Jagged(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        rows = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=torch.jagged)
        return self.linear(rows).values() + self.linear(x).sum()


def jagged_inside():
    """A nested tensor of the jagged layout, of which one size is a name."""
    return _Jagged(), (torch.randn(2, 3),), {}


def tensor_subclass():
    """A subclass of Tensor goes through forward."""
    return _on(lambda x: (x.as_subclass(Wrapped) * 2).sin())
