"""Networks as people build them: recurrent, residual, attention, shared weights, convolutions, embeddings, losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence


def lstm():
    """A two-layer LSTM, whose result is nested: output, (h, c)."""
    return nn.LSTM(3, 4, num_layers=2), (torch.randn(5, 2, 3),), {}


def lstm_with_state():
    """A bidirectional LSTM with projections, given its first state as a tuple."""
    state = torch.randn(2, 2, 3, requires_grad=True), torch.randn(2, 2, 4)
    return nn.LSTM(3, 4, proj_size=3, bidirectional=True), (torch.randn(5, 2, 3), state), {}


def gru():
    """A batch-first GRU on an input that requires grad."""
    return nn.GRU(3, 4, batch_first=True), (torch.randn(2, 5, 3, requires_grad=True),), {}


def rnn():
    """A bidirectional RNN with ReLU and dropout between its layers."""
    return nn.RNN(3, 4, 2, nonlinearity="relu", dropout=0.3, bidirectional=True), (torch.randn(5, 2, 3),), {}


class _Unrolled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.LSTMCell(3, 4), nn.GRUCell(4, 4)

    def forward(self, steps):
        hidden, cell = steps.new_zeros(2, 4), steps.new_zeros(2, 4)
        states = []
        top = torch.zeros(2, 4)
        for step in steps:
            hidden, cell = self.first(step, (hidden, cell))
            top = self.second(hidden, top)
            states.append(top)
        return torch.stack(states), (hidden, cell)


def cells_unrolled():
    """LSTMCell and GRUCell called once a step; the states are appended to a list."""
    return _Unrolled(), (torch.randn(4, 2, 3),), {}


def packed_sequence():
    """A PackedSequence goes into the LSTM, and one comes out."""
    return nn.LSTM(3, 4), (pack_sequence([torch.randn(4, 3), torch.randn(2, 3)]),), {}


class _Packs(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, padded, lengths):
        packed = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(output.sum(1))


def packs_inside():
    """Packs and pads inside forward, by lengths that are an integer input."""
    return _Packs(), (torch.randn(2, 5, 3), torch.tensor([3, 5])), {}


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(x + self.norm(self.conv(x)))


def residual():
    """Residual blocks with BatchNorm (whose buffers are written) and an in-place ReLU."""
    return nn.Sequential(_Block(), _Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (torch.randn(2, 3, 6, 6),), {}


class _SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x, mask=None):
        return self.attention(x, x, x, key_padding_mask=mask)


def multihead_attention():
    """One tensor is query, key and value; a bool mask; the weights come back as well."""
    mask = torch.tensor([[False, False, True], [False, False, False]])
    return _SelfAttention(), (torch.randn(2, 3, 8),), {"mask": mask}


def transformer_encoder():
    """A TransformerEncoder in training: dropout, layer norms, feed-forward."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (torch.randn(2, 3, 8),), {}


def transformer_encoder_eval():
    """The same in evaluation under grad, with a padding mask."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    mask = torch.tensor([[False, False, True], [False, False, False]])
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    return model, (torch.randn(2, 3, 8),), {"src_key_padding_mask": mask}


def transformer_decoder():
    """A TransformerDecoder with a causal mask and a memory that requires grad."""
    layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0)
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    inputs = torch.randn(4, 2, 8), torch.randn(3, 2, 8, requires_grad=True)
    return nn.TransformerDecoder(layer, 2), inputs, {"tgt_mask": mask}


class _Dots(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1)
        return out.transpose(1, 2).flatten(2)


def dot_product_attention():
    """scaled_dot_product_attention, causal and with dropout, on chunks of one projection."""
    return _Dots(), (torch.randn(2, 3, 8),), {}


class _Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.decoder = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens):
        return self.decoder(self.embedding(tokens).tanh())


def tied_weights():
    """Embedding and decoder share one weight; the input is integer."""
    return _Tied(), (torch.randint(7, (2, 3)),), {}


class _Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Linear(3, 3)
        self.right = self.left

    def forward(self, a, b):
        return F.cosine_similarity(self.left(a), self.right(self.right(b)))


def shared_module():
    """One module at two paths, called three times."""
    return _Siamese(), (torch.randn(2, 3), torch.randn(2, 3)), {}


class _TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.classes, self.box = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(4, 4)

    def forward(self, x):
        features = torch.relu(self.trunk(x))
        return self.classes(features).log_softmax(-1), self.box(features).sigmoid()


def two_heads():
    """A trunk with two heads: two outputs, two roots."""
    return _TwoHeads(), (torch.randn(2, 3),), {}


class _Tree(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.leaf, self.depth = nn.Linear(3, 3), depth

    def forward(self, x, depth=0):
        below = self(x * 0.5, depth + 1) if depth < self.depth else x
        return torch.tanh(self.leaf(x) + below)


def recursive():
    """A module whose forward calls the module itself, three deep."""
    return _Tree(3), (torch.randn(2, 3),), {}


class _ByForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(self.first.forward(x).relu())


def called_by_forward():
    """A submodule is run through .forward(), so there is no module call for it."""
    return _ByForward(), (torch.randn(2, 3),), {}


class _Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(3, 3) for _ in range(2)])
        self.scales = nn.ParameterDict({"a": torch.ones(3), "b": torch.tensor(2.0)})
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Identity()])
        self.ends = nn.ModuleDict({"act": nn.GELU(), "drop": nn.Dropout(0.2)})

    def forward(self, x):
        for weight in self.weights:
            x = x @ weight
        for layer in self.layers:
            x = layer(x)
        return self.ends["drop"](self.ends["act"](x * self.scales["a"] / self.scales["b"]))


def parameter_containers():
    """ParameterList, ParameterDict, ModuleList and ModuleDict."""
    return _Lists(), (torch.randn(2, 3),), {}


def no_parameters():
    """A network without any parameter; the input alone requires grad."""
    model = nn.Sequential(nn.Tanh(), nn.Softmax(dim=-1), nn.Flatten())
    return model, (torch.randn(2, 3, 4, requires_grad=True),), {}


def padded_convolutions():
    """Convolutions with padding modes: F.pad is called inside, with lists of ints."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(3, 3, 3, padding="same", padding_mode="reflect", groups=3),
        nn.ConvTranspose2d(3, 2, 2, stride=2),
        nn.MaxPool2d(2),
    )
    return model, (torch.randn(2, 2, 6, 6),), {}


def normalisations():
    """BatchNorm, InstanceNorm with running statistics, GroupNorm and LayerNorm, in training."""
    model = nn.Sequential(
        nn.BatchNorm1d(4),
        nn.InstanceNorm1d(4, affine=True, track_running_stats=True),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(5),
    )
    return model, (torch.randn(3, 4, 5),), {}


def normalisations_eval():
    """The same statistics, in evaluation: buffers are read only."""
    model = nn.Sequential(nn.BatchNorm1d(4), nn.InstanceNorm1d(4, track_running_stats=True)).eval()
    return model, (torch.randn(3, 4, 5, requires_grad=True),), {}


def sparse_embedding():
    """Embedding with sparse=True: the weight's gradient is a sparse tensor."""
    return nn.Embedding(7, 3, sparse=True, padding_idx=0), (torch.tensor([[0, 2], [5, 2]]),), {}


def renormalised_embedding():
    """Embedding with max_norm writes its *parameter* in forward."""
    model = nn.Sequential(nn.Embedding(7, 3, max_norm=0.5), nn.Linear(3, 2))
    return model, (torch.tensor([[0, 2], [5, 2]]),), {}


def embedding_bag():
    """EmbeddingBag with offsets and weights per sample."""
    offsets = torch.tensor([0, 2])
    weights = torch.rand(5, requires_grad=True)
    inputs = (torch.tensor([1, 2, 4, 5, 4]), offsets)
    return nn.EmbeddingBag(7, 3, mode="sum"), inputs, {"per_sample_weights": weights}


class _Speech(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head, self.loss = nn.GRU(3, 4), nn.Linear(4, 5), nn.CTCLoss()

    def forward(self, sound, text, lengths, text_lengths):
        scores = self.head(self.rnn(sound)[0]).log_softmax(-1)
        return self.loss(scores, text, lengths, text_lengths)


def ctc_loss():
    """CTCLoss over a GRU, with lengths as tuples of ints."""
    return _Speech(), (torch.randn(6, 2, 3), torch.randint(1, 5, (2, 3)), (6, 5), (3, 2)), {}


def losses():
    """A loss module as the model: input and target."""
    return (
        nn.CrossEntropyLoss(label_smoothing=0.1),
        (torch.randn(3, 4, requires_grad=True), torch.tensor([1, 0, 3])),
        {},
    )


class _Adaptive(nn.Module):
    def __init__(self):
        super().__init__()
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(4, 10, cutoffs=[3, 6])

    def forward(self, x, target):
        return self.softmax(x, target)


def adaptive_softmax():
    """AdaptiveLogSoftmaxWithLoss: control flow by data, index_copy_, and a namedtuple as output."""
    return _Adaptive(), (torch.randn(5, 4), torch.tensor([0, 2, 4, 7, 9])), {}
