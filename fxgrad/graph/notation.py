"""How the smallest things are written on one line: names, shapes, paths, source lines."""

from __future__ import annotations

import re

from fxgrad.graph.hook_records import Hook
from fxgrad.graph.info import BackwardCall
from fxgrad.graph.records import Path, Shape, Source, Value

_MOST_TARGETS = 3


def escaped(text: str) -> str:
    r"""Write `text` on one line: what cannot be printed, and the backslash, as in a Python literal.

    Line breaks, control characters, text-direction marks and lone surrogates are what cannot be printed
    (`str.isprintable`), so the result can be encoded, cannot break a line and cannot reorder one. Different texts
    stay different.

    >>> escaped("layers.3")
    'layers.3'
    >>> print(escaped("two\nlines \x1b[31m \ud800 back\\slash é 🔥"))
    two\nlines \x1b[31m \ud800 back\\slash é 🔥
    """
    return one_line(text.replace("\\", "\\\\"))


def one_line(sentence: str) -> str:
    r"""Write a sentence on one line: only what cannot be printed changes, so that an escaped name in it stays so.

    >>> print(one_line("the module a\\n returned\na list"))
    the module a\n returned\na list
    """
    return sentence if sentence.isprintable() else "".join(map(_printable, sentence))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def without_addresses(text: str) -> str:
    """Leave out where objects lie in memory, which their ``repr`` tells and which no two processes have in common.

    >>> without_addresses("activation=<function relu at 0x7fb3140cea40>, mask=0xff")
    'activation=<function relu>, mask=0xff'
    """
    return _ADDRESS.sub("", text)


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+(?=>)")


def shape_text(shape: Shape | None) -> str:
    """Write a shape as Python writes a tuple, symbolic sizes by their names.

    >>> shape_text((9, 20)), shape_text((20,)), shape_text(()), shape_text(("s0", 20)), shape_text(None)
    ('(9, 20)', '(20,)', '()', '(s0, 20)', '(shape unknown)')
    """
    if shape is None:
        return "(shape unknown)"
    sizes = ", ".join(escaped(str(size)) for size in shape)
    return f"({sizes},)" if len(shape) == 1 else f"({sizes})"


def path_text(path: Path) -> str:
    r"""Write where something sits inside a value, as Python would reach it.

    >>> path_text(("args", 1, 0)), path_text(("kwargs", "mask")), path_text(("result",))
    ('args[1][0]', "kwargs['mask']", 'result')
    >>> print(path_text(("kwargs", "it's")))
    kwargs['it\'s']
    """
    start = "".join(escaped(str(step)) for step in path[:1])
    return start + "".join(f"[{_key_text(step)}]" for step in path[1:])


def _key_text(key: int | str) -> str:
    if isinstance(key, int):
        return str(key)
    quoted = escaped(key).replace("'", "\\'")
    return f"'{quoted}'"


def value_text(value: Value) -> str:
    """Write a value of the recorded forward: an fx node, or one result of it.

    >>> value_text(Value("linear")), value_text(Value("split", 1))
    ('linear', 'split[1]')
    """
    return escaped(value.fx_node) if value.index is None else f"{escaped(value.fx_node)}[{value.index}]"


def source_text(source: Source) -> str:
    r"""Write a source line by the last name of its file, whichever system it was traced on.

    >>> source_text(Source("/home/me/model.py", 12)), source_text(Source("C:\\work\\model.py", 12))
    ('model.py:12', 'model.py:12')
    """
    return f"{escaped(source.file.replace(chr(92), '/').rpartition('/')[2])}:{source.line}"


def hook_text(hook: Hook) -> str:
    """Write which hook it is: its function, how it was registered, and on what.

    >>> from fxgrad.graph import HookKind
    >>> hook_text(Hook(0, HookKind.TENSOR, "x", "double", None))
    'double (Tensor.register_hook) on x'
    >>> hook_text(Hook(0, HookKind.GLOBAL_BACKWARD, "", "show", None))
    'show (register_module_backward_hook) on all modules'
    >>> hook_text(Hook(0, HookKind.MULTI_GRAD, "", "show", None, targets=("a", "b", "c", "d")))
    'show (register_multi_grad_hook) on a, b, c and 1 more'
    """
    return f"{escaped(hook.function) or 'retain_grad'} ({hook.kind.value}) on {_owner_text(hook)}"


def _owner_text(hook: Hook) -> str:
    if hook.owner:
        return escaped(hook.owner)
    if hook.kind.is_module:
        return "all modules" if hook.kind.is_global else "the model"
    shown = [escaped(target) or "a tensor without a name" for target in hook.targets or ("",)]
    more = len(shown) - _MOST_TARGETS
    return ", ".join(shown[:_MOST_TARGETS]) + (f" and {more} more" if more > 0 else "")


_API_NAMES = {"grad": "autograd.grad"}
_AFTER = {
    None: "",
    "retained": ", called once before with retain_graph=True",
    "freed": ", called once before, which freed the graph",
}


def call_text(call: BackwardCall) -> str:
    """Write how backward is called, as one would; "" for a plain first backward.

    >>> call_text(BackwardCall(((3, 0),), "grad", names=("weight",)))
    'autograd.grad(inputs=[weight])'
    >>> call_text(BackwardCall((), names=("w", "x"), absent=("w", "x"), after="retained"))
    'backward(inputs=[w, x]), called once before with retain_graph=True; not in this graph: w, x'
    """
    if call.inputs is None and call.after is None:
        return ""
    inputs = "" if call.inputs is None else f"inputs=[{', '.join(map(escaped, call.names))}]"
    absent = f"; not in this graph: {', '.join(map(escaped, call.absent))}" if call.absent else ""
    return f"{_API_NAMES.get(call.api, call.api)}({inputs}){_AFTER.get(call.after, '')}{absent}"
