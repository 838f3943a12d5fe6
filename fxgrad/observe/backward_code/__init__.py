"""What the ``backward`` of a Python Function returns: None or a Tensor, for each argument of ``forward``. Its code is read
and never run.

The reader goes through the syntax tree (``source``) as running it would, with values of which only something is known
(``values``): that one is None, a Tensor or anything else. What it meets that it does not know may be anything, so what
it says holds in every run. It relies on this: functions, classes and modules stay what they are until backward; data
that ``ctx`` holds stay what forward left there, unless backward itself changes them; and no operator (``a * b``) of any
type returns None.
"""

from fxgrad.observe.backward_code.entries import returned_for_edges

__all__ = ["returned_for_edges"]
