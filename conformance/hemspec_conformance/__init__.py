"""The conformance suite of hemspec: whether a backend's losses are what the specification says.

A backend takes part through an adapter (`hemspec_conformance.adapter.Adapter`)::

    hemspec-conformance --backend my_package.adapter
"""
