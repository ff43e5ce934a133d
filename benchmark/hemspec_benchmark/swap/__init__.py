"""The swap: what happens to a training when cross-entropy is exchanged for HEM and nothing else is changed.

A matrix of trainings (data, network, optimizer, schedule, clipping) at the rate that suits cross-entropy. What is asked
of it is fixed in benchmark/PROTOCOL.md, section 10.
"""
