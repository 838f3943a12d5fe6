"""Copies of tensors that share their memory, and recorded forwards of models that rely on it."""

from __future__ import annotations

import pytest
import torch
from module_hooks import FromFunction
from recorded_forward import recorded_forward_problems
from torch import nn

from fxgrad.observe.memory_copies import MemoryCopies, memory_key


def test_copies_of_one_memory_share_their_memory():
    whole = torch.arange(4.0)
    copies = MemoryCopies()
    part, copy = copies.copy(whole[1:3]), copies.copy(whole)
    part.add_(10)
    assert copy.tolist() == [0, 11, 12, 3]
    assert whole.tolist() == [0, 1, 2, 3]


def test_a_copy_has_the_shape_strides_and_flags_of_its_tensor():
    tensor = torch.arange(6.0).view(2, 3).t().requires_grad_()
    copy = MemoryCopies().copy(tensor)
    assert torch.equal(copy, tensor)
    assert (copy.stride(), copy.requires_grad, copy.is_leaf) == (tensor.stride(), True, True)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(2).to_sparse(),
        torch.tensor([1 + 1j]).conj(),
        torch.empty(2, device="meta"),
    ],
    ids=["sparse", "lazy conjugate", "meta"],
)
def test_what_is_more_than_a_part_of_a_memory_is_copied_by_itself(tensor):
    copy = MemoryCopies().copy(tensor)
    assert memory_key(tensor) is None
    assert copy is not tensor
    assert (copy.shape, copy.dtype, copy.layout) == (tensor.shape, tensor.dtype, tensor.layout)


def test_a_copy_that_is_made_in_inference_mode_can_be_written_to_later():
    with torch.inference_mode():
        copy = MemoryCopies().copy(torch.ones(2))
    assert not copy.is_inference()


def two_buffers(self):
    self.register_buffer("all", torch.zeros(3))
    self.register_buffer("part", self.all[:2])


def two_attributes(self):
    self.all = torch.zeros(3)
    self.part = self.all[:2]


def an_attribute_in_a_buffer(self):
    self.register_buffer("all", torch.zeros(3))
    self.part = self.all[:2]


def an_attribute_in_a_parameter(self):
    self.all = nn.Parameter(torch.zeros(3))
    self.part = self.all.data[:2]


def a_buffer_in_a_parameter(self):
    self.all = nn.Parameter(torch.zeros(3))
    self.register_buffer("part", self.all.detach()[:2])


def two_parameters(self):
    memory = torch.zeros(3)
    self.all, self.part = nn.Parameter(memory), nn.Parameter(memory[:2])


@pytest.mark.parametrize(
    "make",
    [
        two_buffers,
        two_attributes,
        an_attribute_in_a_buffer,
        an_attribute_in_a_parameter,
        a_buffer_in_a_parameter,
        two_parameters,
    ],
)
def test_what_a_rerun_writes_through_one_tensor_it_reads_through_another(make):
    def run(self):
        before = self.weight * self.all
        with torch.no_grad():
            self.part.add_(1)
        return before, self.weight * self.all.detach()

    model = FromFunction(run)
    make(model)
    assert recorded_forward_problems(model, lambda: ((), {})) == []
