"""Reads derivatives.yaml: which autograd node classes PyTorch generates, and from which formulas.

The torch wheel carries the file its autograd code was generated from, torchgen/packaged/autograd/derivatives.yaml. What
is worked out here follows torchgen/packaged/autograd/load_derivatives.py (names and numbers of the node classes,
arguments with derivatives) and torchgen/api/autograd.py (gen_differentiable_outputs). Neither torchgen nor PyYAML is
imported: loading the file with them takes seconds, and PyYAML need not be installed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

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
    """The tensors that the text of a function schema speaks of.

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

    def with_gradient(self, results: tuple[Argument | None, ...]) -> tuple[Argument, ...]:
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
            for match, name in zip(results, result_names(len(results)), strict=True)
        ),
        any(match is not None and match["alias"] is not None and "!" not in match["alias"] for match in results),
    )


def result_names(n_results: int) -> tuple[str, ...]:
    """What the results of a function are called where its schema does not name them.

    >>> result_names(1), result_names(2)
    (('result',), ('result 0', 'result 1'))
    """
    return ("result",) if n_results == 1 else tuple(f"result {index}" for index in range(n_results))


def _split_results(text: str) -> list[str]:
    """Split what stands behind the arrow.

    >>> _split_results("(Tensor(a!), int)"), _split_results("Tensor[]"), _split_results("()")
    (['Tensor(a!)', 'int'], ['Tensor[]'], [])
    """
    if not text.startswith("("):
        return [text]
    return text[1:-1].split(", ") if text != "()" else []


def node_classes(text: str) -> dict[str, Derivation]:
    """Every node class that PyTorch generates from `text`, the content of derivatives.yaml, by ``node.name()``.

    The classes that the code generator derives from these are not listed: those of the ``_copy`` variants of view
    functions (``ExpandBackward0_copy``) and most of the foreach functions (``ForeachAddBackward0List``).

    >>> node_classes('''
    ... - name: mul.Tensor(Tensor self, Tensor other) -> Tensor
    ...   self: mul_tensor_backward(grad, other, self.scalar_type())
    ...   other: mul_tensor_backward(grad, self, other.scalar_type())
    ...   result: other_t * self_p + self_t * other_p
    ... ''')["MulBackward0"].arguments == {"self", "other"}
    True
    """
    classes: dict[str, Derivation] = {}
    numbers: Counter[str] = Counter()
    for schema, fields in _entries(text):
        for dispatch_key, formulas in _formulas_by_dispatch_key(fields).items():
            derivation = _derivation(schema, formulas, fields.get("output_differentiability"))
            if not derivation.arguments:
                continue
            family = _family(schema["function"], dispatch_key)
            classes[f"{family}{numbers[family]}"] = derivation
            numbers[family] += 1
    return classes


def _entries(text: str) -> Iterator[tuple[re.Match[str], dict[str, str]]]:
    """An entry whose schema cannot be read is left out; the classes numbered after it are then not to be trusted."""
    for entry in _ENTRY.split(_COMMENT.sub("", text))[1:]:
        first_line, _, body = entry.partition("\n")
        schema = _SCHEMA.fullmatch(first_line.strip())
        if schema is not None:
            yield schema, _fields(body, 2)


def _fields(block: str, indent: int) -> dict[str, str]:
    parts = _KEYS[indent].split(block)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _formulas_by_dispatch_key(fields: dict[str, str]) -> dict[str, dict[str, str]]:
    if "dispatch" not in fields:
        return {"Default": fields}
    return {key: _fields(block, 6) for key, block in _fields(fields["dispatch"], 4).items()}


def _derivation(schema: re.Match[str], formulas: dict[str, str], differentiability: str | None) -> Derivation:
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
        None if differentiability is None else _bools(differentiability),
    )


def _bools(differentiability: str) -> tuple[bool, ...]:
    """A C++ condition stands for True: where it does not hold, no node is made.

    >>> _bools('[True, False]'), _bools('["!dtype || isDifferentiableType(*dtype)"]')
    ((True, False), (True,))
    """
    return tuple(item != "False" for item in re.findall(r'True|False|"[^"]*"', differentiability))


def _family(function: str, dispatch_key: str) -> str:
    """The class name up to its number (_create_op_prefix).

    >>> _family("special_i0e", "Default")
    'SpecialI0EBackward'
    >>> _family("mean", "AutogradNestedTensor")
    'MeanBackwardAutogradNestedTensor'
    """
    camel_case = "".join(word.title() for word in function.split("_"))
    family = f"{camel_case}Backward".replace("ForwardBackward", "Backward")
    return family if dispatch_key == "Default" else family + dispatch_key
