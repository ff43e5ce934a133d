"""The conformance suite of hemspec: frozen vectors, bad inputs and the checks that compare a backend with them.

A backend takes part through an adapter (`hemspec_conformance.adapter.Adapter`). Run a built-in one with::

    pytest -p hemspec_conformance.plugin --pyargs hemspec_conformance --target torch
"""
