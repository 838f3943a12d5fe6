"""Hooks that a compiled program passes by, as it was compiled before they were registered."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_full_backward_hook

import fxgrad
from fxgrad.graph import HookSite
from fxgrad.observe.hooks.registrations import RegistrationWatch
from fxgrad.observe.record.frames import name_code
from fxgrad.observe.run import observe_forward
from fxgrad.predict import predict

pytestmark = pytest.mark.filterwarnings("ignore")  # Dynamo breaks graphs at hooks


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).relu()


class Disabled(Outer):
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).relu()


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x * 2)


class Calling(nn.Module):
    """Calls a compiled function, which calls a module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.run = torch.compile(self.call, backend="eager")

    def call(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).relu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x) + x


@pytest.fixture(autouse=True)
def dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def tensor() -> torch.Tensor:
    return torch.ones(2, 3, requires_grad=True)


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def by_a_wrapper(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


class Program:
    """A program that is watched: which hooks it registers when, and what its compiled backward calls."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.watch = RegistrationWatch()
        self.fired: list[str] = []

    def hook(self, register: Callable[[Any], Any]) -> None:
        with self.watch.watching():
            register(lambda *given: self.fired.append("hook"))

    def run(self) -> int:
        self.fired.clear()
        self.model(tensor()).sum().backward()
        return len(self.fired)

    def sites(self) -> list[HookSite]:
        traced = observe_forward(self.model, (tensor(),), {}, watch=self.watch.copy())
        return [site for site in predict(traced.graph).sites if site.hook.function.endswith("<lambda>")]


@pytest.mark.parametrize("compile_model", [in_place, by_a_wrapper])
def test_a_hook_registered_after_the_first_call_is_not_said_to_fire(compile_model: Callable[..., Any]) -> None:
    model = Outer()
    program = Program(compile_model(model))
    program.run()
    program.hook(model.layer.register_full_backward_hook)
    (site,) = program.sites()
    assert (site.fires, site.times) == (None, None)
    assert site.reason == (
        f"torch.compile compiled {name_code(Outer.forward.__code__)} before the hook was registered: what it made then "
        "passes the hook by, and only code that it compiles anew calls it"
    )
    assert program.run() == 0


@pytest.mark.parametrize("compile_model", [in_place, by_a_wrapper])
def test_a_hook_registered_before_the_first_call_fires_also_after_it(compile_model: Callable[..., Any]) -> None:
    model = Outer()
    program = Program(compile_model(model))
    program.hook(model.layer.register_full_backward_hook)
    assert [site.fires for site in program.sites()] == [True]
    assert program.run() == 1
    assert [site.fires for site in program.sites()] == [True]
    assert program.run() == 1


def test_a_hook_fires_once_dynamo_was_reset_after_its_registration() -> None:
    model = Outer()
    program = Program(by_a_wrapper(model))
    program.run()
    program.hook(model.layer.register_full_backward_hook)
    torch._dynamo.reset()
    assert [site.fires for site in program.sites()] == [True]
    assert program.run() == 1
    assert [site.fires for site in program.sites()] == [True]


def test_a_hook_on_the_module_that_was_compiled_itself_fires() -> None:
    model = Outer()
    program = Program(by_a_wrapper(model))
    program.run()
    program.hook(model.register_full_backward_hook)
    assert [site.fires for site in program.sites()] == [True]
    assert program.run() == 1


def test_a_global_hook_is_passed_by_at_the_modules_inside() -> None:
    model = Outer()
    program = Program(by_a_wrapper(model))
    program.run()
    handles: list[Any] = []
    program.hook(lambda hook: handles.append(register_module_full_backward_hook(hook)))
    try:
        told = {site.call: site.fires for site in program.sites()}
        fired = program.run()
    finally:
        handles[0].remove()
    assert told == {"#1": True, "_orig_mod#1": True, "_orig_mod.layer#1": None}
    assert fired == 2


def test_a_hook_on_a_parameter_is_not_passed_by() -> None:
    model = Outer()
    program = Program(by_a_wrapper(model))
    program.run()
    program.hook(model.layer.weight.register_hook)
    assert [site.fires for site in program.sites()] == [True]
    assert program.run() == 1


def test_a_module_outside_of_the_compiled_one_is_not_passed_by() -> None:
    inner = Outer()
    program = Program(Around(in_place(inner)))
    program.run()
    program.hook(inner.register_full_backward_hook)
    program.hook(program.model.register_full_backward_hook)
    assert [site.fires for site in program.sites()] == [True, True]
    assert program.run() == 2


def test_the_model_itself_called_without_what_was_compiled_of_it_fires() -> None:
    model = Outer()
    by_a_wrapper(model)(tensor())
    program = Program(model)
    program.hook(model.layer.register_full_backward_hook)
    assert [site.fires for site in program.sites()] == [True]
    assert program.run() == 1


def test_what_torch_compile_leaves_alone_is_not_passed_by() -> None:
    inner = Disabled()
    program = Program(by_a_wrapper(Around(inner)))
    program.run()
    program.hook(inner.layer.register_full_backward_hook)
    assert [site.fires for site in program.sites()] == [True]
    assert program.run() == 1


def test_a_module_that_a_compiled_function_calls_is_passed_by() -> None:
    model = Calling()
    program = Program(model)
    program.run()
    program.hook(model.layer.register_full_backward_hook)
    (site,) = program.sites()
    assert site.fires is None
    assert program.run() == 0


def test_nothing_is_passed_by_where_the_program_has_switched_the_compiler_off() -> None:
    model = Outer()
    program = Program(by_a_wrapper(model))
    program.run()
    program.hook(model.layer.register_full_backward_hook)
    with torch.compiler.set_stance("force_eager"):
        assert [site.fires for site in program.sites()] == [True]
        assert program.run() == 1


def test_it_is_unknown_where_the_registration_was_not_seen() -> None:
    model = Outer()
    compiled = by_a_wrapper(model)
    model.layer.register_full_backward_hook(lambda *given: None)
    compiled(tensor())
    (site,) = fxgrad.trace(compiled, tensor()).sites
    assert site.fires is None
    assert site.reason.endswith(
        ", and it is not known whether it did so before the hook was registered: then it passes the hook by"
    )


def test_the_text_says_that_the_compiled_code_decides() -> None:
    model = Outer()
    compiled = by_a_wrapper(model)
    compiled(tensor())
    model.layer.register_full_backward_hook(lambda *given: None)
    assert "only the compiled code decides whether it fires" in str(fxgrad.trace(compiled, tensor()).explain())


def test_a_run_without_the_compiler_is_compared_with_what_such_a_run_does() -> None:
    model = Outer()
    compiled = by_a_wrapper(model)
    compiled(tensor())
    model.layer.register_full_backward_hook(lambda *given: None)
    verification = fxgrad.verify(compiled, tensor())
    assert (verification.ok, verification.unknown) == (True, ())
