"""Changes of the process around the model."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from changing_modules.making import ignored, process_change


@process_change
def random_numbers_drawn(self, x):
    random.random(), np.random.rand(), self.random.random(), self.numpy_random.random(), self.old_numpy_random.rand()
    return x + torch.rand(3) + torch.rand(3, generator=self.generator)


@process_change
def seeds_set(self, x):
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)


@process_change
def grad_mode_left_off(self, x):
    torch.set_grad_enabled(False)
    torch.set_grad_enabled(True)
    torch.autograd.set_detect_anomaly(True, check_nan=False)
    torch.autograd.set_multithreading_enabled(False)


@process_change
def defaults_set(self, x):
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_warn_always(True)


class FunctionMode(TorchFunctionMode):
    """Passes everything on."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class DispatchMode(TorchDispatchMode):
    """Passes everything on."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@process_change
def modes_entered(self, x):
    FunctionMode().__enter__()
    DispatchMode().__enter__()


@process_change
def torch_functions_disabled(self, x):
    torch._C.DisableTorchFunction().__enter__()


@process_change
def saved_tensors_hooks_entered(self, x):
    torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor).__enter__()


@process_change
def saved_tensors_hooks_disabled(self, x):
    torch._C._autograd._saved_tensors_hooks_disable("not here")


@process_change
def level_of_forward_ad_entered(self, x):
    torch.autograd.forward_ad.enter_dual_level()


@process_change
def profiler_started(self, x):
    torch.autograd.profiler.profile().__enter__()


@process_change
def numbers_shown_and_computed_otherwise(self, x):
    torch.set_printoptions(precision=1, sci_mode=True)
    torch.set_flush_denormal(True)


@process_change
def default_device_set(self, x):
    torch.set_default_device("meta")


@process_change
def backends_set(self, x):
    torch._C._set_cudnn_benchmark(True)  # torch.backends refuses once torch.testing._internal is imported
    torch._C._set_cudnn_deterministic(True)
    torch._C._set_cudnn_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    torch.backends.cuda.enable_flash_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.mha.set_fastpath_enabled(False)


@process_change
def autocast_set(self, x):
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_cache_enabled(False)
    torch.set_autocast_enabled("cpu", False)


@process_change
def global_hooks_registered(self, x):
    module_hooks.register_module_forward_hook(ignored)
    module_hooks.register_module_full_backward_hook(ignored)
    module_hooks.register_module_buffer_registration_hook(ignored)
