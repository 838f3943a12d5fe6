"""FXG201 and FXG204: which parameters get no gradient; held against what a real backward leaves in .grad."""

import textwrap

import pytest
import torch
from lost_programs import LOSSES, found, told_names, without_grad

from tests.support.targets import python


@pytest.mark.parametrize("forward", LOSSES)
def test_the_parameters_named_are_exactly_those_that_backward_leaves_without_a_gradient(forward):
    assert told_names(found(forward, "FXG201", "FXG204")) == without_grad(forward) != set()


def in_the_graph(model, x):
    buffer = torch.zeros(2, 3)
    buffer[0] = model.b(x)[0]
    return model.a(x) + buffer + model.c(x)


def detached_and_used(model, x):
    hidden = model.b(x)
    return model.a(x) * hidden.detach().sum().item() + hidden + model.c(x)


def watched(model, x):
    with torch.no_grad():
        print(end=f"{model.b(x).mean().item()}"[:0])
    return model.a(x) + model.b(x) + model.c(x)


@pytest.mark.parametrize("forward", [in_the_graph, detached_and_used, watched])
def test_a_parameter_that_gets_a_gradient_by_one_way_is_no_finding(forward):
    assert without_grad(forward) == set()
    assert found(forward, "FXG201", "FXG204") == []


def test_a_parameter_that_only_an_output_beside_the_loss_depends_on_is_told():
    def forward(model, x):
        return model.a(x) + model.c(x), model.b(x)

    (told,) = found(forward, "FXG201", loss=lambda result: result[0].sum())
    assert told_names([told]) == without_grad(forward, lambda result: result[0]) == {"b.weight", "b.bias"}
    assert told.because == (
        "Something that forward returns depends on them, but gets no gradient from what backward starts from: the result "
        "of the loss function <lambda>. Backward leaves .grad as it is: None at first. "
        "(torch/csrc/autograd/functions/utils.h, compute_requires_grad)"
    )


def test_an_output_that_the_loss_detaches_is_told_likewise():
    def forward(model, x):
        return model.a(x) + model.c(x), model.b(x)

    (told,) = found(forward, "FXG201", loss=lambda result: result[0].sum() * result[1].detach().sum())
    assert (
        told.headline
        == "no gradient reaches `b.weight` and `b.bias`: no gradient comes to the output that depends on it"
    )


def test_distributed_data_parallel_raises_where_a_parameter_is_not_used_as_the_page_says():
    program = """
    import os, tempfile, torch
    from torch import nn
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 1), nn.Linear(3, 1)
        def forward(self, x):
            return self.one(x)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tempfile.mktemp()}", rank=0, world_size=1)
    models = []
    for unused in (False, True):
        model = nn.parallel.DistributedDataParallel(Heads(), find_unused_parameters=unused)
        models.append(model)
        try:
            for _ in range(2):
                model(torch.ones(4, 3)).sum().backward()
            print("fine", flush=True)
        except RuntimeError as error:
            print(str(error)[:53], flush=True)
    os._exit(0)  # the end of a model's process group waits for a thread, and that thread, now and then, for the GIL
    """
    done = python("-W", "ignore", "-c", textwrap.dedent(program))
    lines = [line for line in done.stdout.splitlines() if not line.startswith("[Gloo]")]
    assert lines == ["Expected to have finished reduction in the prior iter", "fine"], done.stderr
