"""What the command line says about a TARGET, as one record from the options to the process that runs it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """A TARGET, how its model is built and run, and how backward is called.

    ``text``      the TARGET itself: ``file.py[:name]``, ``package.module[:name]``, ``model.pt``, ``model.pt2`` or
                  ``trace.json``
    ``init``      the arguments of a module class, a Python argument list of literals
    ``inputs``    the arguments of its forward, one description each, as ``f32[9,1000]``
    ``loss``      ``module:function``; backward starts from what it returns for the output of forward
    ``seed``      for the generators of torch and random; None leaves them alone
    ``mode``      "train" or "eval"; None leaves the model as it was built
    ``device``    where the model is built and run; None leaves that to the target
    ``autocast``  "bf16" or "f16": forward runs under torch.autocast
    ``backward_inputs``  the names of the tensors in ``backward(inputs=...)``; None leaves ``inputs`` out
    ``backward_api``     "backward", or "grad" for torch.autograd.grad

    >>> options = TargetOptions("torch.nn:Linear", init="4, 2", inputs=("f32[3,4]",))
    >>> TargetOptions.from_json(options.to_json()) == options
    True
    """

    text: str
    init: str | None = None
    inputs: tuple[str, ...] = ()
    loss: str | None = None
    seed: int | None = None
    mode: Literal["train", "eval"] | None = None
    device: str | None = None
    autocast: str | None = None
    backward_inputs: tuple[str, ...] | None = None
    backward_api: Literal["backward", "grad"] = "backward"

    @property
    def is_saved_trace(self) -> bool:
        """Whether the TARGET is a trace that was saved, which is loaded and not run."""
        return self.text.endswith(".json")

    def run_options(self) -> list[str]:
        """The command line options that were given of those that only matter where a model is run.

        >>> TargetOptions("trace.json", seed=0, device="cuda").run_options()
        ['--seed', '--device']
        """
        values = {
            "--init": self.init,
            "--input": self.inputs or None,
            "--loss": self.loss,
            "--seed": self.seed,
            "--train/--eval": self.mode,
            "--device": self.device,
            "--autocast": self.autocast,
        }
        return [option for option, value in values.items() if value is not None]

    def to_json(self) -> str:
        """JSON text, for another process; `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TargetOptions:
        """The options that `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        for name in ("inputs", "backward_inputs"):  # JSON has no tuples
            if fields[name] is not None:
                fields[name] = tuple(fields[name])
        return cls(**fields)
