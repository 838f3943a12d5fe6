"""Reads what ``torch.export.save`` wrote, after a look at it: nothing of it may run as Python.

``torch.export.load`` trusts its file. It unpickles what is marked as pickled, the sample inputs included; sympy evaluates
the sizes, Python the guards; names of nodes and parameters become a part of generated code; and a node may call whatever is
found below ``torch``. So each of these is checked first, with the reader that loads them.

Sources relied on: torch/export/pt2_archive/_package.py (the members, ``use_pickle``, ``pickle.loads``),
torch/_export/serde/serialize.py (``deserialize_operator``, ``_parse_sym_expr``, ``deserialize_torch_artifact``),
torch/export/_unlift.py (``_convert_guards_code_to_fn``), torch/fx/graph.py (which names are written into code),
torch/utils/_pytree.py (``treespec_loads``), torch/serialization.py (``TORCH_FORCE_WEIGHTS_ONLY_LOAD``).
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from fxgrad.errors import UsageError
from fxgrad.graph.text import escape, quote_code
from fxgrad.observe.real_types import is_a
from fxgrad.observe.record.frames import user_code

Loaded = tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]

_AGAIN = "torch.export.save(program, path) again, with this version of torch"
_LONGEST = 80
_MODEL = "models/model.json"
_NAME = re.compile(r"[\w.@:#+\-/ ]*")
"""What may become a part of generated code: without brackets, quotes, ``=`` and ``;`` it calls and assigns nothing."""
_KEPT = "metadata"
"""Key of texts that are kept as they are: stack traces, for example."""
_MAPS = frozenset(
    {
        *("tensor_values", "sym_int_values", "sym_float_values", "sym_bool_values", "custom_obj_values"),
        *("as_string_to_argument", "opset_version", "treespec_namedtuple_fields"),
    }
)
"""Keys of dicts that have names for keys; all others have the fields of torch/_export/serde/schema.py."""
_SYMBOLIC = re.compile(
    r"_operator\.(?:lt|le|eq|ne|gt|ge|add|sub|mul|floordiv|truediv|mod|pow|neg|pos|and_|or_|lshift|rshift|getitem)"
    r"|math\.[a-z][a-z0-9]*|torch\._?sym_[a-z_0-9]+"
)
"""What computes sizes; ``_SYM_OPS`` in torch/_export/serde/serialize.py."""
_GUARDED = frozenset({"size", "stride", "storage_offset", "dim", "item", "numel"})
"""Methods of a tensor that a guard asks for."""
_SIZES = frozenset(
    re.findall(
        r"\w+",
        """
        Add Mul Pow Mod Max Min Abs Integer Float Rational Symbol And Or Not Xor Eq Ne Lt Le Gt Ge Equality Unequality
        StrictLessThan StrictGreaterThan LessThan GreaterThan Piecewise ExprCondPair Tuple floor ceiling log log2 sqrt exp
        FloorDiv ModularIndexing Where PythonMod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural FloatPow
        FloatTrueDiv IntTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat
        Identity
        """,
    )
)
"""Functions of sympy, and of torch/utils/_sympy/functions.py, that stand in the text of a size."""
_ONE_LINE = re.compile(r"[^\n\r\f\\#\"]*")
"""An expression that means the same wherever its text is put: torch joins the lines of a guard, which changes what is a
comment and what a string, and then writes it between double quotes without escaping it."""
_PYTHONS = ("abs", "bool", "cast_symbool_to_symint_guardless", "float", "int", "max", "min", "round")
_OPERATORS = (
    *(ast.Expression, ast.Load, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop),
    *(ast.cmpop, ast.IfExp, ast.Tuple, ast.List, ast.keyword),
)


def load_exported(path: str, device: str | None) -> Loaded:
    """The module of an exported program, and the sample inputs that were saved with it.

    Raises UsageError for a file that holds code, or something else than ``torch.export.save`` writes.
    """
    with _forced_weights_only():
        with user_code(
            f"reading {escape(path)}",
            allowed="a file that torch.export.save wrote",
            advice=lambda _: _AGAIN,
        ):
            problem = _find_problem(path)
        if problem is not None:
            raise UsageError(
                f"{escape(path)}, {problem}: loading it could run code from the file",
                "an exported program of torch's operators, with tensors as parameters and constants",
                "load it yourself, if you trust it: def build(): return torch.export.load(path).module(), (x,) in a file.py",
            )
        with user_code(
            f"loading {escape(path)}",
            allowed="a file that torch.export.save wrote",
            advice=lambda _: (
                f'python -c "import torch; torch.export.load({os.path.basename(path)!r}).module()" by itself'
            ),
        ):
            return _load(path, device)


def _load(path: str, device: str | None) -> Loaded:
    from torch.export.passes import move_to_device_pass  # importing it takes a second
    from torch.export.pt2_archive._package import load_pt2

    with warnings.catch_warnings(), torch.device("cpu"):  # it wraps memory of the CPU
        warnings.simplefilter("ignore")  # of torch's own modules
        # torch.export.load would try an older format after an error, with members that were not looked at
        program = load_pt2(path).exported_programs["model"]
        args, kwargs = program.example_inputs or ((), {})
        if device is not None:
            program = move_to_device_pass(program, device)
            args, kwargs = torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.to(device), (args, kwargs))
        return program.module(), tuple(args), dict(kwargs)


@contextmanager
def _forced_weights_only() -> Iterator[None]:
    """Have every torch.load refuse what is no tensor, also where torch.export tells it not to."""
    names = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


# What a file holds


def _find_problem(path: str) -> str | None:
    """What there is in a file that is not known to be harmless; None for nothing."""
    reader = torch._C.PyTorchFileReader(path)
    members: list[str] = reader.get_all_records()
    others = sorted(name for name in members if name.startswith("models/") and name != _MODEL)
    compiled = sorted(name for name in members if name.startswith(("data/aotinductor/", "data/executorch/")))
    if _MODEL not in members or others:
        return f"which holds {escape(others[0]) if others else 'no model'}, not the one program of torch.export.save"
    if compiled:
        return f"which holds compiled code ({escape(compiled[0])})"
    for name in members:
        problem = None
        if name.startswith("data/") and name.endswith("_config.json"):
            problem = _find_in_config(json.loads(reader.get_record(name)), reader, os.path.dirname(name))
        elif name.startswith("data/") and name.endswith(".pt") and not _is_harmless_pickle(reader.get_record(name)):
            problem = f"which has a pickle of more than tensors in it ({escape(name)})"
        if problem is not None:
            return problem
    return _find_in_model(json.loads(reader.get_record(_MODEL)))


def _find_in_config(content: Any, reader: torch._C.PyTorchFileReader, folder: str) -> str | None:
    """The first of the weights, or of the constants, that is unpickled, and is not only tensors."""
    for name, payload in content["config"].items():
        file = str(payload["path_name"])
        if not file.startswith(("tensor_", "weight_")):
            return f"which holds an object that is no tensor ({escape(name)})"
        if payload["use_pickle"] and not _is_harmless_pickle(reader.get_record(f"{folder}/{file}")):
            return f"which has a pickle of more than tensors in it ({escape(name)})"
    return _find_in_names(content)


def _is_harmless_pickle(data: bytes) -> bool:
    try:
        return not data or torch.load(io.BytesIO(data), weights_only=True) is not None
    except Exception:  # whatever the file has in it
        return False


def _find_in_model(model: Any) -> str | None:
    """The first text in the description of a program that may do more than name or compute something."""
    waiting: list[tuple[str, Any]] = [("", model)]
    while waiting:
        key, value = waiting.pop()
        problem = None
        if key == _KEPT or (key in ("as_string", "as_strings") and _is_text(value)):
            continue  # its repr() is what is written into code
        if key in _CHECKS:
            problem = _CHECKS[key](value)
        elif is_a(value, dict):
            problem = _find_in_names([*value])
            waiting += [("" if key in _MAPS else inner, member) for inner, member in value.items()]
        elif is_a(value, list):
            waiting += [("", member) for member in value]
        else:
            problem = _find_in_names(value)
        if problem is not None:
            return problem
    return None


def _is_text(value: object) -> bool:
    return is_a(value, str) or (is_a(value, list) and all(is_a(member, str) for member in value))


def _find_in_names(value: Any) -> str | None:
    """The first text in nested lists and dicts that is more than a name."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if is_a(part, str) and not _NAME.fullmatch(part):
            return f"which has {_quote(part)} as a name"
        if is_a(part, dict):
            waiting += [*part.keys(), *part.values()]
        elif is_a(part, list):
            waiting += part
    return None


def _quote(text: object) -> str:
    shown = str(text)
    return quote_code(shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…")


def _is_operator(target: object) -> bool:
    """Whether a node calls an operator of torch's dispatcher, one that takes graphs, or what computes sizes.

    Not one that opens a file, as ``aten::from_file``, which makes the file, and makes it longer.
    """
    if not is_a(target, str):
        return False
    if _SYMBOLIC.fullmatch(target):
        return True
    if not re.fullmatch(r"torch\.ops(?:\.[A-Za-z]\w*){2,3}|torch\.ops\.aten\._\w+\.\w+", target):
        return False
    found: Any = torch
    for name in target.split(".")[1:]:
        found = getattr(found, name, None)
    if is_a(found, torch._ops.HigherOrderOperator):
        return True
    if not is_a(found, torch._ops.OpOverload) or opens_file(found._schema):
        return False
    # TorchScript's own operators, as aten::save, are no dispatcher's
    return torch._C._dispatch_has_kernel(str(found._name))


def opens_file(schema: torch._C.FunctionSchema) -> bool:
    """Whether an operator writes or makes the file that an argument names: ``aten::save``, ``aten::from_file``.

    >>> opens_file(torch.ops.aten.from_file.default._schema), opens_file(torch.ops.aten.relu.default._schema)
    (True, False)
    """
    return any(argument.name == "filename" for argument in schema.arguments)


def _find_in_tree(text: object) -> str | None:
    """What in the text of a TreeSpec makes it import a module: an enum's member, or a defaultdict."""
    waiting = [text]
    while waiting:
        part = waiting.pop()
        if is_a(part, str):
            try:
                inner = json.loads(part)
            except ValueError:
                inner = part
            if is_a(inner, (dict, list)):
                waiting.append(inner)
                continue
            if part == "collections.defaultdict" or not _NAME.fullmatch(part.strip('"')):
                return f"whose arguments or results have {_quote(part)} in them"
        elif is_a(part, dict):
            if "__enum__" in part:
                return "whose arguments or results have an enum in them"
            waiting += [*part.keys(), *part.values()]
        elif is_a(part, list):
            waiting += part
    return None


def _find_in_sizes(texts: Iterable[object]) -> str | None:
    return next((f"which has {_quote(text)} as a size" for text in texts if not _is_size(text)), None)


def _find_in_guards(texts: Iterable[object]) -> str | None:
    return next((f"which checks arguments by {_quote(text)}" for text in texts if not _is_guard(text)), None)


def _find_in_target(target: object) -> str | None:
    return None if _is_operator(target) else f"whose graph calls {_quote(target)}"


def _find_object(_: object) -> str:
    return "which uses an object that is no tensor"


# Expressions


def _is_size(text: object) -> bool:
    """Whether a text is arithmetic on symbols, which sympy may evaluate.

    >>> _is_size("2*s0 + 1"), _is_size("Mul(Integer(2), Symbol('s96', positive=True, integer=True))")
    (True, True)
    >>> _is_size("__import__('os').getcwd()"), _is_size("Symbol('s0').__class__"), _is_size("S('x')")
    (False, False, False)
    """

    def is_call(node: ast.Call) -> bool:
        return is_a(node.func, ast.Name) and node.func.id in _SIZES

    return _is_expression(text, is_call, {})


def _is_guard(text: object) -> bool:
    """Whether a text compares the sizes of arguments, which Python may evaluate.

    >>> _is_guard("L['x'].size()[0] // 2 != 1"), _is_guard("math.trunc(L['x'].size()[0]) <= inf")
    (True, True)
    >>> _is_guard("L['x'].__class__"), _is_guard("L['x']()"), _is_guard("torch.hub.load('a', 'b')")
    (False, False, False)
    >>> _is_guard("L['x'].dim() == 2 # "), _is_guard('L["x"].dim() == 2')
    (False, False)
    """

    def is_call(node: ast.Call) -> bool:
        function = node.func
        if is_a(function, ast.Attribute):
            return function.attr in _GUARDED or _SYMBOLIC.fullmatch(ast.unparse(function)) is not None
        return is_a(function, ast.Name) and function.id in (*_SIZES, *_PYTHONS)

    attributes = {ast.Attribute: lambda node: node.attr in _GUARDED or _SYMBOLIC.fullmatch(ast.unparse(node))}
    return _is_expression(text, is_call, attributes | {ast.Subscript: lambda _: True})


def _is_expression(
    text: object, is_call: Callable[[ast.Call], bool], others: Mapping[type[ast.AST], Callable[[Any], object]]
) -> bool:
    try:
        tree = ast.parse(text, mode="eval") if is_a(text, str) and _ONE_LINE.fullmatch(text) else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if tree is None:
        return False
    for node in ast.walk(tree):
        if is_a(node, ast.Call):
            is_right: object = is_call(node)
        elif is_a(node, ast.Constant):
            is_right = is_a(node.value, (bool, int, float)) or (
                is_a(node.value, str) and re.fullmatch(r"[\w.+\- ]*", node.value)
            )
        elif is_a(node, ast.Name):
            is_right = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", node.id)
        else:
            is_right = is_a(node, _OPERATORS) or others.get(type(node), lambda _: False)(node)
        if not is_right:
            return False
    return True


_CHECKS: Mapping[str, Callable[[Any], str | None]] = {
    "target": _find_in_target,
    "as_operator": _find_in_target,
    "custom_obj": _find_object,
    "as_custom_obj": _find_object,
    "in_spec": _find_in_tree,
    "out_spec": _find_in_tree,
    "expr_str": lambda text: _find_in_sizes([text]),
    "range_constraints": _find_in_sizes,
    "guards_code": _find_in_guards,
}
"""What is said of the value of a key, None where it is harmless."""
