"""Models as large as those that people draw, in the forms of residual, dense, attention and recurrent networks."""

from __future__ import annotations

import torch
from torch import nn


class Residual(nn.Module):
    """A block of a residual network, with a bottleneck or without."""

    def __init__(self, width: int, out: int, *, bottleneck: bool) -> None:
        super().__init__()
        kernels = ((1, width), (3, width), (1, out)) if bottleneck else ((3, out), (3, out))
        ins = [out, *(channels for _, channels in kernels[:-1])]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
            for before, (kernel, after) in zip(ins, kernels, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _, after in kernels)
        self.relu = nn.ReLU()

    def forward(self, x):
        inside = x
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            inside = norm(conv(inside))
            inside = self.relu(inside) if number < len(self.convs) - 1 else inside
        return self.relu(inside + x)


def residual(*blocks: int, bottleneck: bool = False) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Stages of so many blocks each."""
    stages = [nn.Sequential(*(Residual(4, 8, bottleneck=bottleneck) for _ in range(count))) for count in blocks]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(stem, *stages, head), (torch.ones(2, 3, 8, 8),)


class DenseLayer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, features):
        return self.conv2(self.relu(self.norm2(self.conv1(self.relu(self.norm1(torch.cat(features, 1)))))))


class DenseBlock(nn.Module):
    """Each layer gets what all before it gave."""

    def __init__(self, layers: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(channels + 2 * number) for number in range(layers))

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


def dense(*blocks: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Dense blocks of so many layers each."""
    parts, channels = [nn.Conv2d(3, 4, 3, padding=1)], 4
    for layers in blocks:
        after = channels + 2 * layers
        parts += [DenseBlock(layers, channels), nn.Conv2d(after, 4, 1), nn.ReLU()]
        channels = 4
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(4 * 16, 3)), (torch.ones(2, 3, 4, 4),)


def attention(layers: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """An encoder."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False), (torch.ones(2, 5, 16),)


class Windows(nn.Module):
    """Attention within windows that shift from one block to the next, and patches that merge."""

    def __init__(self, stages: tuple[int, ...]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.stages = nn.ModuleList(nn.ModuleList(WindowBlock(8) for _ in range(blocks)) for blocks in stages)
        self.merges = nn.ModuleList(nn.Linear(32, 8) for _ in stages[1:])
        self.head = nn.Linear(8, 3)

    def forward(self, image):
        x = self.patches(image).permute(0, 2, 3, 1)
        for number, stage in enumerate(self.stages):
            for place, block in enumerate(stage):
                x = block(x, shift=place % 2)
            if number < len(self.merges):
                x = torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1)
                x = self.merges[number](x)
        return self.head(x.mean((1, 2)))


class WindowBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(1))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x, shift):
        inside = torch.roll(self.norm1(x), (-shift, -shift), (1, 2)) if shift else self.norm1(x)
        query, key, value = self.qkv(inside.flatten(1, 2)).chunk(3, -1)
        weights = (query @ key.transpose(1, 2) + self.bias).softmax(-1)
        inside = self.proj(weights @ value).view_as(x)
        inside = torch.roll(inside, (shift, shift), (1, 2)) if shift else inside
        x = x + inside
        return x + self.mlp(self.norm2(x))


def windows(*stages: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Stages of so many blocks each."""
    return Windows(stages), (torch.ones(1, 3, 32, 32),)


class Steps(nn.Module):
    """A cell, one step after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 4)

    def forward(self, xs):
        hidden = state = xs.new_zeros(1, 4)
        for x in xs:
            hidden, state = self.cell(x, (hidden, state))
        return hidden


def steps(count: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A recurrent cell that is called so often."""
    return Steps(), (torch.ones(count, 1, 4),)


class Leaves(nn.Module):
    """Many parameters that one node adds up."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(3)) for _ in range(count))

    def forward(self, x):
        return torch.stack([*self.weights]).sum() * x


def leaves(count: int) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """A node that so many leaves hang on."""
    return Leaves(count), (torch.ones(3),)
