"""The records of a backward graph: what was observed, and what was worked out from it.

They are small, immutable and ordered, and know nothing of torch. They hold everything that the layers above decide by,
so a saved trace answers as well as a fresh one. The words are PyTorch's own: a *node* is an autograd Node, a torch.fx
node is always written *fx node*. Where a field is an id, `BackwardGraph` has the record.
"""

from __future__ import annotations

import enum
from collections import Counter
from typing import Literal

import msgspec
from msgspec.structs import force_setattr

from fxgrad.graph.hook_kinds import HookKind

Path = tuple[str | int, ...]
"""Where something sits inside a value: ``("args", 1, 0)``, ``("kwargs", "mask")``, ``("result", ".logits")``, an attribute."""

Shape = tuple[int | str, ...]
"""Sizes; a str is a symbolic size."""


Status = Literal["tensor", "none", "unknown"]
"""What an entry of grad_input or grad_output is: a Tensor, None, or one or the other as backward decides."""

VariableKind = Literal["parameter", "buffer", "input", "other leaf"]
HeldBy = Literal["forward", "module", "attribute"]
Checkpoint = Literal["reentrant", "non-reentrant", "function"]
MultiGradMode = Literal["all", "any"]
ReturnKind = Literal["none", "tensor", "argument", "tuple", "list", "other", "unknown"]


class Record(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """Base of all records: immutable, compared and hashed by value. ``msgspec.structs.replace`` makes a changed copy.

    msgspec builds a record faster than Python builds a NamedTuple (a trace has millions), writes it as JSON without the
    fields that have their default, and checks types when it reads one. ``gc=False`` because a record holds plain values,
    tuples and older records: it cannot be part of a reference cycle, so Python's collector need not visit it.
    """


def _hold_default(record: Record, field: str, default: object) -> None:
    """Replace a value that equals its field's default by the default: msgspec compares by identity when it omits fields."""
    value = getattr(record, field)
    if value is not default and value == default:
        force_setattr(record, field, default)


class Source(Record, frozen=True):
    """A line of the user's code. ``code`` is the stripped text of the line, "" if it cannot be read."""

    file: str
    line: int
    code: str = ""
    function: str = ""


class TensorMeta(Record, frozen=True):
    """What a tensor or a gradient looks like. ``shape`` is None for a strided nested tensor: it cannot be read."""

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
    """A place where Python takes a value out of torch.

    ``function``  the tensor's method that does it: ``item``, ``numpy``
    ``call``      id of the module call that is running then
    """

    function: str
    source: Source | None
    call: str | None = None


class NodeKind(enum.Enum):
    """What sort of autograd Node a node is.

    ``FUNCTION``          generated from derivatives.yaml (``AddmmBackward0``), or hand-written C++ beside it
    ``CUSTOM_FUNCTION``   a Python ``torch.autograd.Function`` (or an operator registered from Python)
    ``ACCUMULATE_GRAD``   adds into the ``.grad`` of one leaf
    ``BACKWARD_HOOK``     ``BackwardHookFunctionBackward``, which a full module hook puts on inputs and outputs
    ``COPY_SLICES``       an in-place operation on a view, seen from its base
    ``COMPILED``          a region that torch.compile made (``CompiledFunctionBackward``)
    ``CHECKPOINT``        a reentrant ``torch.utils.checkpoint`` (``CheckpointFunctionBackward``)
    ``SCRIPTED``          a differentiable graph of TorchScript: one node for several operators
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
    def is_leaf(self) -> bool:
        """Whether the node is the AccumulateGrad of a leaf."""
        return self is NodeKind.ACCUMULATE_GRAD

    @property
    def is_python(self) -> bool:
        """Whether Python code computes the node's gradients, so that the graph alone does not decide them."""
        return self in _PYTHON_KINDS

    @property
    def decides_alone(self) -> bool:
        """Whether code that the graph does not show decides between Tensor and None for each ``grad_input`` entry."""
        return self in _DECIDING_KINDS


_PYTHON_KINDS = frozenset({NodeKind.CUSTOM_FUNCTION, NodeKind.BACKWARD_HOOK, NodeKind.COMPILED, NodeKind.CHECKPOINT})
_DECIDING_KINDS = frozenset(
    {
        NodeKind.CUSTOM_FUNCTION,
        NodeKind.COMPILED,
        NodeKind.CHECKPOINT,
        NodeKind.SCRIPTED,
        NodeKind.OPAQUE,
        NodeKind.ERROR,
    }
)


class Edge(Record, frozen=True):
    """One entry of ``node.next_functions``; a hook on the node gets one ``grad_input`` entry for it.

    ``argument``     name of the tensor argument in the schema or in ``forward``; in a list ``tensors[2]``
    ``group``        name of the list argument that it belongs to; None for a plain argument
    ``next_node``    id of the node that the gradient goes to; None if there is none
    ``input_nr``     which of that node's gradients it adds to
    ``null_reason``  why ``next_node`` is None
    ``operand``      the tensor behind a null edge, if known
    ``value``        the forward value behind the edge, if the forward was recorded
    """

    argument: str | None
    group: str | None
    next_node: int | None
    input_nr: int
    null_reason: str | None = None
    operand: TensorMeta | None = None
    value: Value | None = None


class ReturnError(Record, frozen=True):
    """Why backward raises at a Python Function, whichever gradients it receives.

    ``expected``  how many values its backward must return: one for each argument of forward
    ``got``       how many it returns; None if its code always raises, or there is none
    ``is_missing``  whether the Function has no backward
    """

    expected: int
    got: int | None
    is_missing: bool = False


class Returned(Record, frozen=True):
    """What the code of a Python Function's backward returns for each edge: "tensor", "none" or "unknown".

    ``whenever``    whichever gradients it receives
    ``if_arrived``  if each of the gradients ``slots`` is a Tensor
    ``error``       why it raises whenever it is executed; None if it does not, or that is not known
    """

    whenever: tuple[Status, ...]
    if_arrived: tuple[Status, ...]
    slots: tuple[int, ...]
    error: ReturnError | None = None


class ScriptOperator(Record, frozen=True):
    """The operator of a TorchScript program that made a node.

    ``kind``    its name in the script's graph: ``aten::linear``, which may make several nodes; ``prim::DifferentiableGraph``
                of a node that stands for several operators
    ``module``  path of the module inside the script whose method it is in; None if that is not known
    ``source``  the line that it was compiled from, in the file, or in the archive's code where that has no file's line
    ``inside``  the operators that a differentiable graph ran, in order
    """

    kind: str
    module: str | None
    source: Source | None
    inside: tuple[ScriptOperator, ...] = ()


CHECKPOINT_ARGUMENTS = "the arguments of its checkpoint"


class Node(Record, frozen=True):
    """One autograd Node, numbered by ``id`` in a topological order from the roots.

    ``label``            unique and readable: ``AddmmBackward0_3`` (``_3`` counts the nodes of that name from 0)
    ``name``             ``node.name()``
    ``schema``           the aten schema that names its arguments; None if it has none
    ``sequence_nr``      counts, per thread, the nodes made before it; None for nodes that take no number (AccumulateGrad)
    ``grad_outputs``     one TensorMeta per gradient that it receives
    ``output_names``     what each of these belongs to: "result", "result 0", or the schema's name for the result
    ``edges``            one per entry of ``next_functions``
    ``variable``         name of the leaf (``Variable.name``) that an AccumulateGrad adds into
    ``call``             id of the ModuleCall that made it; ``call_reason`` says why if that is None
    ``fx_node``          name of the fx node that made it; ``fx_reason`` says why if that is None
    ``source``           the user's line that made it
    ``needs_input_grad`` of a custom Function: one bool per argument of forward
    ``hooks``            ids of the hooks registered on the node itself, in order; ``prehooks`` likewise
    ``settings``         arguments other than tensors that decide whether a gradient exists: (("ord", "2"),)
    ``overwritten``      names of saved tensors that were changed in place since; `CHECKPOINT_ARGUMENTS` where that is an
                         argument of the non-reentrant checkpoint that runs forward again for what the node saved
    ``freed``            whether an earlier backward freed what the node saved; of CopySlices, whether it may have
    ``reads_saved``      whether the node reads what it saved whenever it is executed; False if only its own code decides,
                         and of CopySlices if only backward does
    ``recomputed``       whether a non-reentrant checkpoint runs forward again in backward for what the node saved
    ``nested_backward``  if the node's own Python code starts a backward: the slots of this graph, as (node, slot), that this
                         may enter besides the leaves that it uses; (None, 0) stands for what the roots do not reach
    ``returned``         of a custom Function: what its backward returns; None if its code does not say
    ``saturated``        whether every element of what a ReLU, a clamp or the like got in forward was where its derivative is
                         zero; False also where the values were not looked at
    ``script``           the operator that made it, if it is inside of a TorchScript program and known
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
    source: Source | None = None
    needs_input_grad: tuple[bool, ...] | None = None
    hooks: tuple[int, ...] = ()
    prehooks: tuple[int, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()
    overwritten: tuple[str, ...] = ()
    freed: bool = False
    reads_saved: bool = True
    recomputed: bool = False
    nested_backward: tuple[tuple[int | None, int], ...] | None = None
    returned: Returned | None = None
    saturated: bool = False
    script: ScriptOperator | None = None

    @property
    def has_lost_saved(self) -> bool:
        """Whether backward raises when the node reads what it saved: that was changed in place or freed."""
        return self.freed or bool(self.overwritten)

    @property
    def always_raises(self) -> bool:
        """Whether backward raises when it executes the node, whatever the node gets."""
        lost = self.has_lost_saved and self.reads_saved
        return lost or self.kind is NodeKind.ERROR or self.return_error is not None

    @property
    def return_error(self) -> ReturnError | None:
        """Why its own code makes backward raise whenever it is executed; None if it does not, or that is not known."""
        return None if self.returned is None else self.returned.error

    @property
    def short_name(self) -> str:
        """The name without its C++ namespace: ``AccumulateGrad``."""
        return self.name.rpartition("::")[2]

    @property
    def members(self) -> tuple[int | None, ...]:
        """For each edge, which member of its list argument it is, from 0; None for a plain argument."""
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
    """A tensor among the arguments or results of a module call.

    ``path``         where: ``("args", 1, 0)``, ``("result",)``
    ``node``         id of the node that its gradient goes to (for a leaf: its AccumulateGrad); None if the tensor requires
                     no grad, or that node is not in the graph
    ``slot``         which of that node's gradients
    ``node_name``    name of that node, in the graph or not; None if there is none
    ``name``         qualified name of the parameter or buffer
    ``fx_node``      the fx node that made it; ``fx_index`` says which of its results it is, None for its only one
    ``sequence_nr``  that of its node, if the node is not in the graph
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

    ``name`` is unique in the graph; ``aliases`` are its other qualified names (tied weights).

    ``held_by``  of a leaf that ``model.parameters()`` does not have, or has only since forward: "module" for a parameter of
                 a module that the model does not register, "attribute" for a plain attribute of a module or in one,
                 "forward" for what was made while forward ran, by the line ``made_at``; None: not known
    ``made_from``  name of the fx node whose result it was made of, where it was made while forward ran
    ``replaces``   the name of the parameter that the model held in its place before forward
    ``unsharded``  name of what forward uses in its place, where ``fully_shard`` (FSDP2) manages it: its gradient is reduced
                   from that one's
    ``earlier``    ids of the AccumulateGrad nodes that a leaf had before, and for which it has another one since: they add
                   into it as well, and ``inputs=`` does not find them. ``node`` is one of them where its own is not in the
                   graph
    ``left``       of a tensor that was computed before forward: the attribute that held it then, and holds another one since
    """

    name: str
    aliases: tuple[str, ...]
    kind: VariableKind
    meta: TensorMeta
    requires_grad: bool
    is_leaf: bool
    retains_grad: bool = False
    node: int | None = None
    slot: int = 0
    held_by: HeldBy | None = None
    made_at: Source | None = None
    unsharded: str | None = None
    earlier: tuple[int, ...] = ()
    made_from: str | None = None
    replaces: str | None = None
    left: str | None = None


class Module(Record, frozen=True):
    """A module of the model, called or not. ``hooks`` are ids of the hooks registered on it.

    ``full_backward_sticky`` its ``_is_full_backward_hook``: which kind of hook it has had; None: neither
    ``description``  the first line of its repr, such as ``LSTMCell(1000, 1000)``
    ``is_fx_leaf``   whether ``torch.fx.symbolic_trace`` calls it as a whole (``Tracer.is_leaf_module``), unless it is the
                     model itself; None: not asked
    ``made_by``      "torch.compile", "torch.jit" or "torch.fx" (also torch.export) if its forward is not the Python function
                     that was written
    ``wraps``        of a module that ``torch.compile`` returned: path of the module inside
    ``dropped``      of a scripted module: the backward hooks of the module that it was scripted from, which it does not have
    ``has_forward``  whether it can be called: an nn.ModuleList cannot
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
    dropped: tuple[str, ...] = ()
    has_forward: bool = True


class FullHookSetup(Record, frozen=True):
    """What ``torch.utils.hooks.BackwardHook`` did at one call (a BackwardHookFunction on inputs and on outputs).

    ``input_positions`` are the positions of the tensors among the ``n_inputs`` positional arguments; None if no node was
    made on the inputs, because no top-level positional tensor requires grad. Outputs likewise.
    """

    n_inputs: int
    input_positions: tuple[int, ...] | None
    n_outputs: int
    output_positions: tuple[int, ...] | None


class CompiledBefore(Record, frozen=True):
    """A hook of a module call that compiled code may pass by. Dynamo, which compiles for torch.compile, looks for hooks when
    it compiles, and not again. A trace runs nothing compiled.

    ``hook``      its id
    ``function``  name of the innermost function around the call that was compiled before the hook was registered
    ``certain``   whether it was; False where that is not known: then it is the innermost function that was compiled
    """

    hook: int
    function: str
    certain: bool


class ModuleCall(Record, frozen=True):
    """One call of one module. Calls stand in the order in which they began.

    ``id``               ``encoder.layer.0#2``: the module's path and ``index``, which call of it this is, from 1
    ``parent``           id of the call around it
    ``sequence_window``  nodes made during the call have a sequence number s with window[0] <= s < window[1]
    ``inputs``           tensors among the arguments that ``forward`` gets: after the forward pre-hooks
    ``outputs``          tensors in the final result: after the forward hooks
    ``n_args``           number of positional arguments; ``n_results`` is the len of the result, 1 if it is no tuple
    ``hooks``            ids of the backward hooks that this call snapshots, in run order, global ones included
    ``legacy_tensor``    the tensor whose grad_fn a non-full hook lands on; ``legacy_reason`` says why there is none
    ``input_hook_node``  id of the BackwardHookFunction node on the inputs, ``output_hook_node`` of the one on the outputs;
                         None if it was not made or is not in the graph (``full_hook`` says which)
    ``checkpointed``     "reentrant" or "non-reentrant" inside torch.utils.checkpoint; "function" inside the forward of a
                         custom Function whose backward may run it again; else None
    ``argument_names``   forward's parameter name of each positional argument
    ``gradless``         the line that calls the reentrant checkpoint around, or a custom Function that starts a backward like
                         one, if none of its arguments requires grad: backward does not run it again
    ``transforms``       the transforms of torch.func around, outermost first: "vmap"; "grad" (also for vjp, and for jacrev,
                         which uses it), "jvp" (also for jacfwd), "functionalize"
    ``on_source_line``   whether ``source`` makes the call itself, not through torch (a container, a checkpoint)
    ``compiled_before``  which of ``hooks`` the program passes by, if it runs what torch.compile had compiled before
    ``is_named_tuple``   whether the result is a named tuple, which full hooks make anew of its members
    ``is_opaque``        whether the result is an object that is no container, in which no tensors are looked for
    ``takes_return_dict``  whether forward has the argument ``return_dict``: it returns a tuple where that is False, by a
                         convention that transformers made
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
    checkpointed: Checkpoint | None = None
    argument_names: tuple[str, ...] = ()
    source: Source | None = None
    on_source_line: bool = True
    gradless: Source | None = None
    compiled_before: tuple[CompiledBefore, ...] = ()
    transforms: tuple[str, ...] = ()
    is_named_tuple: bool = False
    is_opaque: bool = False
    takes_return_dict: bool = False

    def find_compiled_before(self, hook: Hook) -> CompiledBefore | None:
        """What was compiled before the hook was registered, or may have been; None for a hook that is not passed by."""
        return next((each for each in self.compiled_before if each.hook == hook.id), None)


class UnrecordedCall(Record, frozen=True):
    """A module call that was not recorded, known from the nodes and the ``BackwardHook`` that full hooks put there.

    ``path``           the module's path; ``<Linear>`` for a module outside of the model
    ``has_waiting``    whether an earlier backward ran the node on the outputs and not the one on the inputs, so that what
                       it left is still there

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

    ``modules``        ids of the module calls around it, outermost first
    ``meta``           one TensorMeta per tensor result
    ``changes``        the values that it changes in place
    ``aliases``        for each tensor result, the value that it is a view of, or is itself, or shares memory with after
                       ``detach``; None if it has memory of its own
    ``grad_enabled``   whether autograd records what it does
    ``inputs``         names of the fx nodes among its arguments, each once
    ``requires_grad``  whether each tensor result required grad when it was returned
    ``taken``          where Python takes one of its results out of torch
    ``asked``          where Python asks whether one of its results is true, as in ``if x.sum() > 0``
    ``gradless``       the line that calls the reentrant checkpoint around, if none of its arguments requires grad
    ``unseen``         of a custom Function whose backward starts another one, if none of its arguments requires grad: names of
                       the leaves that its forward used without being given them
    ``graph_node``     of a call that a GraphModule made: the name of the node of its graph that the call is, or is a part of
    ``traced_in``      of a call in the GraphModule's own code: path of the module that it was in before the model was traced;
                       None: not known
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
    gradless: Source | None = None
    unseen: tuple[str, ...] = ()
    graph_node: str | None = None
    traced_in: str | None = None


class Held(Record, frozen=True):
    """A tensor with a graph behind it that a hook's function keeps alive.

    ``name``       name of the closure variable, of the default, or of the argument of a partial
    ``node``       id of its node; None if that is not in the graph, or was not looked at (views)
    ``is_inside``  whether that name holds a container with the tensor in it
    """

    name: str
    node: int | None
    is_inside: bool


class Sharding(Record, frozen=True):
    """What ``fully_shard`` (FSDP2) did with the parameter that a hook is registered on.

    The model holds a sharded parameter. Forward uses an unsharded one, which FSDP gathers. After backward FSDP reduces the
    gradient of that, and calls the post-accumulate hooks of the sharded one.

    ``parameter``    name of the sharded parameter
    ``is_replaced``  whether the hook is on what the model held before ``fully_shard``
    ``leaf``         id of the AccumulateGrad of the unsharded parameter; None if that is not in the graph
    ``refusal``      why FSDP does not reduce the gradient after the next backward, if so
    ``has_waiting``  whether FSDP reduces a gradient with the next backward that may not come from it
    """

    parameter: str
    is_replaced: bool
    leaf: int | None
    refusal: str | None = None
    has_waiting: bool = False

    @property
    def may_get_gradient(self) -> bool:
        """Whether FSDP may have a gradient to reduce."""
        return self.leaf is not None or self.has_waiting


class HookReturn(Record, frozen=True):
    """What a hook returns at one end of its code, as far as the code says it.

    ``kind``     "none"; "tensor", one that the code computes; "argument", what the hook got or an entry of it; "tuple" or
                 "list"; "other", such as a number; or "unknown"
    ``members``  of a tuple or list: what each member is, as of a value by itself; None if their number is not known
    ``each``     (name, start, stop) of the argument slice that an "argument" is the only entry of, or that a tuple or list
                 has one member for each entry of: then ``members`` has one for all, in which an "argument" is that entry
    ``dtype``    of a tensor: what the code casts it to; None if it does not, or that is not known
    ``is_scalar``  of a tensor: whether the code takes its sum or the like, which has the shape ()
    """

    kind: ReturnKind
    members: tuple[HookReturn, ...] | None = None
    each: tuple[str, int, int | None] | None = None
    dtype: str | None = None
    is_scalar: bool = False


class Hook(Record, frozen=True):
    """A registered hook.

    ``id``             rank in the order of registration
    ``owner``          module path, tensor name or node label; "" for a global hook
    ``function``       qualified name of the user's function
    ``source``         where that function is defined; ``registered`` where it was registered, if that was seen
    ``targets``        names of a multi-grad hook's tensors; ``mode`` is "all" or "any"
    ``observed``       (node, slot) that it was seen on; slot None for hooks on a node
    ``active``         False if its handle was removed; calls made before still carry it
    ``unplaced``       why it is on no node of the graph, if so
    ``may_return``     whether its code can return something other than None; None: not known
    ``returns``        what its code returns at each of its ends; () if that could not be read
    ``changes_leaf``   of a post-accumulate hook: whether its code changes the leaf in place and never reads its ``.grad``
    ``target_slots``   (node, slot) of each of ``targets``; (None, 0) if that is not in the graph
    ``registered_nr``  autograd's sequence number when it was registered, if that was seen; ``registered_in`` is the id of
                       the module call that was running then, None outside of every call
    ``grad_reads``     of a module hook: where its code reads ``.grad``, as a path from its module: ("weight",);
                       "parameters()" if it goes through the module's parameters
    ``holds``          tensors with a graph behind them that its function keeps alive
    ``more_targets``   why a multi-grad hook is on more places than ``target_slots`` says, if so
    ``uncounted``      which of ``targets`` an "all" hook does not wait for: PyTorch took another node for theirs
    ``sharding``       of a tensor hook or a post-accumulate hook on a parameter that ``fully_shard`` manages; None for a
                       tensor hook where that is in the graph itself
    ``by_torch``       whether it is PyTorch's own: a private function of torch's files, or one that is written inside another,
                       such as those of Dynamo and FSDP, bound to nothing of the program's and holding none of its functions
    ``nested_backward``  if its code starts a backward: as of `Node`
    ``left_by``        of a hook on an AccumulateGrad: name of the leaf, where that has another AccumulateGrad in the graph
    ``computed_from``  of a hook on a tensor that was computed before forward and is not in the graph: the names of the leaves
                       that it was computed from
    ``outside_model``  whether it is on an nn.Parameter that the model does not hold, or on the AccumulateGrad of one, and the
                       graph has not
    """

    id: int
    kind: HookKind
    owner: str
    function: str
    source: Source | None = None
    registered: Source | None = None
    prepend: bool = False
    targets: tuple[str, ...] = ()
    mode: MultiGradMode | None = None
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
    returns: tuple[HookReturn, ...] = ()
    changes_leaf: bool = False
    sharding: Sharding | None = None
    by_torch: bool = False
    nested_backward: tuple[tuple[int | None, int], ...] | None = None
    left_by: str | None = None
    computed_from: tuple[str, ...] = ()
    outside_model: bool = False

    @property
    def is_called_by_fsdp(self) -> bool:
        """Whether FSDP calls the hook, once it has reduced a gradient, and not the engine."""
        on_sharded = self.sharding is not None and not self.sharding.is_replaced
        return on_sharded and self.kind is HookKind.POST_ACCUMULATE_GRAD


class Gradient(Record, frozen=True):
    """One entry of a ``grad_input`` or ``grad_output`` tuple.

    ``status`` is "tensor", "none" or "unknown"; ``reason`` says why it is None or unknown. ``shape`` and ``dtype``
    are those of the gradient; for "none" those that it would have, if known. ``expression`` says what it belongs to.
    """

    index: int
    argument: str | None
    status: Status
    shape: Shape | None
    dtype: str | None
    expression: str | None
    reason: str | None = None


class HookSite(Record, frozen=True):
    """A hook at one place of the graph, with what it will receive there.

    ``call`` and ``node`` are ids, None if there is none; ``slot`` is the gradient of the node that a tensor hook sees.
    ``fires`` and ``times`` are None if only backward decides. ``order`` is the rank in the firing order, None if ``fires``
    is False. ``reason`` says why it sits here, or why it has no place or does not fire.

    What ``grad_input`` and ``grad_output`` stand for depends on the hook's kind: see `HookArguments`. They are None where
    only backward decides how many entries there are.
    """

    hook: Hook
    call: str | None
    node: int | None
    slot: int | None
    grad_input: tuple[Gradient, ...] | None
    grad_output: tuple[Gradient, ...] | None
    fires: bool | None
    times: int | None
    order: int | None
    reason: str


class Explanation(Record, frozen=True):
    """What a rule has to say: ``severity`` is "info", "warning" or "error".

    ``owner``   the module or the tensor that a finding without a site is about
    ``source``  the line of the user's program that it is about, if there is one
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
"""Shape (None if it cannot be read) and dtype of a gradient that a hook got."""


class Firing(Record, frozen=True):
    """One run of one hook, as a real backward made it.

    ``call``   id of the module call whose snapshot the hook belongs to; None for hooks on tensors and nodes
    ``order``  rank among all firings; None if only its effect was seen (retain_grad)
    ``node``   id of the node that was executed; None if it is not in the graph
    ``grad_input``, ``grad_output``  what it got: None for a None, () for a tuple that this kind of hook does not get
    """

    hook: int
    call: str | None
    order: int | None
    node: int | None
    grad_input: tuple[Received | None, ...]
    grad_output: tuple[Received | None, ...]


SCHEMA_VERSION = 2
"""Version of the records as they are saved, in `GraphInfo.schema_version`. It changes with their meaning."""

BackwardApi = Literal["backward", "grad"]
EarlierCall = Literal["retained", "freed"]
BACKWARD_APIS: tuple[BackwardApi, ...] = ("backward", "grad")
EARLIER_CALLS: tuple[EarlierCall, ...] = ("retained", "freed")
"""What `BackwardCall` says of ``api`` and ``after``."""


class BackwardCall(Record, frozen=True):
    """How backward will be called. It starts from the graph's roots.

    ``inputs``  (node, slot) of each tensor in ``inputs=``, for a leaf that of its AccumulateGrad; None without ``inputs=``.
                Tensors that are not in the graph are left out, so ``()`` means that none of them is.
    ``api``     "backward" or "grad" (``torch.autograd.grad``, which always has inputs)
    ``after``   "retained" or "freed" if the same call was made once before on this graph, with ``retain_graph=True`` or
                without; None: this is the first
    ``names``   names of the tensors in ``inputs=``; ``absent`` are those that are not in the graph
    ``roots``   names of the roots, if they were chosen; None: the graph's roots are those that the trace found
    """

    inputs: tuple[tuple[int, int], ...] | None = None
    api: BackwardApi = "backward"
    after: EarlierCall | None = None
    names: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    roots: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _hold_default(self, "api", "backward")


PLAIN_CALL = BackwardCall()
"""``backward()`` from the roots that were found."""


class Landing(Record, frozen=True):
    """The node that the non-full hooks of one module call sit on, in brief.

    ``call`` is the call's id, ``node`` the node's name, ``grad_input`` and ``grad_output`` how many entries its hooks get.
    """

    call: str
    node: str
    grad_input: int
    grad_output: int


class OtherDevice(Record, frozen=True):
    """The same program on another device, for comparison.

    ``landings`` has an entry for each module call whose first result has a grad_fn in the graph there. If it could not be
    traced there, ``failure`` says why.
    """

    device: str
    landings: tuple[Landing, ...] = ()
    failure: str | None = None


class GraphInfo(Record, frozen=True):
    """How the graph was made, and for which call of backward its sites are predicted.

    ``root_rule``     what backward starts from, and why
    ``skipped``       outputs that are no roots, each with why
    ``notes``         what else a reader must know (compiled modules run eagerly, warnings of PyTorch, ...)
    ``calls_reason``  why there are no module calls and no fx nodes (a capture)
    ``global_backward_sticky`` which global backward hooks this process has had: full (True), non-full (False), or none
    ``other_device``  the same program without emulation, if it was looked at
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
