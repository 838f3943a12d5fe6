"""The records of a backward graph: what was observed, and what was worked out from it.

Small, immutable, ordered; no torch. Everything that the layers above need in order to decide is in them, so that
a saved trace answers as well as a fresh one. The words are PyTorch's own: a *node* is an autograd Node, a torch.fx
node is always written *fx node*.
"""

from __future__ import annotations

import enum
from collections import Counter

import msgspec
from msgspec.structs import force_setattr

from fxgrad.graph.hook_kinds import HookKind

Path = tuple[str | int, ...]
"""Where something sits inside a value: ``("args", 1, 0)``, ``("kwargs", "mask")``, ``("result", 0)``."""

Shape = tuple[int | str, ...]
"""Sizes; a str is a symbolic size."""


class Record(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """Base of all records: immutable, compared and hashed by value; ``msgspec.structs.replace`` makes a changed copy.

    A msgspec Struct is built faster than a NamedTuple (a trace makes millions), is written as JSON without the fields
    that have their default, and checks the types of its fields where it is read from JSON. ``gc=False``: a record holds
    only plain values, tuples and records that existed before it, so there are no cycles for Python to collect.
    """


def _hold_default(record: Record, field: str, default: object) -> None:
    """Where a field equals its default, let it hold the default itself: only that does msgspec leave out of JSON."""
    value = getattr(record, field)
    if value is not default and value == default:
        force_setattr(record, field, default)


class Source(Record, frozen=True):
    """A line of the user's code. ``code`` is the stripped text of the line, "" where it cannot be read."""

    file: str
    line: int
    code: str = ""
    function: str = ""


class TensorMeta(Record, frozen=True):
    """What a tensor, or a gradient, looks like. ``shape`` is None where it cannot be read (strided nested)."""

    shape: Shape | None
    dtype: str
    device: str
    layout: str = "strided"

    def __post_init__(self) -> None:
        _hold_default(self, "layout", "strided")


class Value(Record, frozen=True):
    """A tensor of the recorded forward: result number ``index`` of an fx node (None: the fx node itself)."""

    fx_node: str
    index: int | None = None


class Taken(Record, frozen=True):
    """Where a value left torch: ``function`` is the tensor's method that gave it to Python (``item``, ``numpy``).

    ``call`` is the id of the module call that was running then.
    """

    function: str
    source: Source | None
    call: str | None = None


class NodeKind(enum.Enum):
    """What sort of autograd Node this is.

    ``FUNCTION``          generated from derivatives.yaml (``AddmmBackward0``), or hand-written C++ beside it
    ``CUSTOM_FUNCTION``   a Python ``torch.autograd.Function`` (or an operator registered from Python)
    ``ACCUMULATE_GRAD``   adds into the ``.grad`` of one leaf
    ``BACKWARD_HOOK``     ``BackwardHookFunctionBackward``, which a full module hook puts on inputs and outputs
    ``COPY_SLICES``       an in-place operation on a view, seen from its base
    ``COMPILED``          a region that torch.compile made (``CompiledFunctionBackward``)
    ``CHECKPOINT``        a reentrant ``torch.utils.checkpoint`` (``CheckpointFunctionBackward``)
    ``SCRIPTED``          a differentiable graph of TorchScript
    ``ERROR``             raises when backward reaches it (``NotImplemented``, ``DelayedError``, ``Error``)
    ``OPAQUE``            any other node: a C++ extension's, or one that only some build of torch has
    """

    FUNCTION = "function"
    CUSTOM_FUNCTION = "custom function"
    ACCUMULATE_GRAD = "accumulate grad"
    BACKWARD_HOOK = "backward hook"
    COPY_SLICES = "copy slices"
    COMPILED = "compiled"
    CHECKPOINT = "checkpoint"
    SCRIPTED = "scripted"
    ERROR = "error"
    OPAQUE = "opaque"

    @property
    def is_python(self) -> bool:
        """Whether backward of this node is Python code, whose gradients the graph does not decide."""
        return self in _PYTHON_KINDS


_PYTHON_KINDS = frozenset({NodeKind.CUSTOM_FUNCTION, NodeKind.BACKWARD_HOOK, NodeKind.COMPILED, NodeKind.CHECKPOINT})


class Edge(Record, frozen=True):
    """One entry of ``node.next_functions``; a hook on the node gets one ``grad_input`` entry for it.

    ``argument``     the schema's (or ``forward``'s) name for the tensor argument; for a list ``tensors[2]``
    ``group``        the name of the list argument that it belongs to, None for a plain argument
    ``next_node``    id of the node that the gradient goes to; None where there is none
    ``input_nr``     which of that node's gradients it adds to
    ``null_reason``  why ``next_node`` is None
    ``operand``      what stands behind a null edge, where that is known
    ``value``        the forward value behind the edge, where the forward was recorded
    """

    argument: str | None
    group: str | None
    next_node: int | None
    input_nr: int
    null_reason: str | None = None
    operand: TensorMeta | None = None
    value: Value | None = None


class Returned(Record, frozen=True):
    """What the backward of a Python Function returns for each edge, as its code tells: "tensor", "none" or "unknown".

    ``whenever``    whichever gradients it receives
    ``if_arrived``  where each of the gradients ``slots`` is a Tensor
    """

    whenever: tuple[str, ...]
    if_arrived: tuple[str, ...]
    slots: tuple[int, ...]


class Node(Record, frozen=True):
    """One autograd Node, numbered by ``id`` in a topological order from the roots.

    ``label``            unique and readable: ``AddmmBackward0_3`` (``_3`` counts the nodes of that name from 0)
    ``name``             ``node.name()``
    ``schema``           the aten schema its arguments are named by; None where the node has none
    ``sequence_nr``      when it was made, per thread; None for nodes that take none (AccumulateGrad)
    ``grad_outputs``     one TensorMeta per gradient that it receives
    ``output_names``     what each of them belongs to: "result", "result 0", or the schema's name for the result
    ``edges``            one per entry of ``next_functions``
    ``variable``         the name of the leaf (``Variable.name``) that an AccumulateGrad adds into
    ``call``             id of the ModuleCall that made it, with ``call_reason`` where that is None
    ``fx_node``          name of the fx node that made it, with ``fx_reason`` where that is None
    ``values``           the forward value that each of grad_outputs belongs to, where the forward was recorded
    ``source``           the user's line that made it
    ``needs_input_grad`` of a custom Function, one bool per argument of forward
    ``hooks``            ids of the hooks registered on the node itself, in order; ``prehooks`` likewise
    ``settings``         arguments that are no tensors and decide whether a gradient exists: (("ord", "2"),)
    ``overwritten``      names of saved tensors that were changed in place since: the node raises when it is executed
    ``nested_backward``  where in this graph, as (node, slot), a backward may enter that this node's own Python code starts,
                         besides the leaves that it uses; (None, 0) stands for what the roots do not reach. None: its code
                         starts none
    ``returned``         of a custom Function, what its backward returns; None where its code does not tell
    """

    id: int
    label: str
    name: str
    kind: NodeKind
    schema: str | None
    sequence_nr: int | None
    grad_outputs: tuple[TensorMeta, ...]
    output_names: tuple[str, ...]
    edges: tuple[Edge, ...]
    variable: str | None = None
    call: str | None = None
    call_reason: str | None = None
    fx_node: str | None = None
    fx_reason: str | None = None
    values: tuple[Value | None, ...] = ()
    source: Source | None = None
    needs_input_grad: tuple[bool, ...] | None = None
    hooks: tuple[int, ...] = ()
    prehooks: tuple[int, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    overwritten: tuple[str, ...] = ()
    nested_backward: tuple[tuple[int | None, int], ...] | None = None
    returned: Returned | None = None

    @property
    def short_name(self) -> str:
        """The name without its C++ namespace: ``AccumulateGrad``."""
        return self.name.rpartition("::")[2]

    @property
    def members(self) -> tuple[int | None, ...]:
        """For each edge which member of its list argument it stands for, from 0; None for a plain argument."""
        lengths: Counter[str | None] = Counter()
        found: list[int | None] = []
        for edge in self.edges:
            found.append(None if edge.group is None else lengths[edge.group])
            lengths[edge.group] += 1
        return tuple(found)


class Root(Record, frozen=True):
    """A tensor that backward starts from: its node and slot, and where it was found in the output."""

    node: int
    slot: int
    path: Path


class TensorRef(Record, frozen=True):
    """A tensor at some place of a module call.

    ``node``       id of the node that its gradient goes to (for a leaf: its AccumulateGrad); None where the tensor
                   requires no grad or that node is not in the graph
    ``node_name``  the name of that node, also where it is not in the graph; None where there is none
    ``slot``       which of that node's gradients
    ``name``       the parameter's or buffer's qualified name
    ``fx_node``    the fx node that had made it, and which of its results it is, ``fx_index`` (None: its only one)
    ``sequence_nr`` that of its node where the node is not in the graph; None where it is, or takes none
    """

    path: Path
    meta: TensorMeta
    requires_grad: bool
    is_leaf: bool
    node: int | None = None
    slot: int = 0
    node_name: str | None = None
    name: str | None = None
    fx_node: str | None = None
    fx_index: int | None = None
    sequence_nr: int | None = None


class Variable(Record, frozen=True):
    """A leaf or a named tensor: ``kind`` is "parameter", "buffer", "input" or "other leaf".

    ``name`` is unique in the graph; ``aliases`` are its further qualified names (tied weights).
    """

    name: str
    aliases: tuple[str, ...]
    kind: str
    meta: TensorMeta
    requires_grad: bool
    is_leaf: bool
    retains_grad: bool = False
    node: int | None = None
    slot: int = 0


class Module(Record, frozen=True):
    """Every module of the model, called or not. ``hooks`` are ids of the hooks registered on it.

    ``description``  what repr() shows on its first line, like ``LSTMCell(1000, 1000)``
    ``is_fx_leaf``   whether ``torch.fx.symbolic_trace`` calls it as a whole, if it is not the model itself (its own
                     answer, ``Tracer.is_leaf_module``); None: not asked
    ``made_by``      "torch.compile" or "torch.jit", where its forward is not the Python function that was written
    ``wraps``        path of the module inside, of a module that ``torch.compile`` returned
    """

    path: str
    aliases: tuple[str, ...]
    type_name: str
    training: bool
    full_backward_sticky: bool | None
    hooks: tuple[int, ...]
    parameters: tuple[str, ...]
    description: str = ""
    is_fx_leaf: bool | None = None
    made_by: str | None = None
    wraps: str | None = None


class FullHookSetup(Record, frozen=True):
    """What ``torch.utils.hooks.BackwardHook`` did at one call (a BackwardHookFunction on inputs and on outputs).

    ``input_positions`` are the positions of the tensors among the ``n_inputs`` positional arguments, None where no
    input node was made because no top-level positional tensor requires grad; outputs likewise.
    """

    n_inputs: int
    input_positions: tuple[int, ...] | None
    n_outputs: int
    output_positions: tuple[int, ...] | None


class ModuleCall(Record, frozen=True):
    """One call of one module.

    ``id``               ``encoder.layer.0#2``: the module's path and ``index``, which call of it this is, from 1
    ``parent``           id of the call around it
    ``sequence_window``  nodes made during the call have a sequence number s with window[0] <= s < window[1]
    ``inputs``           tensors among the arguments as ``forward`` got them: after the forward pre-hooks
    ``outputs``          tensors in the final result: after forward hooks
    ``n_args``           number of positional arguments; ``n_results`` len of the result, 1 if it is no tuple
    ``hooks``            ids of the backward hooks as snapshotted by this call, in run order, globals included
    ``legacy_tensor``    the tensor whose grad_fn a non-full hook lands on; ``legacy_reason`` why there is none
    ``input_hook_node``  id of the BackwardHookFunction node on the inputs, ``output_hook_node`` of that on outputs;
                         None where it was not made or is not in the graph (``full_hook`` tells which)
    ``checkpointed``     made inside torch.utils.checkpoint: "reentrant" or "non-reentrant"; "function": made inside the
                         forward of a custom Function whose backward may run it again; None: none of these
    ``argument_names``   forward's parameter name of each positional argument
    ``on_source_line``   whether ``source`` makes the call itself, not through torch (a container, a checkpoint)
    ``forward_start``    the sequence number at which forward begins: after the forward pre-hooks; None: not seen
    ``result_kind``      "tensor", "tuple", "namedtuple", "struct sequence" (``torch.return_types``), "tuple subclass"
                         or "other"; None: not seen
    ``transformed``      whether a transform of torch.func (``grad``, ``vmap``) runs it
    """

    id: str
    path: str
    type_name: str
    index: int
    parent: str | None
    sequence_window: tuple[int, int]
    inputs: tuple[TensorRef, ...]
    outputs: tuple[TensorRef, ...]
    n_args: int
    n_results: int
    result_type: str
    grad_enabled: bool
    completed: bool
    training: bool
    hooks: tuple[int, ...] = ()
    legacy_tensor: TensorRef | None = None
    legacy_reason: str | None = None
    input_hook_node: int | None = None
    output_hook_node: int | None = None
    full_hook: FullHookSetup | None = None
    checkpointed: str | None = None
    argument_names: tuple[str, ...] = ()
    source: Source | None = None
    on_source_line: bool = True
    forward_start: int | None = None
    result_kind: str | None = None
    transformed: bool = False


class UnrecordedCall(Record, frozen=True):
    """A module call that was not watched, but that full hooks left their nodes and their ``BackwardHook`` of.

    ``path``           the module's path; ``<Linear>`` where the model does not hold it
    ``has_waiting``    whether an earlier backward ran the node on the outputs and not that on the inputs: what it left
                       is still there
    The other fields are those of `ModuleCall`.
    """

    path: str
    full_hook: FullHookSetup
    input_hook_node: int | None = None
    output_hook_node: int | None = None
    argument_names: tuple[str, ...] = ()
    has_waiting: bool = False


class FxNode(Record, frozen=True):
    """One node of the recorded ``torch.fx.Graph``.

    ``modules`` are the ids of the module calls around it, outermost first; ``meta`` the metas of its tensor results.

    ``changes``       the values that it changed in place
    ``aliases``       for each tensor result, the value that it is a view of, or is itself, or shares memory with since
                      ``detach``; None where it has memory of its own
    ``grad_enabled``  whether autograd recorded what it did
    ``inputs``        the names of the fx nodes among its arguments, each once
    ``requires_grad`` whether each tensor result required grad when it was returned
    ``taken``         where Python took one of its results out of torch
    ``asked``         where Python asked whether one of its results is true, as in ``if x.sum() > 0``
    """

    name: str
    op: str
    target: str
    args_text: str
    modules: tuple[str, ...]
    source: Source | None
    meta: tuple[TensorMeta, ...]
    sequence_window: tuple[int, int] | None
    changes: tuple[Value, ...] = ()
    aliases: tuple[Value | None, ...] = ()
    grad_enabled: bool = True
    inputs: tuple[str, ...] = ()
    requires_grad: tuple[bool, ...] = ()
    taken: tuple[Taken, ...] = ()
    asked: tuple[Taken, ...] = ()


class Held(Record, frozen=True):
    """A tensor that a hook's function holds, and that has a graph behind it.

    ``name``      that of a variable of a function around it, of a default, or of an argument of a partial
    ``node``      id of its node, None where that is not in the graph or was not looked at (views)
    ``is_inside`` whether a container is held that holds the tensor
    """

    name: str
    node: int | None
    is_inside: bool


class Hook(Record, frozen=True):
    """A registered hook.

    ``id``          rank in the order of registration
    ``owner``       module path, tensor name or node label; "" for a global hook
    ``function``    qualified name of the user's function
    ``source``      where that function is defined; ``registered`` where it was registered, when that was seen
    ``targets``     names of a multi-grad hook's tensors, ``mode`` "all" or "any"
    ``observed``    (node, slot) that it was seen on; slot None for hooks on a node
    ``active``      False: its handle was removed, but calls made before still carry it
    ``unplaced``    why it is on no node of the graph, where it is on none
    ``may_return``  whether its code can return something else than None; None: not known
    ``target_slots`` (node, slot) of each of ``targets``, (None, 0) where that is not in the graph
    ``registered_nr`` autograd's sequence number when it was registered, where that was seen, and ``registered_in`` the
                    id of the module call that was running then, None outside of every call
    ``grad_reads``  of a module hook: where its code reads ``.grad``, as a path from the module that it is given:
                    ("weight",); "parameters()" where it goes through the module's parameters
    ``holds``       tensors that have a graph behind them, and that its function keeps alive
    ``uncounted``   which of ``targets`` an "all" hook does not wait for: PyTorch took another node for theirs
    ``more_targets`` why a multi-grad hook is on more places than ``target_slots`` says; None where it is not
    """

    id: int
    kind: HookKind
    owner: str
    function: str
    source: Source | None = None
    registered: Source | None = None
    prepend: bool = False
    targets: tuple[str, ...] = ()
    mode: str | None = None
    observed: tuple[int, int | None] | None = None
    active: bool = True
    unplaced: str | None = None
    may_return: bool | None = None
    target_slots: tuple[tuple[int | None, int], ...] = ()
    registered_nr: int | None = None
    registered_in: str | None = None
    grad_reads: tuple[str, ...] = ()
    holds: tuple[Held, ...] = ()
    more_targets: str | None = None
    uncounted: tuple[int, ...] = ()


class Gradient(Record, frozen=True):
    """One entry of a ``grad_input`` or ``grad_output`` tuple.

    ``status`` is "tensor", "none" or "unknown"; ``reason`` says why it is None or unknown. ``shape`` and ``dtype``
    are those of the gradient; for "none", those that it would have, where known.
    """

    index: int
    argument: str | None
    status: str
    shape: Shape | None
    dtype: str | None
    expression: str | None
    reason: str | None = None


class HookSite(Record, frozen=True):
    """A hook at one place of the graph, with what it will receive there.

    ``call`` and ``node`` are ids, None where there is none; ``slot`` which gradient of the node a tensor hook sees.
    ``fires`` is None where only backward decides, ``times`` likewise. ``order`` is its rank in the firing order.
    ``reason`` says why it sits here, or why it has no place or does not fire.
    """

    hook: Hook
    call: str | None
    node: int | None
    slot: int | None
    grad_input: tuple[Gradient, ...]
    grad_output: tuple[Gradient, ...]
    fires: bool | None
    times: int | None
    order: int | None
    reason: str


class Explanation(Record, frozen=True):
    """What a rule has to say: ``severity`` is "info", "warning" or "error".

    ``owner``   the module or the tensor that a finding without a site is about
    ``source``  the line of the user's program that it is about, where there is one
    """

    code: str
    severity: str
    headline: str
    because: str
    fix: str
    site: HookSite | None = None
    owner: str | None = None
    source: Source | None = None


Received = tuple[Shape | None, str]
"""Shape (None where it cannot be read) and dtype of a gradient that a hook got."""


class Firing(Record, frozen=True):
    """One run of one hook.

    ``call``   id of the module call whose snapshot the hook belongs to, None for hooks on tensors and nodes
    ``order``  its rank among all firings; None where it was seen only by its effect (retain_grad)
    ``node``   id of the node that was executed; None for one that is not in the graph
    ``grad_input``, ``grad_output``  what it got: None for a None, () for a tuple that this kind of hook does not get
    """

    hook: int
    call: str | None
    order: int | None
    node: int | None
    grad_input: tuple[Received | None, ...]
    grad_output: tuple[Received | None, ...]


SCHEMA_VERSION = 2
"""Of the records as they are saved; `GraphInfo.schema_version` holds it. Another number is another meaning."""

BACKWARD_APIS = ("backward", "grad")
EARLIER_CALLS = ("retained", "freed")
"""What `BackwardCall` says of ``api`` and ``after``."""


class BackwardCall(Record, frozen=True):
    """How backward will be called; it starts from the graph's roots.

    ``inputs``  (node, slot) of each tensor in ``inputs=``, for a leaf that of its AccumulateGrad; None: no ``inputs=``.
                Tensors that are not in the graph are left out, so ``()`` means that none of them is.
    ``api``     "backward" or "grad" (``torch.autograd.grad``, which always has inputs)
    ``after``   the same call was made once before on this graph: "retained", with ``retain_graph=True``, or "freed",
                without; None: this is the first
    ``names``   what was given as inputs; ``absent`` those among them that are not in the graph
    ``roots``   what was given as roots; None: the graph's roots are those that the trace found
    """

    inputs: tuple[tuple[int, int], ...] | None = None
    api: str = "backward"
    after: str | None = None
    names: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    roots: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _hold_default(self, "api", "backward")


PLAIN_CALL = BackwardCall()
"""``backward()`` from the roots that were found."""


class Landing(Record, frozen=True):
    """The autograd node that the non-full hooks of one module call sit on, in brief.

    ``call`` is the call's id, ``node`` the node's name, ``grad_input`` and ``grad_output`` how many entries its hooks get.
    """

    call: str
    node: str
    grad_input: int
    grad_output: int


class OtherDevice(Record, frozen=True):
    """The same program on another device, for comparison.

    ``landings`` has an entry for each module call whose first result has a grad_fn in the graph there; ``failure`` says
    why there are none, where it could not be traced there.
    """

    device: str
    landings: tuple[Landing, ...] = ()
    failure: str | None = None


class GraphInfo(Record, frozen=True):
    """How the graph was made, and for which call of backward its sites are predicted.

    ``calls_reason``  why there are no module calls and no fx nodes (a capture); None where there are
    ``global_backward_sticky`` which global backward hooks this process has had: full (True), legacy (False), or none
    ``skipped``       outputs that are no roots, each with why
    ``notes``         what else a reader must know (compiled modules run eagerly, warnings of PyTorch, ...)
    ``other_device``  an emulated program as it is without emulation; None where nobody looked
    """

    schema_version: int
    fxgrad: str
    torch: str
    python: str
    device: str
    emulated: bool
    root_rule: str
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    calls_reason: str | None = None
    global_backward_sticky: bool | None = None
    backward: BackwardCall = PLAIN_CALL
    other_device: OtherDevice | None = None

    def __post_init__(self) -> None:
        _hold_default(self, "backward", PLAIN_CALL)
