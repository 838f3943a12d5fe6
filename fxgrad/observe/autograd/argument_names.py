"""What the gradients of a C++ autograd node stand for: its aten function, its arguments, its results.

The torch wheel carries torchgen/packaged/autograd/derivatives.yaml, the file that its autograd code was generated from.
The name of a generated node leads to its entry there, as in torchgen/packaged/autograd/load_derivatives.py (names and
numbers of the node classes, arguments with derivatives) and torchgen/api/autograd.py (gen_differentiable_outputs). The
``next_functions`` of the node are the arguments that have a derivative, in the order of the schema and lists member by
member (``collect_next_edges`` in torchgen/packaged/autograd/gen_variable_type.py), its grad_output slots the
differentiable results (``set_history``). The in-place variant of a function makes the same node (``AddBackward0`` for
``add_``), so the variant is not known from a node.

Neither torchgen nor PyYAML is imported: loading the file with them takes seconds, and PyYAML need not be installed.
Nodes of Python Functions are named by `fxgrad.observe.autograd.python_functions`.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

# What derivatives.yaml says


_COMMENT = re.compile(r"#.*")  # no schema and no formula contains a #
_ENTRY = re.compile(r"^- name:", re.MULTILINE)
# A key is a list of names at the indentation of its block; longer lines are the rest of a formula.
_KEYS = {indent: re.compile(rf"^ {{{indent}}}(\w[\w, ]*):(?=\s)", re.MULTILINE) for indent in (2, 4, 6)}
_SCHEMA = re.compile(r"(?:\w+::)?(?P<function>\w+)(?:\.(?P<overload>\w+))?\((?P<arguments>.*)\) -> (?P<results>.+)")
_TENSOR_ARGUMENT = re.compile(r"\bTensor(?P<alias>\([^)]*\))?(?P<rest>[?\[\]\d]*) (?P<name>\w+)")
_TENSOR_RESULT = re.compile(r"Tensor(?P<alias>\([^)]*\))?(?P<rest>[?\[\]\d]*)(?: (?P<name>\w+))?")
_USES_SINGLE_GRAD = re.compile(r"\bgrad\b")


EdgeName = tuple[str | None, str | None]
"""The argument that an edge stands for, and the list argument it is a member of: ``("tensors[2]", "tensors")``."""

UNNAMED: EdgeName = (None, None)


@dataclass(frozen=True, slots=True)
class Argument:
    """A tensor argument of a function (or a result of it); ``is_list`` for a list of tensors."""

    name: str
    is_list: bool


class Schema(NamedTuple):
    """The tensors in a function schema.

    ``results`` has an entry for every result, None for one that is no tensor.
    ``view`` whether a result is an alias of an argument that is not written to.
    """

    function: str
    overload: str
    arguments: tuple[Argument, ...]
    results: tuple[Argument | None, ...]
    view: bool


class Derivation(NamedTuple):
    """What derivatives.yaml says of one generated node class.

    ``schema``                  text of the function's schema, without namespace
    ``arguments``               names of the arguments that have a formula
    ``single_grad``             a formula uses ``grad``: only the first result has a gradient
    ``differentiable_results``  output_differentiability, one bool per result; None where it is not given
    """

    schema: str
    arguments: frozenset[str]
    single_grad: bool
    differentiable_results: tuple[bool, ...] | None

    def select_differentiable(self, results: tuple[Argument | None, ...]) -> tuple[Argument, ...]:
        """Those of the function's `results` that have a grad_output slot (gen_differentiable_outputs)."""
        if self.differentiable_results is not None:
            kept = zip(results, self.differentiable_results, strict=False)
            return tuple(result for result, differentiable in kept if differentiable and result is not None)
        tensors = tuple(result for result in results if result is not None)
        return tensors[:1] if self.single_grad else tensors


def parse_schema(text: str) -> Schema:
    """Read a function schema as native_functions.yaml and ``str(torch._C.FunctionSchema)`` write it.

    A result without a name is called ``result``, or ``result 0``, ``result 1``, ... when there are several.

    >>> parse_schema("aten::std_mean(Tensor self, bool unbiased=True) -> (Tensor, Tensor)").results
    (Argument(name='result 0', is_list=False), Argument(name='result 1', is_list=False))
    >>> parse_schema("unbind.int(Tensor(a -> *) self, int dim=0) -> Tensor(a)[]").view
    True

    Raises ValueError for a text that is no schema.
    """
    schema = _SCHEMA.fullmatch(text)
    if schema is None:
        raise ValueError(f"not a function schema: {text}")
    results = [_TENSOR_RESULT.fullmatch(result) for result in _split_results(schema["results"])]
    return Schema(
        schema["function"],
        schema["overload"] or "",
        tuple(
            Argument(match["name"], "[" in match["rest"]) for match in _TENSOR_ARGUMENT.finditer(schema["arguments"])
        ),
        tuple(
            match and Argument(match["name"] or name, "[" in match["rest"])
            for match, name in zip(results, name_results(len(results)), strict=True)
        ),
        any(match is not None and match["alias"] is not None and "!" not in match["alias"] for match in results),
    )


def name_results(n_results: int) -> tuple[str, ...]:
    """What the results of a function are called where its schema does not name them.

    >>> name_results(1), name_results(2)
    (('result',), ('result 0', 'result 1'))
    """
    return ("result",) if n_results == 1 else tuple(f"result {index}" for index in range(n_results))


def _split_results(text: str) -> list[str]:
    """Split the results of a schema.

    >>> _split_results("(Tensor(a!), int)"), _split_results("Tensor[]"), _split_results("()")
    (['Tensor(a!)', 'int'], ['Tensor[]'], [])
    """
    if not text.startswith("("):
        return [text]
    return text[1:-1].split(", ") if text != "()" else []


def read_node_classes(text: str) -> dict[str, Derivation]:
    """Every node class that PyTorch generates from `text`, the content of derivatives.yaml, by ``node.name()``.

    The classes that the code generator derives from these are not listed: those of the ``_copy`` variants of view
    functions (``ExpandBackward0_copy``) and most of the foreach functions (``ForeachAddBackward0List``).

    >>> read_node_classes('''
    ... - name: mul.Tensor(Tensor self, Tensor other) -> Tensor
    ...   self: mul_tensor_backward(grad, other, self.scalar_type())
    ...   other: mul_tensor_backward(grad, self, other.scalar_type())
    ...   result: other_t * self_p + self_t * other_p
    ... ''')["MulBackward0"].arguments == {"self", "other"}
    True
    """
    classes: dict[str, Derivation] = {}
    numbers: Counter[str] = Counter()
    for schema, fields in _split_entries(text):
        for dispatch_key, formulas in _split_formulas(fields).items():
            derivation = _make_derivation(schema, formulas, fields.get("output_differentiability"))
            if not derivation.arguments:
                continue
            family = _name_family(schema["function"], dispatch_key)
            classes[f"{family}{numbers[family]}"] = derivation
            numbers[family] += 1
    return classes


def _split_entries(text: str) -> Iterator[tuple[re.Match[str], dict[str, str]]]:
    """An entry whose schema cannot be read is left out; the classes numbered after it are then not to be trusted."""
    for entry in _ENTRY.split(_COMMENT.sub("", text))[1:]:
        first_line, _, body = entry.partition("\n")
        schema = _SCHEMA.fullmatch(first_line.strip())
        if schema is not None:
            yield schema, _split_fields(body, 2)


def _split_fields(block: str, indent: int) -> dict[str, str]:
    parts = _KEYS[indent].split(block)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _split_formulas(fields: dict[str, str]) -> dict[str, dict[str, str]]:
    if "dispatch" not in fields:
        return {"Default": fields}
    return {key: _split_fields(block, 6) for key, block in _split_fields(fields["dispatch"], 4).items()}


def _make_derivation(schema: re.Match[str], formulas: dict[str, str], differentiability: str | None) -> Derivation:
    """A key that names no argument names a result: it is a formula for forward mode."""
    arguments = {match["name"] for match in _TENSOR_ARGUMENT.finditer(schema["arguments"])}
    backward = [
        (names, formula)
        for key, formula in formulas.items()
        if not arguments.isdisjoint(names := re.split(r",\s*", key)) and formula.strip().lower() != "non_differentiable"
    ]
    return Derivation(
        schema.string,
        frozenset(name for names, _ in backward for name in names),
        any(_USES_SINGLE_GRAD.search(formula) for _, formula in backward),
        None if differentiability is None else _parse_bools(differentiability),
    )


def _parse_bools(differentiability: str) -> tuple[bool, ...]:
    """A C++ condition counts as True: if it does not hold, no node is made.

    >>> _parse_bools('[True, False]'), _parse_bools('["!dtype || isDifferentiableType(*dtype)"]')
    ((True, False), (True,))
    """
    return tuple(item != "False" for item in re.findall(r'True|False|"[^"]*"', differentiability))


def _name_family(function: str, dispatch_key: str) -> str:
    """The class name up to its number (_create_op_prefix).

    >>> _name_family("special_i0e", "Default")
    'SpecialI0EBackward'
    >>> _name_family("mean", "AutogradNestedTensor")
    'MeanBackwardAutogradNestedTensor'
    """
    camel_case = "".join(word.title() for word in function.split("_"))
    family = f"{camel_case}Backward".replace("ForwardBackward", "Backward")
    return family if dispatch_key == "Default" else family + dispatch_key


# The names of edges and gradients


_HAND_WRITTEN = {
    # torch/csrc/autograd/VariableTypeManual.cpp: copy_
    "torch::autograd::CopyBackwards": Derivation(
        "copy_(Tensor(a!) self, Tensor src, bool non_blocking=False) -> Tensor(a!)",
        frozenset({"self", "src"}),
        single_grad=True,
        differentiable_results=None,
    ),
}
_FOREACH = re.compile(r"Foreach(?P<reference>\w+Backward\d+)(?P<overload>\w*)")
_NUMBER = re.compile(r"\d+$")


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """The function that a node differentiates. There is one object per node class, so identity is equality.

    ``schema``        its full text, ``aten::mm(Tensor self, Tensor mat2) -> Tensor``
    ``function``      its base name: no overload, no underscore of an in-place variant
    ``arguments``     those that have a derivative, in the order of the schema
    ``outputs``       names of the results that have a grad_output slot: the schema's where it names them, ``result``
                      for an only one, ``result 0`` for the first of several
    ``view``          whether a result is a view of an argument
    ``output_lists``  those of ``outputs`` that are lists of tensors
    """

    schema: str
    function: str
    arguments: tuple[Argument, ...]
    outputs: tuple[str, ...]
    view: bool
    output_lists: frozenset[str] = frozenset()


@cache
def find_signature(name: str) -> Signature | None:
    """The signature behind ``node.name()`` of a C++ node; None for a node that belongs to no one function.

    Answers None for every generated node where the installation of torch lacks its derivatives.yaml.

    >>> find_signature("MmBackward0").schema
    'aten::mm(Tensor self, Tensor mat2) -> Tensor'
    >>> find_signature("torch::autograd::AccumulateGrad") is None
    True
    """
    derivations = _read_derivations()
    if name in derivations:
        return _make_signature(f"aten::{derivations[name].schema}", derivations[name])
    if name.endswith("_copy"):
        return _derive_signature(derivations.get(name.removesuffix("_copy")), "{}_copy", None)
    if foreach := _FOREACH.fullmatch(name):
        return _derive_signature(derivations.get(foreach["reference"]), "_foreach_{}", foreach["overload"])
    return None


@lru_cache(maxsize=4096)
def name_edges(signature: Signature | None, n_edges: int) -> tuple[EdgeName, ...]:
    """The argument's name and group of each of a node's `n_edges` ``next_functions``, (None, None) where not known.

    Several lists can be separated only if they have equal lengths.

    >>> name_edges(find_signature("MmBackward0"), 2)
    (('self', None), ('mat2', None))
    >>> name_edges(find_signature("CatBackward0"), 2)
    (('tensors[0]', 'tensors'), ('tensors[1]', 'tensors'))
    """
    if signature is None:
        return (UNNAMED,) * n_edges
    # ATen/native/ForeachUtils.h: check_foreach_api_restrictions
    return _expand(signature.arguments, n_edges, equal_lists=signature.function.startswith("_foreach_"))


@lru_cache(maxsize=4096)
def name_outputs(signature: Signature | None, n_outputs: int) -> tuple[str, ...]:
    """What each of a node's `n_outputs` grad_output slots is the gradient of; numbers where there are no names.

    >>> name_outputs(find_signature("LinalgQrBackward0"), 2), name_outputs(find_signature("UnbindBackward0"), 2)
    (('Q', 'R'), ('result[0]', 'result[1]'))
    >>> name_outputs(None, 1), name_outputs(None, 2)
    (('result',), ('result 0', 'result 1'))
    """
    unnamed = name_results(n_outputs)
    if signature is None:
        return unnamed
    outputs = tuple(Argument(name, name in signature.output_lists) for name in signature.outputs)
    expanded = _expand(outputs, n_outputs, equal_lists=False)
    return tuple(name or number for (name, _), number in zip(expanded, unnamed, strict=True))


def _make_signature(schema_text: str, derivation: Derivation) -> Signature | None:
    """`schema_text` is the derivation's own schema, or that of a function derived from it with other names."""
    schema, reference = parse_schema(schema_text), parse_schema(derivation.schema)
    if len(schema.arguments) != len(reference.arguments):
        return None
    arguments = zip(schema.arguments, reference.arguments, strict=True)
    outputs = derivation.select_differentiable(schema.results)
    return Signature(
        schema_text,
        _strip_inplace_underscore(schema.function),
        tuple(argument for argument, original in arguments if original.name in derivation.arguments),
        tuple(output.name for output in outputs),
        schema.view,
        frozenset(output.name for output in outputs if output.is_list),
    )


def _derive_signature(derivation: Derivation | None, pattern: str, overload: str | None) -> Signature | None:
    """That of a function whose derivative the code generator made from another's, ``split_copy`` from ``split``.

    torchgen/packaged/autograd/load_derivatives.py (add_view_copy_derivatives: same overload) and
    torchgen/api/autograd.py (gen_foreach_derivativeinfo: arguments correspond by position).
    """
    if derivation is None:
        return None
    original = parse_schema(derivation.schema)
    wanted = original.overload if overload is None else overload
    for schema in torch._C._jit_get_schemas_for_operator(f"aten::{pattern.format(original.function)}"):
        if schema.overload_name == wanted:
            return _make_signature(str(schema), derivation)
    return None


def _strip_inplace_underscore(function: str) -> str:
    """The name of the function without the underscore of its in-place variant.

    >>> _strip_inplace_underscore("normal_"), _strip_inplace_underscore("__ilshift__")
    ('normal', '__ilshift__')
    """
    return function if function.endswith("__") else function.removesuffix("_")


@cache
def _read_derivations() -> dict[str, Derivation]:
    """Every node class of the running torch by name.

    A family of classes (``AddBackward0``, ``AddBackward1``) that is numbered otherwise than in the running torch is
    left out: then an entry of the file was not understood, and the names after it would be wrong.
    """
    classes = read_node_classes(_read_derivatives_yaml())
    found, running = _count_families(classes), _count_families(dir(torch._C._functions))
    agreed = {
        name: derivation
        for name, derivation in classes.items()
        if found[_strip_number(name)] == running[_strip_number(name)]
    }
    return agreed | _HAND_WRITTEN


def _read_derivatives_yaml() -> str:
    """The text of the file in the torch wheel, "" where it was left out."""
    spec = importlib.util.find_spec("torchgen")
    for directory in (spec and spec.submodule_search_locations) or ():
        path = Path(directory, "packaged", "autograd", "derivatives.yaml")
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""


def _strip_number(name: str) -> str:
    return _NUMBER.sub("", name)


def _count_families(names: Iterable[str]) -> Counter[str]:
    return Counter(map(_strip_number, names))


def _expand(arguments: Sequence[Argument], n_entries: int, *, equal_lists: bool) -> tuple[EdgeName, ...]:
    """Lay `arguments` out over `n_entries`. From the first list to the last all is unnamed if lengths are not known."""
    lists = [index for index, argument in enumerate(arguments) if argument.is_list]
    start, stop = (lists[0], lists[-1] + 1) if lists else (len(arguments), len(arguments))
    head, middle, tail = arguments[:start], arguments[start:stop], arguments[stop:]
    n_middle = n_entries - len(head) - len(tail)
    if n_middle < 0 or (n_middle and not middle):
        return (UNNAMED,) * n_entries
    return (*_name_plain(head), *_name_members(middle, n_middle, equal_lists=equal_lists), *_name_plain(tail))


def _name_plain(arguments: Sequence[Argument]) -> list[EdgeName]:
    return [(argument.name, None) for argument in arguments]


def _name_members(lists: Sequence[Argument], n_entries: int, *, equal_lists: bool) -> Sequence[EdgeName]:
    all_lists = all(argument.is_list for argument in lists)
    if len(lists) > 1 and not (equal_lists and all_lists and n_entries % len(lists) == 0):
        return (UNNAMED,) * n_entries
    return [
        (f"{argument.name}[{index}]", argument.name) for argument in lists for index in range(n_entries // len(lists))
    ]
