"""A replication for a GPU, minutes long: larger networks in PyTorch, and a hundred seeds at once in JAX.

It decides nothing: benchmark/PROTOCOL.md, section 9.
"""
