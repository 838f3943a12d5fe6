"""Programs for two processes with gloo: what fxgrad says on each rank, and what a training step does afterwards.

``python -m tests.support.two_ranks FOLDER RANK`` runs all of them and writes what came out to ``FOLDER/RANK.json``. The
process ends with the one that started it, which holds its standard input open.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import fxgrad
from fxgrad.errors import FxgradError
from fxgrad.graph import BackwardGraph, Hook
from fxgrad.observe.hooks.registrations import RegistrationWatch
from fxgrad.observe.run import observe_forward
from fxgrad.observe.sharding import find_sharded_parameters
from fxgrad.predict import predict
from fxgrad.rules import explain

Fired = list[str]


class Net(nn.Module):
    """Two layers, the second one called twice. ``fails`` says where forward raises."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.unused = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.fails = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.second(self.first(x).relu())
        if self.fails:
            raise ValueError("as asked for")
        return self.second(hidden)


def make_input() -> torch.Tensor:
    return torch.arange(24.0).view(3, 8).sin() + dist.get_rank()


def make_mesh(*sizes: int) -> DeviceMesh:
    names = ("replicated", "sharded")[: len(sizes)]
    return init_device_mesh("cpu", sizes or (dist.get_world_size(),), mesh_dim_names=names or None)


def shard(model: Any, *, mesh: DeviceMesh | None = None, **options: Any) -> Any:
    for module in (model.first, model.second, model):
        fully_shard(module, mesh=mesh or make_mesh(), **options)
    return model


def note(fired: Fired, name: str) -> Callable[..., None]:
    return lambda *_: fired.append(name)


def make_hooked() -> tuple[Net, Fired]:
    fired: Fired = []
    model = Net()
    model.first.weight.register_hook(note(fired, "from before"))
    model.first.register_full_backward_hook(note(fired, "module"))
    shard(model)
    model.first.weight.register_hook(note(fired, "tensor"))
    for name in ("first.weight", "second.weight", "unused.weight"):
        model.get_parameter(name).register_post_accumulate_grad_hook(note(fired, name))
    return model, fired


def describe(graph: BackwardGraph) -> dict[str, Any]:
    return {
        "fires": {_name(site.hook): site.fires for site in graph.sites if "_pre_backward" not in site.hook.function},
        "leaves": sorted(node.variable for node in graph.nodes if node.variable is not None),
        "lost": sorted(each.owner or "" for each in explain(graph) if each.code in ("FXG201", "FXG204")),
        "FXG304": sorted(_name(each.site.hook) for each in explain(graph) if each.code == "FXG304" and each.site),
    }


def _name(hook: Hook) -> str:
    where = " before" if hook.sharding is not None and hook.sharding.is_replaced else ""
    return f"{hook.kind.short_name} {hook.owner}{where}"


def step(model: nn.Module) -> list[list[float]]:
    """One training step: the gradients of this rank, and the parameters that it leaves."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(make_input()).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    optimizer.step()
    optimizer.zero_grad()
    tensors = [each for each in (*gradients, *model.parameters()) if each is not None]
    return [getattr(each, "_local_tensor", each).flatten().tolist() for each in tensors]


# The programs


def says_the_same_in_every_way() -> dict[str, Any]:
    model, fired = make_hooked()
    traced = describe(fxgrad.trace(model, (make_input(),)).graph)
    verification = fxgrad.verify(model, (make_input(),))
    fired.clear()
    with fxgrad.record(model) as recording:
        loss = model(make_input()).sum()
    recorded = describe(recording.trace(loss).graph)
    captured = describe(fxgrad.capture(loss, model).graph)
    loss.backward()
    return {"traced": traced, "recorded": recorded, "captured": captured, "fired": fired, "verify": str(verification)}


def sees_what_was_registered_before() -> Any:
    watch = RegistrationWatch()
    with watch.watching():
        model, _ = make_hooked()
    return describe(predict(observe_forward(model, (make_input(),), {}, watch=watch).graph))["FXG304"]


def without_reduction() -> dict[str, Any]:
    """The first backward leaves its gradient for the second one to reduce."""
    model, fired = make_hooked()
    model.set_requires_gradient_sync(False)
    unsynced = fxgrad.verify(model, (make_input(),))
    said = [site.reason for site in unsynced.graph.sites if site.hook.owner == "second.weight"]
    fired.clear()
    model(make_input()).sum().backward()
    first = list(fired)
    model.set_requires_gradient_sync(True)
    synced = fxgrad.verify(model, (make_input(),))
    fired.clear()
    model(make_input()).sum().backward()
    return {"unsynced": str(unsynced), "said": said, "first": first, "synced": str(synced), "second": fired}


def steps_of(make: Callable[[Net], nn.Module], look: Callable[[Any], object], *, steps_before: int = 0) -> bool:
    """Whether two training steps are the same after `look` as without it."""
    looked, plain = make(Net()), make(Net())
    for _ in range(steps_before):
        step(looked), step(plain)
    look(looked)
    return [step(looked) for _ in range(2)] == [step(plain) for _ in range(2)]


def look_all_over(model: nn.Module) -> None:
    fxgrad.trace(model, (make_input(),))
    fxgrad.verify(model, (make_input(),))


def look_at_a_part(model: Net) -> None:
    fxgrad.trace(model.first, (make_input(),))
    fxgrad.verify(model.second, (make_input(),))


def look_at_what_raises(model: nn.Module) -> None:
    inner = getattr(model, "module", model)
    inner.fails = True
    with expect_error():
        fxgrad.trace(model, (make_input(),))
    inner.fails = False
    handle = inner.first.register_full_backward_hook(raise_in_backward)
    with expect_error():
        fxgrad.verify(model, (make_input(),))
    handle.remove()


def raise_in_backward(*_: object) -> None:
    raise ValueError("as asked for")


@contextmanager
def expect_error() -> Any:
    try:
        yield
    except FxgradError:
        return
    raise AssertionError("no error")


def look_with_a_graph_alive() -> bool:
    """A forward, a look, and the backward of that forward."""
    found = []
    for looks in (True, False):
        model = shard(Net())
        loss = model(make_input()).sum()
        if looks:
            look_all_over(model)
        loss.backward()
        found.append(
            [parameter.grad.to_local().tolist() for parameter in model.parameters() if parameter.grad is not None]
        )
    return found[0] == found[1]


def replicate(model: Net) -> nn.Module:
    del model.unused
    return DistributedDataParallel(model)


def describes_ddp() -> dict[str, Any]:
    fired: Fired = []
    model = Net()
    del model.unused
    model.first.register_full_backward_hook(note(fired, "module"))
    model.first.weight.register_post_accumulate_grad_hook(note(fired, "first.weight"))
    replica = DistributedDataParallel(model)
    traced = describe(fxgrad.trace(replica, (make_input(),)).graph)
    verification = fxgrad.verify(replica, (make_input(),))
    fired.clear()
    with fxgrad.record(replica) as recording:
        loss = replica(make_input()).sum()
    recorded = describe(recording.trace(loss).graph)
    captured = describe(fxgrad.capture(loss, replica).graph)
    loss.backward()
    return {"traced": traced, "recorded": recorded, "captured": captured, "fired": fired, "verify": str(verification)}


# Variations


class Tied(nn.Module):
    """One parameter in two modules."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


class Checkpointed(nn.Module):
    """A layer in a checkpoint."""

    def __init__(self, *, use_reentrant: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.use_reentrant = use_reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self.second, self.first(x), use_reentrant=self.use_reentrant)


def verify_variations() -> dict[str, str]:
    """What `verify` says where every parameter has both hooks."""
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    models: dict[str, nn.Module] = {
        "tied": fully_shard(Tied(), mesh=make_mesh()),
        "mixed precision": shard(Net(), mp_policy=precision),
        "two meshes": shard(Net(), mesh=make_mesh(2, 1)),
        "no all-reduce": shard(Net(), mesh=make_mesh(2, 1)),
        "checkpoint": shard(Checkpointed(use_reentrant=False)),
        "reentrant checkpoint": shard(Checkpointed(use_reentrant=True)),
        "frozen": shard(freeze(Net())),
        "inner": Net(),
        "penalty": shard(Net()),
    }
    models["no all-reduce"].set_requires_all_reduce(requires_all_reduce=False)
    fully_shard(models["inner"].second, mesh=make_mesh())
    return {name: str(verify_hooked(model, penalized=name == "penalty")) for name, model in models.items()}


def freeze(model: Net) -> Net:
    model.first.weight.requires_grad_(requires_grad=False)
    return model


def verify_hooked(model: nn.Module, *, penalized: bool) -> fxgrad.Verification:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda _: None)
            parameter.register_post_accumulate_grad_hook(lambda _: None)

    def penalize(output: torch.Tensor) -> torch.Tensor:
        return output.sum() + sum(each.to_local().square().sum() for each in model.first.parameters())

    return fxgrad.verify(model, (make_input(),), loss=penalize if penalized else None)


def run_all() -> dict[str, Any]:
    return {
        "numbers originals": find_sharded_parameters([shard(Net())])[0].original is not None,
        "verified": verify_variations(),
        "fsdp": says_the_same_in_every_way(),
        "before": sees_what_was_registered_before(),
        "sync": without_reduction(),
        "fsdp, looked at": steps_of(shard, look_all_over),
        "fsdp, looked at later": steps_of(shard, look_all_over, steps_before=1),
        "fsdp, parts looked at": steps_of(shard, look_at_a_part),
        "fsdp, kept gathered": steps_of(lambda model: shard(model, reshard_after_forward=False), look_all_over),
        "fsdp, raises": steps_of(shard, look_at_what_raises),
        "fsdp, raises later": steps_of(shard, look_at_what_raises, steps_before=1),
        "fsdp, graph alive": look_with_a_graph_alive(),
        "ddp": describes_ddp(),
        "ddp, looked at": steps_of(replicate, look_all_over),
        "ddp, looked at later": steps_of(replicate, look_all_over, steps_before=1),
        "ddp, raises": steps_of(replicate, look_at_what_raises, steps_before=1),
    }


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=240))
    found = run_all()
    dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
