"""Which nodes the emulated CUDA device makes, and that real backward runs through them."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxgrad.errors import TargetError, UsageError
from fxgrad.observe.accelerator import attention
from fxgrad.observe.accelerator.backend import emulate, explain_unavailable
from fxgrad.observe.accelerator.device import find_caveats
from fxgrad.observe.accelerator.transfer import fake_copy, move_module
from tests.support.emulation import arguments, emulated, structure
from tests.support.needs import needs_emulation

SEED = """
import json
import torch
from torch import nn
from fxgrad.observe.accelerator.backend import emulate

received = []

def sizes(grads):
    return [None if grad is None else list(grad.shape) for grad in grads]

with emulate("cuda"):
    layers = nn.ModuleList(nn.LSTMCell(1000, 1000) for _ in range(4))
    for layer in layers:
        layer.register_backward_hook(lambda module, gi, go: received.append((sizes(gi), sizes(go))))
    hiddens, cells = [torch.zeros(9, 1000)] * 4, [torch.zeros(9, 1000)] * 4
    for step in torch.randn(3, 9, 1000):
        for i, layer in enumerate(layers):
            hiddens[i], cells[i] = layer(step, (hiddens[i], cells[i]))
            step = hiddens[i]
    step.sum().backward()
print(json.dumps(received))
"""


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


@needs_emulation
def test_the_seed_receives_the_five_gradients_and_the_none_of_its_question_in_a_fresh_interpreter():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SEED], capture_output=True, text=True, check=True)
    received = json.loads(done.stdout)
    assert len(received) == 12
    assert received[0] == [[[9, 4000], [9, 4000], [9, 1000], [4000], [4000]], [[9, 1000], None]]
    assert received[-4:] == [[[[9, 4000], [9, 4000], None, [4000], [4000]], [[9, 1000], [9, 1000]]]] * 4


def test_a_gru_cell_is_one_fused_node():
    fused = ["ThnnFusedGruCellBackward0", "MmBackward0", "MmBackward0", None, "AccumulateGrad", "AccumulateGrad"]
    assert emulated(lambda _: arguments(backward(nn.GRUCell(3, 4)(randn(2, 3))))) == fused


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_a_cell_without_bias_has_null_edges_for_the_biases(cell):
    assert emulated(lambda _: arguments(backward(cell(3, 4, bias=False)(randn(2, 3)))))[-2:] == [None, None]


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_is_one_cudnn_node_with_its_weights(layer):
    def program(_):
        module = layer(3, 4, num_layers=2, bidirectional=True)
        weights = [
            list(next_node.variable.shape)
            for next_node, _ in backward(module(randn(5, 2, 3))).grad_fn.next_functions[1:17]
        ]
        return weights == [list(weight.shape) for weight in module.parameters()]

    assert emulated(program)


def backward(output):
    """The first tensor of `output`, after a real backward through it."""
    tensor = output[0] if isinstance(output, tuple) else output
    tensor.sum().backward()
    return tensor


def test_a_recurrent_layer_names_the_cudnn_node():
    assert emulated(lambda _: arguments(backward(nn.LSTM(3, 4)(randn(5, 2, 3))))) == [
        "CudnnRnnBackward0",
        *["AccumulateGrad"] * 5,
        None,
        None,
    ]


def test_a_recurrent_layer_with_a_projection_has_the_projection_among_its_weights():
    assert len(emulated(lambda _: arguments(backward(nn.LSTM(3, 4, proj_size=2)(randn(5, 2, 3)))))) == 1 + 1 + 5 + 2


def test_a_recurrent_layer_on_a_packed_sequence_is_one_cudnn_node():
    packed = nn.utils.rnn.pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])

    def program(device):
        output, _ = nn.LSTM(3, 4)(fake_copy(packed, device))
        return [arguments(output.data)[0], list(output.data.shape), output.batch_sizes.tolist()]

    assert emulated(program) == ["CudnnRnnBackward0", [6, 4], [2, 2, 1, 1]]


def test_backward_of_a_recurrent_layer_in_eval_mode_is_refused_as_cudnn_does():
    with pytest.raises(TargetError, match="cudnn RNN backward can only be called in training mode"):
        emulated(lambda _: backward(nn.LSTM(3, 4).eval()(randn(5, 2, 3))))


def test_without_cudnn_a_recurrent_layer_is_made_of_fused_cells():
    def program(_):
        with torch.backends.cudnn.flags(enabled=False):
            return arguments(backward(nn.LSTM(3, 4)(randn(2, 2, 3))))

    assert emulated(program)[:2] == ["StackBackward0", "ThnnFusedLstmCellBackward0"]


@pytest.mark.parametrize(
    ("module", "shape", "node"),
    [
        (nn.BatchNorm2d(3), (2, 3, 4, 4), "CudnnBatchNormBackward0"),
        (nn.BatchNorm2d(3).eval(), (2, 3, 4, 4), "CudnnBatchNormBackward0"),
        (nn.BatchNorm1d(3), (2, 3, 4), "CudnnBatchNormBackward0"),
        (nn.BatchNorm1d(3), (2, 3), "NativeBatchNormBackward0"),
        (nn.BatchNorm2d(3, affine=False), (2, 3, 4, 4), "NativeBatchNormBackward0"),
        (nn.BatchNorm2d(3, track_running_stats=False), (2, 3, 4, 4), "CudnnBatchNormBackward0"),
        (nn.BatchNorm2d(3, dtype=torch.bfloat16), (2, 3, 4, 4), "NativeBatchNormBackward0"),
        (nn.BatchNorm2d(3, dtype=torch.float16), (2, 3, 4, 4), "NativeBatchNormBackward0"),
        (nn.BatchNorm2d(3, dtype=torch.float64), (2, 3, 4, 4), "CudnnBatchNormBackward0"),
    ],
)
def test_batch_norm_runs_in_cudnn_where_cuda_uses_it(module, shape, node):
    dtype = next(iter([*module.parameters(), *module.buffers()])).dtype if list(module.state_dict()) else torch.float32

    def program(device):
        move_module(module, device)
        return arguments(backward(module(randn(*shape, dtype=dtype))))[0]

    assert emulated(program) == node


@pytest.mark.parametrize(
    ("program", "node"),
    [
        (lambda: nn.RMSNorm(4)(randn(2, 4)), "FusedRmsNormBackward0"),
        (lambda: nn.Dropout()(randn(2, 4)), "NativeDropoutBackward0"),
        (lambda: nn.Embedding(5, 3)(torch.tensor([1, 2])), "EmbeddingBackward0"),
        (lambda: F.grid_sample(randn(2, 3, 8, 8), randn(2, 4, 4, 2), align_corners=True), "CudnnGridSamplerBackward0"),
        (lambda: F.grid_sample(randn(2, 3, 8, 8), randn(2, 4, 4, 2), align_corners=False), "GridSampler2DBackward0"),
        (lambda: torch.softmax(randn(2, 3, dtype=torch.float16), 0, dtype=torch.float32), "SoftmaxBackward0"),
        (lambda: torch.log_softmax(randn(2, 3, dtype=torch.float16), 0, torch.float32), "LogSoftmaxBackward0"),
        (lambda: randn(4, 6)[:, ::2].reshape(2, 2, 3), "ReshapeAliasBackward0"),
    ],
)
def test_an_operator_is_the_node_that_it_is_on_cuda(program, node):
    assert emulated(lambda _: arguments(backward(program()))[0]) == node


def test_converting_half_to_float_in_softmax_takes_no_node_of_its_own():
    program = emulated(lambda _: arguments(torch.softmax(randn(2, 3, dtype=torch.float16), 0, dtype=torch.float32)))
    assert program == ["SoftmaxBackward0", "AccumulateGrad"]


def linear_stack():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))(randn(5, 3))


def convolutions():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())(randn(2, 3, 8, 8))


def views_in_place():
    base = randn(4, 6) * 1
    base[:2].mul_(2)
    base.t()[1:].reshape(5, 2, 2).add_(1)
    return base


def matrix_products():
    return torch.einsum("bij,bkj->bik", randn(2, 3, 4), randn(2, 5, 4)) @ randn(5, 2) + F.linear(
        randn(2, 3, 4)[..., :2], randn(2, 2)
    )


def non_contiguous_linear():
    return F.linear(randn(2, 5, 6, 3)[..., ::2, :], randn(4, 3), randn(4))


@pytest.mark.parametrize(
    "program", [linear_stack, convolutions, views_in_place, matrix_products, non_contiguous_linear]
)
def test_a_program_without_fused_kernels_has_the_same_graph_as_on_a_real_device(program):
    assert emulated(lambda _: structure(program())) == structure(program())


@pytest.mark.parametrize(
    ("shape", "options", "node"),
    [
        ((2, 4, 5, 8), {}, "ScaledDotProductEfficientAttentionBackward0"),
        ((2, 4, 5, 8), {"is_causal": True}, "ScaledDotProductEfficientAttentionBackward0"),
        ((2, 2, 4, 5, 8), {}, "UnsafeViewBackward0"),
        ((2, 4, 5, 6), {}, "UnsafeViewBackward0"),
    ],
)
def test_attention_in_float32_is_the_kernel_that_every_gpu_has(shape, options, node):
    def program(_):
        return arguments(backward(F.scaled_dot_product_attention(*(randn(*shape) for _ in "qkv"), **options)))[0]

    assert emulated(program) == node


def test_attention_without_a_batch_gets_one_where_this_pytorch_gives_it_one():
    def program(_):
        output = backward(F.scaled_dot_product_attention(*(randn(4, 5, 8) for _ in "qkv")))
        return [attention.adds_batch(), *arguments(output)]

    adds_batch, *nodes = emulated(program)
    batched = ["SqueezeBackward1", "ScaledDotProductEfficientAttentionBackward0"]
    assert nodes == (batched if adds_batch else ["UnsafeViewBackward0", "BmmBackward0"])


def test_attention_in_float64_has_no_fused_kernel():
    def program(_):
        return arguments(F.scaled_dot_product_attention(*(randn(2, 4, 5, 8, dtype=torch.float64) for _ in "qkv")))[0]

    assert emulated(program) == "UnsafeViewBackward0"


def test_attention_with_a_boolean_mask_keeps_the_masks_edge_null():
    def program(_):
        mask = torch.ones(5, 5, dtype=torch.bool)
        return arguments(backward(F.scaled_dot_product_attention(*(randn(2, 4, 5, 8) for _ in "qkv"), attn_mask=mask)))

    assert emulated(program) == ["ScaledDotProductEfficientAttentionBackward0", *["AccumulateGrad"] * 3, None]


def test_attention_that_the_user_restricts_to_math_is_no_fused_kernel():
    def program(_):
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            return arguments(F.scaled_dot_product_attention(*(randn(2, 4, 5, 8) for _ in "qkv")))[0]

    assert emulated(program) == "UnsafeViewBackward0"


def test_attention_in_half_precision_comes_with_the_sentence_that_the_gpu_decides():
    def program(_):
        output = backward(F.scaled_dot_product_attention(*(randn(2, 4, 5, 8, dtype=torch.float16) for _ in "qkv")))
        name = arguments(output)[0]
        return [name, find_caveats([name]), find_caveats(["AddmmBackward0"])]

    name, caveats, elsewhere = emulated(program)
    assert name == "ScaledDotProductFlashAttentionBackward0"
    assert len(caveats) == 1
    assert "depends on the GPU; here: ScaledDotProductFlashAttentionBackward0, as on an A100" in caveats[0]
    assert elsewhere == []


def test_attention_whose_kernel_is_certain_needs_no_caveat():
    def program(_):
        output = F.scaled_dot_product_attention(*(randn(2, 4, 5, 8) for _ in "qkv"))
        return find_caveats([arguments(output)[0]])

    assert emulated(program) == []


def test_a_bfloat16_recurrent_layer_comes_with_a_caveat():
    def program(_):
        nn.LSTM(3, 4, dtype=torch.bfloat16)(randn(5, 2, 3, dtype=torch.bfloat16))
        return find_caveats(["CudnnRnnBackward0"])

    assert "with bfloat16, whether CUDA runs a recurrent layer in cuDNN depends on the GPU" in emulated(program)[0]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            lambda: randn(1).item(),
            "aten._local_scalar_dense.default on the emulated CUDA device, whose tensors hold no data",
        ),
        (
            lambda: randn(3)[randn(3) > 0],
            "aten.nonzero.default on the emulated CUDA device, whose tensors hold no data",
        ),
        (lambda: torch.geqrf(randn(3, 3)), "aten.geqrf.default on the emulated CUDA device"),
        (lambda: F.ctc_loss(randn(5, 2, 3), torch.ones(2, 2), (5, 5), (2, 2)), "ctc_loss on the emulated CUDA device"),
    ],
)
def test_an_operator_that_needs_data_is_named_in_the_error(program, message):
    with pytest.raises(TargetError) as caught:
        emulated(lambda _: str(program()))
    assert caught.value.given == message
    assert caught.value.suggestion == "trace on the CPU, or on a machine with a CUDA device"


def test_an_error_in_a_hook_comes_out_of_backward_as_it_was_raised():
    def program(_):
        output = randn(3) * 2
        output.register_hook(fail)
        try:
            output.sum().backward()
        except ZeroDivisionError as error:
            frames = error.__traceback__
            while frames.tb_next is not None:
                frames = frames.tb_next
            return [str(error), frames.tb_frame.f_code.co_name]

    assert emulated(program) == ["a mistake of the user", "fail"]


def fail(grad):
    raise ZeroDivisionError("a mistake of the user")


def test_an_error_of_autograd_itself_is_not_mistaken_for_another():
    def program(_):
        loss = (randn(3) ** 2).sum()
        loss.backward()
        with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
            loss.backward()

    assert emulated(program) is None


def test_backward_runs_in_the_thread_that_called_it():
    def program(_):
        import threading

        threads = []
        leaf = randn(3)
        leaf.register_hook(lambda grad: threads.append(threading.get_ident()))
        leaf.sum().backward()
        return threads == [threading.get_ident()]

    assert emulated(program)


def test_a_checkpointed_module_runs_again_in_backward():
    def program(_):
        module = nn.Sequential(nn.Linear(3, 4), nn.Dropout())
        return arguments(backward(torch.utils.checkpoint.checkpoint(module, randn(2, 3), use_reentrant=False)))[0]

    assert emulated(program) == "NativeDropoutBackward0"


def test_a_transformer_runs_without_grad_as_well():
    def program(_):
        model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 1, enable_nested_tensor=False).eval()
        with torch.no_grad():
            return list(model(torch.randn(5, 2, 8)).shape)

    assert emulated(program) == [5, 2, 8]


def test_only_cuda_can_be_emulated():
    with pytest.raises(UsageError, match="'cuda' or 'cuda:0'"), emulate("xpu"):
        pass


def test_a_second_cuda_device_cannot_be_emulated():
    with pytest.raises(UsageError, match="device 'cuda:1'"), emulate("cuda:1"):
        pass


@needs_emulation
def test_emulation_is_available_here():
    assert explain_unavailable() is None


def test_a_torch_without_python_backends_is_told_which_version_has_them(monkeypatch):
    monkeypatch.delattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend", raising=False)
    assert "torch 2.10 or newer" in explain_unavailable()


@needs_emulation
def test_where_another_backend_has_the_place_it_is_named(monkeypatch):
    monkeypatch.setattr(torch._C, "_get_privateuse1_backend_name", lambda: "npu")
    assert "the backend 'npu' already uses the only slot" in explain_unavailable()
