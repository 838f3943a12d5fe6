"""The smallest phrases that sentences are made of: names, counts, shapes, places.

Every name that comes from the user's program passes through `fxgrad.graph.notation.escaped` or through `code`, so
that a sentence is one line that prints. Text between backticks is code; nothing else is markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fxgrad.graph import Gradient, Hook, HookKind, ModuleCall, Node, Source, TensorMeta, TensorRef
from fxgrad.graph.notation import escaped, path_text, shape_text

_MOST_NAMES = 6
_PAIR = 2


def code(text: str) -> str:
    r"""The text as code: between backticks, on one line, and without backticks of its own.

    >>> print(code("layers.3"), code("a`b\n"))
    `layers.3` `a'b\n`
    """
    return f"`{escaped(text).replace('`', chr(39))}`"


def counted(number: int, noun: str, *, plural: str | None = None) -> str:
    """A number with its noun.

    >>> counted(1, "tensor"), counted(12000, "entry", plural="entries"), counted(0, "call")
    ('1 tensor', '12,000 entries', 'no calls')
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {plural or noun + 's'}" if number else f"no {plural or noun + 's'}"


def listed(names: Iterable[str], *, most: int = _MOST_NAMES, total: int | None = None) -> str:
    """Names as one phrase; from ``most`` on, how many more there are. Of ``total`` names the first will do.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed("abcdefgh", most=3)
    ('a, b and c', 'a', 'a, b, c and 5 more')
    """
    every = list(names)
    more = (len(every) if total is None else total) - most
    if more > 0:
        return f"{', '.join(every[:most])} and {more:,} more"
    return " and ".join([", ".join(every[:-1]), every[-1]]) if len(every) > 1 else "".join(every)


def tuple_text(names: Iterable[str], *, most: int = _MOST_NAMES) -> str:
    """Names as Python would write a tuple of them.

    >>> tuple_text(["x", "None"]), tuple_text(["x"]), tuple_text([])
    ('(x, None)', '(x,)', '()')
    """
    every = list(names)
    if len(every) == 1:
        return f"({every[0]},)"
    shown = every if len(every) <= most else [*every[: most - 1], f"... {len(every) - most + 1:,} more"]
    return f"({', '.join(shown)})"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in the given order, neighbours joined.

    >>> ranges([49, 48, 47, 3, 1]), ranges([2, 1]), ranges([7])
    ('49 to 47, 3 and 1', '2 and 1', '7')
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and _goes_on(runs[-1], number):
            runs[-1].append(number)
        else:
            runs.append([number])
    return listed([part for run in runs for part in _run_text(run)], most=12)


def _goes_on(run: list[int], number: int) -> bool:
    step = number - run[-1]
    return abs(step) == 1 and (len(run) == 1 or step == run[-1] - run[-2])


def _run_text(run: list[int]) -> list[str]:
    return [str(number) for number in run] if len(run) <= _PAIR else [f"{run[0]} to {run[-1]}"]


def sentence(text: str) -> str:
    """A reason with a full stop; its first word may be code, so it stays as it is.

    >>> sentence("result[0] requires no grad"), sentence("no use.")
    ('result[0] requires no grad.', 'no use.')
    """
    return text if text.endswith((".", "!", "?")) else f"{text}."


def meta_text(meta: TensorMeta) -> str:
    """A tensor's shape, with its dtype where that is not float32, and its layout where it is not strided.

    >>> meta_text(TensorMeta((2, 3), "int64", "cpu"))
    '(2, 3) int64'
    """
    extras = [extra for extra, usual in ((meta.dtype, "float32"), (meta.layout, "strided")) if extra != usual]
    return " ".join([shape_text(meta.shape), *extras])


def editor_line(source: Source | None) -> str:
    """A line of a program as editors take it; files of installed packages from their package on.

    >>> editor_line(Source("/usr/lib/python3.12/site-packages/torch/nn/functional.py", 7))
    'torch/nn/functional.py:7'
    """
    if source is None:
        return ""
    installed = re.split(r"[/\\]site-packages[/\\]", source.file)[-1]
    return escaped(f"{installed}:{source.line}")


def argument_name(call: ModuleCall, position: int) -> str:
    """What ``forward`` calls its positional argument."""
    known = position < len(call.argument_names)
    return escaped(call.argument_names[position]) if known else f"args[{position}]"


def input_name(call: ModuleCall, ref: TensorRef) -> str:
    """A tensor among a call's inputs, by the name of the argument that holds it: ``hx[0]``."""
    match ref.path:
        case ("args", int(position), *inner):
            return path_text((argument_name(call, position), *inner))
        case ("kwargs", str(name), *inner):
            return path_text((name, *inner))
        case _:
            return path_text(ref.path)


def module_name(path: str) -> str:
    """A module in a sentence; the model itself has the empty path.

    >>> module_name("layers.3"), module_name("")
    ('`layers.3`', 'the model')
    """
    return code(path) if path else "the model"


def node_labels(nodes: Sequence[Node], *, most: int = _MOST_NAMES) -> str:
    """Labels of nodes; of neighbours with one name, the name once: ``MulBackward0_0, _1 and _2``."""
    labels: list[str] = []
    shown = nodes[:most]
    for before, node in zip((None, *shown), shown, strict=False):
        same = before is not None and before.name == node.name and node.label.startswith(node.name)
        labels.append(escaped(node.label.removeprefix(node.name) if same else node.label))
    return listed(labels, most=most, total=len(nodes))


def forward_name(call: ModuleCall) -> str:
    """The function that the module's own code is: ``LSTMCell.forward``."""
    return f"{escaped(call.type_name)}.forward"


def registering(kind: HookKind) -> str:
    """The name of the function that registers such hooks, as short as it stays unambiguous.

    >>> registering(HookKind.MODULE_BACKWARD), registering(HookKind.TENSOR)
    ('register_backward_hook', 'Tensor.register_hook')
    """
    names = [other.value.rpartition(".")[2] for other in HookKind]
    name = kind.value.rpartition(".")[2]
    return name if names.count(name) == 1 else kind.value


def function_name(hook: Hook) -> str:
    """The user's function in a sentence; a lambda by its line, as its name says nothing."""
    if hook.function.endswith("<lambda>") and hook.source is not None:
        return f"the lambda at {editor_line(hook.source)}"
    return code(hook.function) if hook.function else "the hook"


def entry_name(gradient: Gradient) -> str:
    """An entry by its index and the name of what it belongs to: ``[0] bias``."""
    return f"[{gradient.index}] {escaped(gradient.argument)}" if gradient.argument else f"[{gradient.index}]"


def entry_value(gradient: Gradient) -> str:
    """What stands in the tuple at that entry: a shape, ``None`` or ``unknown``."""
    if gradient.status == "tensor":
        return shape_text(gradient.shape)
    return "None" if gradient.status == "none" else gradient.status


def printable(text: str) -> str:
    r"""A finished text, with what does not print escaped; in a text that prints already nothing changes.

    >>> print(printable("two\nlines, and C:\\path"))
    two\nlines, and C:\path
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else escaped(char) for char in text)
