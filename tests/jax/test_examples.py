"""Every example in a docstring runs, and the face of the package is whole."""

from __future__ import annotations

import doctest

import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")
import jax.numpy as jnp

import hemspec.jax


def test_the_names_are_those_of_every_backend() -> None:
    functions = [name for name in hemspec.__all__ if name.endswith("_loss")]
    assert set(functions) < set(hemspec.jax.__all__)
    assert all(hasattr(hemspec.jax, name) for name in hemspec.jax.__all__)


@pytest.mark.parametrize("name", [name for name in hemspec.jax.__all__ if not name.startswith("margin")])
def test_examples(name) -> None:
    """By name: a decorated function is not found where doctest looks, among those a module's own code defines."""
    names = {**vars(hemspec.jax), "jax": jax, "jnp": jnp}
    docstring = getattr(hemspec.jax, name).__doc__
    test = doctest.DocTestParser().get_doctest(docstring, names, name, None, 0)
    assert test.examples
    report: list[str] = []
    doctest.DocTestRunner().run(test, out=report.append)
    assert not report, "".join(report)
