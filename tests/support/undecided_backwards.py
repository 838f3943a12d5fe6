"""Backwards of which the code does not say what they return for the first argument: other things decide."""

from __future__ import annotations

import contextlib

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


UNDECIDED = [
    by_value, by_global, by_replaceable_global, by_unknown_call, by_shared_list, by_alias, by_inner_change, by_deep_change,
    by_changed_context, by_swallowed_error, by_caught_error, by_left_loop, by_generator, by_narrowed_member,
    by_last_statements, by_kept_lambda, by_instance_data, by_set_global, by_default_list,
]  # fmt: skip
