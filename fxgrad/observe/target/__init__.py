"""A TARGET of the command line: what it names, the model and its arguments, and its run on a device.

``importing`` imports what it names, ``arguments`` reads ``--init`` and ``--input``, ``loading`` builds the model and
records its forward or backward, ``devices`` says whether that is on the emulated device.
"""
