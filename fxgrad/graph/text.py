"""How names, shapes, counts, lists, hooks and source lines are written: the one text kit.

Text from the user's program passes through `escape` or `quote_code`, so that every sentence is one line that prints.
Text between backticks is code; nothing else is markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fxgrad.graph.hook_kinds import HookKind
from fxgrad.graph.records import (
    BackwardCall,
    Gradient,
    Hook,
    ModuleCall,
    Path,
    ScriptOperator,
    Shape,
    Source,
    TensorMeta,
    Value,
)

_MOST_NAMES = 6
_MOST_RANGES = 12
_MOST_TARGETS = 3
_PAIR = 2


# Escaping


def escape(text: str) -> str:
    r"""Write text of the user's on one line: what does not print, and the backslash, as in a Python literal.

    Line breaks, control characters, text-direction marks and lone surrogates do not print (`str.isprintable`). The
    result can be encoded, cannot break a line and cannot reorder one. Different texts stay different.

    >>> escape("layers.3")
    'layers.3'
    >>> print(escape("two\nlines \x1b[31m \ud800 back\\slash é 🔥"))
    two\nlines \x1b[31m \ud800 back\\slash é 🔥
    """
    return escape_unprintable(text.replace("\\", "\\\\"))


def escape_unprintable(sentence: str) -> str:
    r"""Write a finished sentence on one line: backslashes stay, so names in it that are escaped already stay too.

    >>> print(escape_unprintable("the module a\\n returned\na list, in C:\\path"))
    the module a\n returned\na list, in C:\path
    """
    return sentence if sentence.isprintable() else "".join(map(_escape_character, sentence))


def _escape_character(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def quote_code(text: str) -> str:
    r"""Write text of the user's as code: between backticks, on one line, and without backticks of its own.

    >>> print(quote_code("layers.3"), quote_code("a`b\n"))
    `layers.3` `a'b\n`
    """
    return f"`{escape(text).replace('`', chr(39))}`"


def strip_addresses(text: str) -> str:
    """Leave out memory addresses, which ``repr`` shows and which differ from process to process.

    >>> strip_addresses("activation=<function relu at 0x7fb3140cea40>, mask=0xff")
    'activation=<function relu>, mask=0xff'
    """
    return _ADDRESS.sub("", text)


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+(?=>)")


# Words, counts and lists


def add_article(name: str) -> str:
    """A name with "a" or "an" before it, by its first letter.

    >>> add_article("dict"), add_article("OrderedDict")
    ('a dict', 'an OrderedDict')
    """
    return f"{'an' if name[:1].lower() in tuple('aeiou') else 'a'} {name}"


def pluralize(number: int, noun: str, *, plural: str | None = None) -> str:
    """The noun in the number that a count asks for.

    >>> pluralize(1, "site"), pluralize(0, "site"), pluralize(2, "is", plural="are")
    ('site', 'sites', 'are')
    """
    return noun if number == 1 else plural or noun + "s"


def count_noun(number: int, noun: str, *, plural: str | None = None, zero: str = "no") -> str:
    """A number with its noun; `zero` is what stands for 0.

    >>> count_noun(1, "tensor"), count_noun(12000, "entry", plural="entries"), count_noun(0, "call")
    ('1 tensor', '12,000 entries', 'no calls')
    """
    return f"{number:,} {pluralize(number, noun, plural=plural)}" if number else f"{zero} {plural or noun + 's'}"


def join_words(words: Iterable[str], *, most: int = _MOST_NAMES, total: int | None = None) -> str:
    """Words as one phrase; beyond the first `most`, how many more there are. `total` counts words that are not given.

    >>> join_words(["a", "b", "c"]), join_words(["a"]), join_words("abcdefgh", most=3)
    ('a, b and c', 'a', 'a, b, c and 5 more')
    >>> join_words(["a", "b"], most=2, total=1002)
    'a, b and 1,000 more'
    """
    every = list(words)
    more = (len(every) if total is None else total) - most
    if more > 0:
        return f"{', '.join(every[:most])} and {more:,} more"
    return " and ".join([", ".join(every[:-1]), every[-1]]) if len(every) > 1 else "".join(every)


def format_tuple(words: Iterable[str], *, most: int = _MOST_NAMES) -> str:
    """Words as Python writes a tuple of them.

    >>> format_tuple(["x", "None"]), format_tuple(["x"]), format_tuple([]), format_tuple("abcd", most=3)
    ('(x, None)', '(x,)', '()', '(a, b, ... 2 more)')
    """
    every = list(words)
    if len(every) == 1:
        return f"({every[0]},)"
    shown = every if len(every) <= most else [*every[: most - 1], f"... {len(every) - most + 1:,} more"]
    return f"({', '.join(shown)})"


def format_ranges(numbers: Sequence[int]) -> str:
    """Numbers in the given order, runs of neighbours joined.

    >>> format_ranges([49, 48, 47, 3, 1]), format_ranges([2, 1]), format_ranges([7])
    ('49 to 47, 3 and 1', '2 and 1', '7')
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and _continues(runs[-1], number):
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [part for run in runs for part in _format_run(run)]
    return join_words(parts, most=_MOST_RANGES)


def _continues(run: list[int], number: int) -> bool:
    step = number - run[-1]
    return abs(step) == 1 and (len(run) == 1 or step == run[-1] - run[-2])


def _format_run(run: list[int]) -> list[str]:
    return [str(number) for number in run] if len(run) <= _PAIR else [f"{run[0]} to {run[-1]}"]


def end_sentence(text: str) -> str:
    """The text with a full stop. Its first word may be code, so it stays as it is.

    >>> end_sentence("result[0] requires no grad"), end_sentence("no use.")
    ('result[0] requires no grad.', 'no use.')
    """
    return text if text.endswith((".", "!", "?")) else f"{text}."


# Tensors and where they are


def format_shape(shape: Shape | None) -> str:
    """A shape as Python writes a tuple, symbolic sizes by their names.

    >>> format_shape((9, 20)), format_shape((20,)), format_shape(()), format_shape(("s0", 20)), format_shape(None)
    ('(9, 20)', '(20,)', '()', '(s0, 20)', '(shape unknown)')
    """
    if shape is None:
        return "(shape unknown)"
    sizes = ", ".join(escape(str(size)) for size in shape)
    return f"({sizes},)" if len(shape) == 1 else f"({sizes})"


def format_meta(meta: TensorMeta) -> str:
    """A tensor's shape, with its dtype where that is not float32, and its layout where it is not strided.

    >>> format_meta(TensorMeta((2, 3), "int64", "cpu"))
    '(2, 3) int64'
    """
    extras = [extra for extra, usual in ((meta.dtype, "float32"), (meta.layout, "strided")) if extra != usual]
    return " ".join([format_shape(meta.shape), *extras])


def format_path(path: Path) -> str:
    r"""Where something sits inside a value, as Python reaches it.

    >>> format_path(("args", 1, 0)), format_path(("kwargs", "mask")), format_path(("result",))
    ('args[1][0]', "kwargs['mask']", 'result')
    >>> print(format_path(("kwargs", "it's")))
    kwargs['it\'s']
    >>> format_path(("result", ".logits", 0))
    'result.logits[0]'
    """
    start = "".join(escape(str(step)) for step in path[:1])
    return start + "".join(map(_format_step, path[1:]))


def _format_step(step: int | str) -> str:
    if isinstance(step, str) and step.startswith(".") and step[1:].isidentifier():
        return escape(step)
    return f"[{_format_key(step)}]"


def _format_key(key: int | str) -> str:
    if isinstance(key, int):
        return str(key)
    quoted = escape(key).replace("'", "\\'")
    return f"'{quoted}'"


def format_argument(names: Sequence[str], path: Path) -> str:
    """A tensor among the arguments of a call, by the names of forward's parameters.

    >>> format_argument(("input", "hx"), ("args", 1, 0)), format_argument((), ("kwargs", "mask"))
    ('hx[0]', 'mask')
    >>> format_argument(("input",), ("args", 1, 0))
    'args[1][0]'
    """
    match path:
        case ("args", int(position), *inner) if position < len(names):
            return format_path((names[position], *inner))
        case ("kwargs", str(name), *inner):
            return format_path((name, *inner))
        case _:
            return format_path(path)


def format_value(value: Value) -> str:
    """A value of the recorded forward: an fx node, or one result of it.

    >>> format_value(Value("linear")), format_value(Value("split", 1))
    ('linear', 'split[1]')
    """
    return escape(value.fx_node) if value.index is None else f"{escape(value.fx_node)}[{value.index}]"


def name_entry(gradient: Gradient) -> str:
    """An entry of a grad tuple by its index and the argument it belongs to: ``[0] bias``."""
    return f"[{gradient.index}] {escape(gradient.argument)}" if gradient.argument else f"[{gradient.index}]"


def format_entry(gradient: Gradient) -> str:
    """What stands in the grad tuple at that entry: a shape, ``None`` or ``unknown``."""
    if gradient.status == "tensor":
        return format_shape(gradient.shape)
    return "None" if gradient.status == "none" else gradient.status


# Source lines


def format_source(source: Source | None) -> str:
    """A line of a program as editors take it; a file of an installed package from that package on.

    >>> format_source(Source("/usr/lib/python3.12/site-packages/torch/nn/functional.py", 7)), format_source(None)
    ('torch/nn/functional.py:7', '')
    """
    if source is None:
        return ""
    installed = re.split(r"[/\\]site-packages[/\\]", source.file)[-1]
    return escape(f"{installed}:{source.line}")


def format_brief_source(source: Source) -> str:
    r"""A line of a program by the last name of its file, whichever system it was traced on.

    >>> format_brief_source(Source("/home/me/model.py", 12)), format_brief_source(Source("C:\\work\\model.py", 12))
    ('model.py:12', 'model.py:12')
    """
    return f"{escape(source.file.replace(chr(92), '/').rpartition('/')[2])}:{source.line}"


# Modules, hooks and calls


def format_script(script: ScriptOperator) -> str:
    """The operator of a TorchScript program, and the module that it is in, as far as that is known.

    >>> format_script(ScriptOperator("aten::linear", "layers.3", None))
    'aten::linear in `layers.3`'
    """
    return escape(script.kind) + ("" if script.module is None else f" in {name_module(script.module)}")


def name_module(path: str) -> str:
    """A module in a sentence; the model itself has the empty path.

    >>> name_module("layers.3"), name_module("")
    ('`layers.3`', 'the model')
    """
    return quote_code(path) if path else "the model"


def name_forward(call: ModuleCall) -> str:
    """The function that the module's own code is: ``LSTMCell.forward``."""
    return f"{escape(call.type_name)}.forward"


def name_call_in_transform(call: ModuleCall) -> str:
    """That a call ran inside a transform of torch.func: the innermost, whose tensors it got."""
    return f"it ran inside a transform of torch.func ({escape(call.transforms[-1])})"


def name_registering_function(kind: HookKind) -> str:
    """The function that registers such hooks, by a name as short as it stays unambiguous.

    >>> name_registering_function(HookKind.MODULE_BACKWARD), name_registering_function(HookKind.TENSOR)
    ('register_backward_hook', 'Tensor.register_hook')
    """
    names = [other.function.rpartition(".")[2] for other in HookKind]
    name = kind.function.rpartition(".")[2]
    return name if names.count(name) == 1 else kind.function


def name_hook_function(hook: Hook) -> str:
    """The user's function in a sentence; a lambda by its line, because its name says nothing.

    >>> name_hook_function(Hook(0, HookKind.TENSOR, "x", "double", None))
    '`double`'
    >>> name_hook_function(Hook(0, HookKind.TENSOR, "x", "main.<locals>.<lambda>", Source("model.py", 3)))
    'the lambda at model.py:3'
    """
    if hook.function.endswith("<lambda>") and hook.source is not None:
        return f"the lambda at {format_source(hook.source)}"
    return quote_code(hook.function) if hook.function else "the hook"


def format_hook(hook: Hook) -> str:
    """Which hook it is: its function, how it was registered, and on what.

    >>> format_hook(Hook(0, HookKind.TENSOR, "x", "double", None))
    'double (Tensor.register_hook) on x'
    >>> format_hook(Hook(0, HookKind.GLOBAL_BACKWARD, "", "show", None))
    'show (register_module_backward_hook) on all modules'
    >>> format_hook(Hook(0, HookKind.MULTI_GRAD, "", "show", None, targets=("a", "b", "c", "d")))
    'show (register_multi_grad_hook) on a, b, c and 1 more'
    """
    return f"{escape(hook.function) or 'retain_grad'} ({hook.kind.value}) on {_format_owner(hook)}"


def _format_owner(hook: Hook) -> str:
    if hook.owner:
        return escape(hook.owner)
    if hook.kind.is_module:
        return "all modules" if hook.kind.is_global else "the model"
    shown = [escape(target) or "a tensor without a name" for target in hook.targets or ("",)]
    more = len(shown) - _MOST_TARGETS
    return ", ".join(shown[:_MOST_TARGETS]) + (f" and {more} more" if more > 0 else "")


_API_NAMES = {"grad": "autograd.grad"}
_AFTER = {
    None: "",
    "retained": ", called once before with retain_graph=True",
    "freed": ", called once before, which freed the graph",
}


def format_backward_call(call: BackwardCall) -> str:
    """How backward is called, as one writes it; "" for a plain first backward.

    >>> format_backward_call(BackwardCall(((3, 0),), "grad", names=("weight",)))
    'autograd.grad(inputs=[weight])'
    >>> format_backward_call(BackwardCall((), names=("w", "x"), absent=("w", "x"), after="retained"))
    'backward(inputs=[w, x]), called once before with retain_graph=True; not in this graph: w, x'
    """
    if call.inputs is None and call.after is None:
        return ""
    inputs = "" if call.inputs is None else f"inputs=[{', '.join(map(escape, call.names))}]"
    absent = f"; not in this graph: {', '.join(map(escape, call.absent))}" if call.absent else ""
    return f"{_API_NAMES.get(call.api, call.api)}({inputs}){_AFTER.get(call.after, '')}{absent}"
