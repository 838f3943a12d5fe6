"""``device="cuda"`` on a machine without CUDA: the nodes that CUDA would have, without data.

Most operators make the same autograd nodes everywhere; a few are fused on CUDA (recurrent cells and layers, attention,
batch norm, RMS norm). PyTorch takes most of these branches for any accelerator, so a backend of our own, on PyTorch's
spare device type PrivateUse1 and with FakeTensors for data, shows them on any build.

`emulate` is for a fresh interpreter, where the model is built on the device; `in_forked_child` with `move_module` and
`fake_copy` for a model that is already there.
"""

from fxgrad.observe.accelerator.backend import available, emulate
from fxgrad.observe.accelerator.caveats import NOTES, caveats
from fxgrad.observe.accelerator.device import public_name
from fxgrad.observe.accelerator.forked import can_fork, in_forked_child
from fxgrad.observe.accelerator.transfer import fake_copy, move_module

__all__ = [
    "NOTES",
    "available",
    "can_fork",
    "caveats",
    "emulate",
    "fake_copy",
    "in_forked_child",
    "move_module",
    "public_name",
]
