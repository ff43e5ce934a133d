"""The definition of every loss, in the plainest NumPy: one file for each, the maths in its docstring.

Each module has its loss and ``gradient``, the analytic derivative in the logits: ``hemspec.reference.hem.gradient``.
"""
