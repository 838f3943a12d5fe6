"""Backwards of which is left open what they return for the first argument: other things decide, or the code is of a kind
that is not followed."""

from __future__ import annotations

import contextlib
import functools

import torch
from torch.nn import functional

FLAG = True
NOTHING = None


def by_value(ctx, grad):
    return (grad if float(grad.sum()) > 0 else None), None, None


def by_global(ctx, grad):
    return (grad if FLAG else None), None, None


def by_replaceable_global(ctx, grad):
    return NOTHING, None, None


def by_unknown_call(ctx, grad):
    return table["double"](grad), None, None


table = {"double": lambda grad: grad * 2}


def by_shared_list(ctx, grad):
    result = [grad * 2, None, None]
    contextlib.nullcontext(result).__enter__()[0] = None
    return tuple(result)


def by_alias(ctx, grad):
    result = [grad * 2, None, None]
    other = result
    other[0] = None
    return tuple(result)


def by_inner_change(ctx, grad):
    result = [grad * 2, None, None]

    def forget():
        result[0] = None

    forget()
    return tuple(result)


def by_deep_change(ctx, grad):
    results = [[grad * 2], None]
    inner = results[0]
    inner[0] = None
    return results[0][0], None, None


def by_changed_context(ctx, grad):
    forget(ctx)
    return ctx.held, None, None


def forget(ctx):
    vars(ctx)["held"] = None


def by_swallowed_error(ctx, grad):
    result = None
    with contextlib.suppress(AttributeError):
        grad.no_such_method()
        result = grad
    return result, None, None


def by_caught_error(ctx, grad):
    result = grad
    try:
        result = None
        grad.no_such_method()
        result = grad
    except AttributeError:
        pass
    return result, None, None


def by_left_loop(ctx, grad):
    result = None
    for number in range(3):
        if number == int(grad.shape[0]):
            result = grad
            break
    return result, None, None


def by_generator(ctx, grad):
    values = [grad]
    later = (value for value in values)
    values.clear()
    return next(later, None), None, None


def by_narrowed_member(ctx, grad):
    maybe = None if FLAG else grad
    _ = [1 for _ in (1, 2) if maybe is not None]
    return maybe, None, None


def by_last_statements(ctx, grad):
    return (*_listed(grad), None, None)


def _listed(value):
    result = [value]
    try:
        return result
    finally:
        result[0] = None


def by_kept_lambda(ctx, grad):
    _call(lambda: forget(ctx))
    return ctx.held, None, None


def _call(function):
    function()


class _Default:
    found = True

    def __init__(self, **values):
        vars(self).update(values)


def by_instance_data(ctx, grad):
    return (grad if _Default(found=None).found is not None else None), None, None


COUNTER = 0


def by_set_global(ctx, grad):
    _count()
    return (grad if COUNTER is not None else None), None, None


def _count():
    global COUNTER  # noqa: PLW0603  # what it is about
    COUNTER = None


def by_default_list(ctx, grad):
    return _collect(grad), None, None


def _collect(value, into=[None]):  # noqa: B006  # what it is about
    into.append(value)
    return into[0]


def by_raising_operand(ctx, grad):
    return ((grad, grad)[5] if ctx.scale is None else None) or grad, None, None  # noqa: PLE0643  # it raises


def by_alias_of_context(ctx, grad):
    other = ctx
    other.held = None
    return ctx.held, None, None


def by_attributes_of_context(ctx, grad):
    ctx.__dict__["held"] = None
    return ctx.held, None, None


def by_changed_needs(ctx, grad):
    ctx.needs_input_grad = (False, False, False)
    return (grad if ctx.needs_input_grad[0] else None), None, None


def by_name_of_a_condition(ctx, grad):
    result = grad * 2
    if result is not None and (result := NOTHING) is None:
        pass
    return result, None, None


def by_matched_name(ctx, grad):
    result = grad * 2
    match [None]:
        case [result]:
            pass
    return result, None, None


def by_name_of_an_error(ctx, grad):
    result = None
    try:
        raise KeyError(grad)
    except KeyError as error:
        (result,) = error.args
    return result, None, None


def by_repeated_list(ctx, grad):
    return ([None] * torch.tensor(2))[0], None, None


def by_extended_list(ctx, grad):
    result = [None]
    result += grad
    return result[0], None, None


def by_tuple_behind_tensors(ctx, grad):
    return (torch.split(grad, 1) + (None,))[-1], None, None  # noqa: RUF005  # what it is about


def by_local_name_of_a_module(ctx, grad):
    torch = kernels
    return torch.mul(grad, 2), None, None


class _Kernels:
    def __init__(self):
        self.mul = torch.mul
        self.relu = functional.relu

    def __getattribute__(self, name):
        return lambda *args: None


kernels = _Kernels()


def by_object_in_place_of_a_module(ctx, grad):
    return kernels.mul(grad, 2), None, None


def any(values):
    return False


def by_own_function_of_a_builtins_name(ctx, grad):
    return (grad if any(ctx.needs_input_grad) else None), None, None


def by_builtin_of_an_operators_name(ctx, grad):
    return max([None], key=id), None, None


@functools.wraps(functional.relu)
def relu(value):
    return None


def by_wrapper_of_a_function_of_torch(ctx, grad):
    return relu(grad), None, None


__mul = torch.mul
_Mangled__mul = kernels.mul


class _Mangled:
    @staticmethod
    def backward(ctx, grad):
        return __mul(grad, 2), None, None


UNDECIDED = [
    by_value, by_global, by_replaceable_global, by_unknown_call, by_shared_list, by_alias, by_inner_change, by_deep_change,
    by_changed_context, by_swallowed_error, by_caught_error, by_left_loop, by_generator, by_narrowed_member,
    by_last_statements, by_kept_lambda, by_instance_data, by_set_global, by_default_list, by_alias_of_context,
    by_attributes_of_context, by_changed_needs, by_name_of_a_condition, by_matched_name, by_name_of_an_error,
    by_repeated_list, by_extended_list, by_tuple_behind_tensors, by_local_name_of_a_module, by_object_in_place_of_a_module,
    by_own_function_of_a_builtins_name, by_builtin_of_an_operators_name, by_wrapper_of_a_function_of_torch,
    _Mangled.backward,
]  # fmt: skip


# What decides for each argument, where the code is not followed


def of_a_list(ctx, grad):
    result = [None] * 3
    if ctx.needs_input_grad[0]:
        result[0] = grad + 1
    return tuple(result)


def of_a_comprehension(ctx, grad):
    return (*(grad * 2 if place == 0 else None for place in range(1)), None, None)


def of_helper(ctx, grad):
    return helper(grad, factor=ctx.scale), None, None


def helper(value, factor=1.0):
    return value * factor


def of_inner_function(ctx, grad):
    def scaled(value):
        return value * ctx.scale

    return scaled(grad), None, None


def of_autograd(ctx, grad):
    with torch.enable_grad():
        x = torch.ones(3, requires_grad=True)
        y = x * 2
    (found,) = torch.autograd.grad(y, x, grad)
    return found, None, None


def of_a_loop(ctx, grad):
    total = torch.zeros(3)
    while float(total.sum()) < 5:
        total = total + 1
    return total, None, None


def of_a_return_in_a_loop(ctx, grad):
    for number in range(3):
        if number == 1:
            return None, None, None
    return grad * 2, None, None


def of_a_second_round(ctx, grad):
    result = grad * 2
    for number in range(2):
        if number == 1:
            return result, None, None
        result = None
    return grad, None, None


def of_a_handler(ctx, grad):
    result = grad * 2
    try:
        result = None
        raise ValueError
    except ValueError:
        return result, None, None


def of_a_case(ctx, grad):
    match ctx.scale:
        case 5:
            return None, None, None
        case _:
            grad = None
    return grad, None, None


def of_tried(ctx, grad):
    result = None
    try:
        result = grad * 2
    finally:
        ctx.scale = 3
    return result, None, None


def of_a_context(ctx, grad):
    result = None
    with contextlib.suppress(ValueError):
        result = grad * 2
    return result, None, None


def of_the_name_of_a_context(ctx, grad):
    with torch.no_grad() as result:
        pass
    return result, None, None


def of_an_import(ctx, grad):
    import torch

    return torch.mul(grad, 2), None, None


def of_an_overload(ctx, grad):
    return torch.ops.aten.mul.Tensor(grad, 2), None, None


def of_an_object(ctx, grad):
    return _Terms(grad).doubled, None, None


class _Terms:
    def __init__(self, grad):
        self.grad = grad

    @property
    def doubled(self):
        return self.grad * 2


def of_passed_back_attributes(ctx, grad):
    held, ctx.held = ctx.held, None
    if held is None:
        raise RuntimeError("backward was called twice")
    return held.mul_(grad), None, None


def of_a_global_name(ctx, grad):
    global RESULT  # noqa: PLW0603  # what it is about
    RESULT = grad
    return grad * 2, None, None


NOT_FOLLOWED = [
    of_a_list, of_a_comprehension, of_helper, of_inner_function, of_autograd, of_a_loop, of_a_return_in_a_loop, of_tried,
    of_a_second_round, of_a_handler, of_a_case, of_the_name_of_a_context, of_a_context, of_an_import, of_an_overload, of_an_object, of_passed_back_attributes, of_a_global_name,
]  # fmt: skip
