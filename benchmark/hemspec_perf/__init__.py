"""hemspec's speed and memory: the margin losses beside the framework's own, timed in turns in one process.

A number is only given to a candidate whose value and gradient are those of the NumPy reference on the very input that
is timed. Nothing in `hemspec` or its backends imports this package.
"""
