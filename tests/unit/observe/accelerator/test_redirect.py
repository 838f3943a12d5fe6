"""Code that says ``cuda`` on the emulated device, as the files of users do."""

import copy

import pytest
import torch
from torch import nn

from fxgrad.errors import TargetError
from fxgrad.observe.accelerator.device import public_name
from tests.support.emulation import arguments, emulated
from tests.support.needs import needs_emulation

FUSED = "ThnnFusedLstmCellBackward0"


def fused_cell(module, input):
    return arguments(module(input)[0])[0]


def built_on_the_device():
    return nn.LSTMCell(3, 4, device="cuda"), torch.randn(2, 3, device="cuda:0")


def moved_by_name():
    return nn.LSTMCell(3, 4, device="cpu").to("cuda"), torch.randn(2, 3, device="cpu").to("cuda")


def moved_by_device():
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return nn.LSTMCell(3, 4, device="cpu").to(device=device), torch.randn(2, 3, device="cpu").to(device)


def moved_by_method():
    return nn.LSTMCell(3, 4, device="cpu").cuda(), torch.randn(2, 3, device="cpu").cuda()


def moved_by_index():
    return nn.LSTMCell(3, 4, device="cpu").cuda(0), torch.randn(2, 3, device="cpu").to(0)


def made_in_a_device_context():
    with torch.device("cuda"):
        return nn.LSTMCell(3, 4), torch.randn(2, 3)


def made_by_default():
    return nn.LSTMCell(3, 4), torch.randn(2, 3)


def made_where_another_tensor_is():
    input = torch.randn(2, 3, device="cuda")
    return nn.LSTMCell(3, 4, device=input.device), torch.zeros_like(input, device=input.device)


def copied():
    return copy.deepcopy(nn.LSTMCell(3, 4)), torch.randn(2, 3)


def half_there_and_back():
    return nn.LSTMCell(3, 4).cpu().half().float().to("cuda", non_blocking=True), torch.randn(2, 3).cpu().cuda()


@pytest.mark.parametrize(
    "program",
    [
        built_on_the_device,
        moved_by_name,
        moved_by_device,
        moved_by_method,
        moved_by_index,
        made_in_a_device_context,
        made_by_default,
        made_where_another_tensor_is,
        copied,
        half_there_and_back,
    ],
)
def test_whatever_says_cuda_gets_the_fused_cell(program):
    assert emulated(lambda _: fused_cell(*program())) == FUSED


def test_what_says_cpu_stays_on_the_cpu():
    def program(_):
        with torch.device("cpu"):
            return fused_cell(nn.LSTMCell(3, 4), torch.randn(2, 3))

    assert emulated(program) == "MulBackward0"


def test_moving_a_module_keeps_the_identity_of_its_parameters():
    def program(_):
        module = nn.Linear(3, 4, device="cpu")
        weight = module.weight
        return module.to("cuda").weight is weight and isinstance(weight, nn.Parameter)

    assert emulated(program)


def test_code_of_the_user_sees_tensors_on_cuda():
    def program(_):
        tensor = torch.randn(3)
        return [str(tensor.device), tensor.device.type, tensor.is_cuda, tensor.cpu().is_cuda, tensor.get_device()]

    assert emulated(program) == ["cuda:0", "cuda", True, False, 0]


def test_torch_cuda_says_that_there_is_one_device():
    def program(_):
        torch.cuda.set_device(0)
        torch.cuda.synchronize()
        torch.cuda.manual_seed_all(0)
        with torch.cuda.device(0):
            return [torch.cuda.is_available(), torch.cuda.device_count(), torch.cuda.current_device()]

    assert emulated(program) == [True, 1, 0]


def test_random_state_can_be_forked():
    def program(_):
        with torch.random.fork_rng():
            return list(torch.randn(3).shape)

    assert emulated(program) == [3]


@pytest.mark.parametrize(
    "program",
    [
        lambda: torch.zeros(3, device="cuda:1"),
        lambda: torch.zeros(3).cuda(1),
        lambda: torch.cuda.set_device(1),
        lambda: nn.Linear(3, 4, device="cpu").to(torch.device("cuda", 1)),
    ],
)
def test_a_second_device_is_refused(program):
    with pytest.raises(TargetError) as caught:
        emulated(lambda _: str(program()))
    assert str(caught.value) == (
        "the target uses cuda:1\n  allowed: one CUDA device: cuda:0\n  try: trace it on a machine that has several"
    )


def test_what_only_a_gpu_can_answer_is_refused():
    with pytest.raises(TargetError, match=r"the target calls torch\.cuda\.get_device_properties"):
        emulated(lambda _: torch.cuda.get_device_capability())


def test_everything_is_as_before_afterwards():
    def program(_):
        return [torch.cuda.is_available(), torch.utils.swap_tensors.__module__]

    available, swap = torch.cuda.is_available(), torch.utils.swap_tensors
    inside = emulated(program)
    assert inside[0] is True
    assert (torch.cuda.is_available(), torch.utils.swap_tensors) == (available, swap)


@needs_emulation
def test_leaving_the_emulation_undoes_what_can_be_undone():
    from fxgrad.observe.accelerator.backend import emulate
    from fxgrad.observe.accelerator.forked import in_forked_child

    def work():
        before = torch.cuda.is_available(), torch._C._get_mem_efficient_sdp_enabled(), torch.is_autocast_enabled
        with emulate("cuda"):
            pass
        after = torch.cuda.is_available(), torch._C._get_mem_efficient_sdp_enabled(), torch.is_autocast_enabled
        with emulate("cuda"):
            again = arguments(nn.LSTMCell(3, 4)(torch.randn(2, 3))[0])[0]
        return f"{before == after} {torch.zeros(1).device} {again}"

    assert in_forked_child(work) == f"True cpu {FUSED}"


def test_the_emulated_device_is_shown_as_cuda():
    assert emulated(lambda device: [str(device), public_name(device)]) == ["fakecuda:0", "cuda:0"]


def test_a_function_mode_inside_sees_the_calls_of_the_user_and_no_others():
    from torch.overrides import TorchFunctionMode

    class Recorder(TorchFunctionMode):
        def __init__(self):
            self.calls = []

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.calls.append(torch.overrides.resolve_name(func))
            return func(*args, **(kwargs or {}))

    def program(_):
        query = torch.randn(2, 4, 5, 8, requires_grad=True)
        with Recorder() as recorder:
            output = torch.nn.functional.scaled_dot_product_attention(query, query, query)
            output[:, :, ::2].reshape(2, 96).sum().backward()
        return recorder.calls

    assert emulated(program) == [
        "torch.nn.functional.scaled_dot_product_attention",
        "torch.Tensor.__getitem__",
        "torch.Tensor.reshape",
        "torch.Tensor.sum",
        "torch.Tensor.backward",
    ]


def autocast_nodes(program, **options):
    def run(_):
        with torch.autocast("cuda", **options):
            output = program()
        output.sum().backward()
        return [str(output.dtype), *arguments(output)]

    return emulated(run)


def test_autocast_casts_the_arguments_of_a_linear_layer():
    cast = ["ToCopyBackward0", "ToCopyBackward0", "TBackward0"]
    assert autocast_nodes(lambda: nn.Linear(3, 4)(torch.randn(2, 3, requires_grad=True))) == [
        "torch.float16",
        "AddmmBackward0",
        *cast,
    ]


def test_autocast_in_bfloat16_runs_softmax_in_float32():
    program = autocast_nodes(lambda: torch.softmax(nn.Linear(3, 4)(torch.randn(2, 3)), -1), dtype=torch.bfloat16)
    assert program == ["torch.float32", "SoftmaxBackward0", "ToCopyBackward0"]


def test_autocast_shares_the_cast_of_a_weight_between_its_uses():
    def program(_):
        module = nn.Linear(3, 3)
        with torch.autocast("cuda"):
            inner = module(torch.randn(2, 3))
            outer = module(inner)
        casts = [tensor.grad_fn.next_functions[0][0] for tensor in (inner, outer)]
        return casts[0] is casts[1] and casts[0].name()

    assert emulated(program) == "ToCopyBackward0"


def test_autocast_that_is_not_enabled_casts_nothing():
    assert autocast_nodes(lambda: nn.Linear(3, 4)(torch.randn(2, 3)), enabled=False)[0] == "torch.float32"


def test_a_recurrent_layer_under_autocast_is_refused():
    with pytest.raises(TargetError, match="a recurrent layer under autocast on the emulated CUDA device"):
        autocast_nodes(lambda: nn.LSTM(3, 4)(torch.randn(5, 2, 3))[0])


def test_autocast_without_the_headers_of_pytorch_is_refused(monkeypatch):
    from fxgrad.observe.accelerator import autocast

    autocast.read_policies.cache_clear()
    monkeypatch.setattr(autocast, "HEADER", "include/no/such/header.h")
    with pytest.raises(TargetError, match="a PyTorch with its headers"):
        autocast_nodes(lambda: nn.Linear(3, 4)(torch.randn(2, 3)))
    autocast.read_policies.cache_clear()


def test_weights_may_be_drawn_from_a_truncated_normal_distribution():
    def program(device):
        weight = torch.nn.init.trunc_normal_(torch.nn.Parameter(torch.empty(3, 4, device=device)), std=0.02)
        return list(weight.shape)

    assert emulated(program) == [3, 4]
