"""``device="cuda"`` on a machine without CUDA: the nodes that CUDA would have, without data.

Most operators make the same autograd nodes on every device; a few are fused on CUDA (recurrent cells and layers,
attention, batch norm, RMS norm). PyTorch takes most of these branches for any accelerator. So a backend of our own, on
PyTorch's spare device type PrivateUse1 and with FakeTensors for data, shows them on any build. What depends on the
values of tensors cannot be traced on it. Kernels are chosen as a build of PyTorch for NVIDIA CUDA with cuDNN chooses
them, not as one for ROCm; code that is not PyTorch's own runs as it would without a CUDA device.

``backend.emulate`` is for a process that will end: a forked child (``forked.in_forked_child``), or a new interpreter. A
TARGET builds its model there, on the device; a live model is moved there, by ``transfer.move_module`` and
``transfer.fake_copy``. Import each from its module, so that a trace without the emulated device loads ``device`` alone,
which knows its name.
"""
