"""Whatever forward changes, a trace puts back: a full picture of model, input and process is the same before and after.

`changing_modules` has the changes, one by one; `snapshots` takes the pictures.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from changing_modules import CHANGES, Changing, DispatchMode, FunctionMode, Stop, ignored
from snapshots import SETTINGS, differences, taken
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import _push_mode

import fxgrad
from fxgrad.observe.state import preserved

ALL = sorted(CHANGES)


@pytest.fixture(autouse=True)
def same_settings() -> Iterator[None]:
    """What a failing test leaves behind is no other test's affair."""
    before = {name: ask() for name, ask in SETTINGS.items()}
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)
    assert {name: ask() for name, ask in SETTINGS.items()} == before


def changed_by(run: Callable[[], Any], *things: Any) -> list[str]:
    before = taken(*things)
    run()
    return differences(before, taken(*things))


@pytest.mark.parametrize("change", ALL)
def test_what_forward_changes_is_as_before_a_trace(change: str) -> None:
    model, x = Changing([change]), torch.randn(4, 3)
    assert changed_by(lambda: fxgrad.trace(model, x), model, x) == []


@pytest.mark.parametrize("change", ALL)
def test_what_forward_changes_is_as_before_a_real_backward(change: str) -> None:
    model, x = Changing([change]), torch.randn(4, 3)
    assert changed_by(lambda: fxgrad.verify(model, x), model, x) == []


@pytest.mark.parametrize("change", ALL)
def test_what_forward_changes_is_as_before_when_it_raises(change: str) -> None:
    model, x = Changing([change, Stop()]), torch.randn(4, 3)

    def run() -> None:
        with pytest.raises(fxgrad.TargetError, match="forward raised Stop"):
            fxgrad.trace(model, x)

    assert changed_by(run, model, x) == []


@pytest.mark.parametrize("verb", [fxgrad.trace, fxgrad.verify])
def test_what_forward_changes_is_as_before_when_it_is_interrupted(verb: Callable[..., Any]) -> None:
    model = Changing(["batch_norm", "list_appended", "seeds_set", "hooks_registered", KeyboardInterrupt()])
    x = torch.randn(4, 3)

    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            verb(model, x)

    assert changed_by(run, model, x) == []


@pytest.mark.parametrize("change", ALL)
def test_each_change_shows_in_the_picture(change: str) -> None:
    """Else the tests above could not fail."""
    model, x = Changing([change]), torch.randn(4, 3)
    before = taken(model, x)
    with preserved(model, x):
        model(x)
        assert differences(before, taken(model, x))


# Modules of other makes


class Careful(nn.Module):
    """Has attribute access of its own, is equal to everything and has no hash."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.kept: list[torch.Tensor] = []
        self.sealed = True

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return f"no {name}"

    def __setattr__(self, name: str, value: Any) -> None:
        if vars(self).get("sealed") and name != "seen":
            raise TypeError("sealed")
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        raise TypeError("not to be compared")

    __hash__ = None  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        self.kept.append(x)
        object.__setattr__(self, "__class__", Careless)
        return self.norm(x)


class Careless(nn.Module):
    """What a Careful module becomes."""


class WithoutDict(nn.Module):
    """Forward throws its whole ``__dict__`` away."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.linear(x)
        vars(self).clear()
        nn.Module.__init__(self)
        return result


def csr_buffer() -> nn.Module:
    module = nn.Linear(3, 3)
    module.register_buffer("table", torch.eye(3).to_sparse_csr())
    module.register_forward_pre_hook(lambda module, args: ignored(module.table.values().mul_(2)))
    return module


def hidden_in_attributes() -> nn.Module:
    """Its layer is in a dict in a tuple, where named_modules does not look."""
    module = nn.Linear(3, 3)
    module.layers = ({"norm": nn.BatchNorm1d(3)},)
    module.register_forward_hook(lambda module, args, result: module.layers[0]["norm"](result))
    return module


MODELS: dict[str, Callable[[], nn.Module]] = {
    "attribute access of its own": Careful,
    "a __dict__ that is cleared": WithoutDict,
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    "spectral_norm, as it was": lambda: nn.utils.spectral_norm(nn.Linear(3, 3)),
    "a cached parametrization": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)),
    "a scripted module": lambda: nn.Sequential(nn.Linear(3, 3), torch.jit.script(nn.BatchNorm1d(3))),
    "a compressed sparse buffer": csr_buffer,
    "a module in a dict in a tuple": hidden_in_attributes,
    "BatchNorm twice": lambda: nn.Sequential(*[nn.BatchNorm1d(3)] * 2),
    "dropout": nn.Dropout,
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("verb", [fxgrad.trace, fxgrad.verify])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_model_is_as_before(make: Callable[[], nn.Module], verb: Callable[..., Any]) -> None:
    model, x = make(), torch.randn(4, 3, requires_grad=True)
    with parametrize.cached():
        assert changed_by(lambda: verb(model, x), model, x) == []


# Arguments


class AppendsToArguments(nn.Module):
    def forward(self, x: torch.Tensor, seen: list[Any], *, norm: nn.Module) -> torch.Tensor:
        seen.append(x)
        return norm(x)


def test_containers_and_modules_among_the_arguments_are_as_before() -> None:
    model, x, seen, norm = AppendsToArguments(), torch.randn(4, 3), [1], nn.BatchNorm1d(3)
    run = lambda: fxgrad.trace(model, (x, seen), {"norm": norm})  # noqa: E731
    assert changed_by(run, model, x, seen, norm) == []


# What is not put back, as the README says


class Counter:
    """An object of the user's."""

    count = 0


class Counting(nn.Module):
    """Counts its calls where a trace does not look."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.counter = Counter()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.counter.count += 1
        type(self).calls += 1
        return self.linear(x)


def test_objects_of_other_classes_and_classes_keep_what_forward_did() -> None:
    model = Counting()
    fxgrad.trace(model, torch.randn(4, 3))
    assert (model.counter.count, Counting.calls) == (1, 1)


class InPlace(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(torch.full((3,), 2.0, requires_grad=True))


def test_leaf_that_is_changed_in_place_is_as_before() -> None:
    x = torch.ones(3)
    assert changed_by(lambda: fxgrad.trace(InPlace(), x), x) == []


def test_input_with_a_history_keeps_the_one_that_an_in_place_operation_gave_it() -> None:
    x = torch.ones(3, requires_grad=True) * 3
    fxgrad.trace(InPlace(), x)
    assert x.tolist() == [3, 3, 3]
    assert (x._version, x.grad_fn.name()) == (0, "MulBackward0")
    assert x.grad_fn.next_functions[0][0].name() == "MulBackward0"


def test_input_that_forward_tells_to_retain_its_gradient_retains_it() -> None:
    class Retaining(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.retain_grad()
            return x * 2

    x = torch.ones(3, requires_grad=True) * 3
    fxgrad.trace(Retaining(), x)
    assert x.retains_grad


def test_seed_that_another_thread_sets_meanwhile_is_undone() -> None:
    class Seeding(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            thread = threading.Thread(target=torch.manual_seed, args=(3,))
            thread.start()
            thread.join()
            return x * 2

    before = torch.get_rng_state()
    fxgrad.trace(Seeding(), torch.ones(3, requires_grad=True))
    assert torch.equal(torch.get_rng_state(), before)


# What is around the call


def test_numpy_with_another_generator_is_as_before() -> None:
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        model, x = Changing(["random_numbers_drawn"]), torch.randn(4, 3)
        state = repr(np.random.get_state(legacy=False))
        fxgrad.trace(model, x)
        assert repr(np.random.get_state(legacy=False)) == state
    finally:
        np.random.set_bit_generator(before)


def test_precision_that_was_set_in_two_ways_is_left_alone() -> None:
    """PyTorch refuses to read it then."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError, match="mix"):
            torch.get_float32_matmul_precision()
        fxgrad.trace(nn.Linear(3, 3), torch.randn(4, 3))
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


class Doubling(nn.Module):
    """Its forward changes a weight, then uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.linear.weight.mul_(2)
        return self.linear(x)


def test_region_of_autocast_does_not_keep_casts_of_the_traced_run() -> None:
    """PyTorch keeps one cast of each weight until the region ends: that of the weight as the traced forward made it."""
    model, x = Doubling(), torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model.linear(x)
    with torch.autocast("cpu", torch.bfloat16):
        fxgrad.trace(model, x)
        assert torch.equal(model.linear(x), expected)


def test_sparse_gradients_are_as_before_a_real_backward() -> None:
    model, tokens = nn.Embedding(5, 3, sparse=True), torch.tensor([0, 1, 1])
    model(tokens).sum().backward()
    assert changed_by(lambda: fxgrad.verify(model, tokens), model, tokens) == []


def test_gradients_are_as_before_when_a_hook_raises_in_backward() -> None:
    model, x = Changing(["batch_norm"], nn.Linear(3, 3)), torch.randn(4, 3)
    model.inner[0].register_full_backward_hook(raising)

    def run() -> None:
        with pytest.raises(fxgrad.TargetError):
            fxgrad.verify(model, x)

    assert changed_by(run, model, x) == []


def raising(*arguments: Any) -> None:
    raise ValueError("no gradient today")


def test_gradients_are_as_before_when_backward_is_interrupted() -> None:
    model, x = Changing(["batch_norm"], nn.Linear(3, 3)), torch.randn(4, 3)
    model.scale.register_hook(interrupting)

    def run() -> None:
        with pytest.raises(KeyboardInterrupt):
            fxgrad.verify(model, x)

    assert changed_by(run, model, x) == []


def interrupting(grad: torch.Tensor) -> None:
    raise KeyboardInterrupt


def test_hooks_that_remove_themselves_in_backward_are_as_before() -> None:
    model, x = nn.Linear(3, 3), torch.randn(4, 3)
    handles = [model.weight.register_hook(lambda grad: handles[0].remove())]
    handles.append(model.bias.register_post_accumulate_grad_hook(lambda tensor: handles[1].remove()))
    handles.append(model.register_full_backward_hook(lambda module, gi, go: handles[2].remove()))
    assert changed_by(lambda: fxgrad.verify(model, x), model, x) == []


def test_recording_leaves_what_the_program_itself_leaves() -> None:
    """`record` puts nothing back: the program's changes are the user's."""
    changes = ["batch_norm", "list_appended", "hooks_registered", "values_written", "random_numbers_drawn"]
    pictures = []
    for recorded in (False, True):
        torch.manual_seed(0)
        model, x = Changing(changes), torch.randn(4, 3)
        plain = {name: table.copy() for name, table in tables_of(model).items()}
        if recorded:
            with fxgrad.record(model) as recording:
                loss = model(x).sum()
            recording.trace(loss)
        else:
            model(x).sum()
        values = [tensor.tolist() for tensor in model.state_dict().values() if not tensor.is_sparse]
        hooks = {name: len(table) - len(plain[name]) for name, table in tables_of(model).items()}
        pictures.append((values, hooks, len(model.kept), torch.get_rng_state().tolist()))
    assert pictures[0] == pictures[1]


def tables_of(model: nn.Module) -> dict[str, Any]:
    named = [(path, name, value) for path, module in model.named_modules() for name, value in vars(module).items()]
    return {f"{path}.{name}": value for path, name, value in named if "hooks" in name and hasattr(value, "copy")}


def test_recording_alone_changes_nothing() -> None:
    model, x = Changing(), torch.randn(4, 3)
    model.register_forward_pre_hook(ignored)

    def run() -> None:
        with fxgrad.record(model) as recording:
            loss = (model.linear(x) * 2).sum()
        recording.trace(loss)

    assert changed_by(run, model, x) == []


def test_mode_that_is_entered_inside_a_recording_stays_when_it_is_over() -> None:
    model, mode = nn.Linear(3, 3), FunctionMode()
    with fxgrad.record(model) as recording:
        mode.__enter__()
        loss = model(torch.randn(4, 3)).sum()
    assert torch.overrides._get_current_function_mode() is mode
    mode.__exit__(None, None, None)
    assert torch.overrides._get_current_function_mode() is None
    assert len(recording.trace(loss).calls) == 1


@pytest.mark.parametrize(
    "enter",
    [lambda: DispatchMode().__enter__(), lambda: _push_mode(DispatchMode())],
    ids=["entered", "only pushed"],
)
def test_mode_of_the_user_stays_entered_where_forward_enters_another(enter: Callable[[], object]) -> None:
    class Model(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result = super().forward(x)
            enter()
            return result

    with DispatchMode() as mode:
        fxgrad.trace(Model(3, 3), torch.randn(4, 3))
        assert [torch._C._get_dispatch_stack_at(place) for place in range(torch._C._len_torch_dispatch_stack())] == [
            mode
        ]
    assert torch._C._len_torch_dispatch_stack() == 0


def test_recording_that_raises_changes_nothing() -> None:
    model, x = Changing(), torch.randn(4, 3)

    def run() -> None:
        with pytest.raises(fxgrad.TargetError), fxgrad.record(model) as recording:
            recording.trace(model.linear(x).detach())

    assert changed_by(run, model, x) == []


@pytest.mark.parametrize("node_hooks", [False, True])
def test_capture_changes_nothing(node_hooks: bool) -> None:
    model, x = Changing(), torch.randn(4, 3)
    loss = model(x).sum()
    assert changed_by(lambda: fxgrad.capture(loss, model, node_hooks=node_hooks), model, x, loss) == []
    gc.collect()
    loss.backward()
    assert model.scale.grad.shape == (3,)
