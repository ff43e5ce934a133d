"""The shape every loss function has, in every framework: call it for the loss, ask it for its terms.

A reduction to an average is a quotient. Averages over micro-batches or replicas do not add up, their numerators and
denominators do, so each loss function is written as the function that returns the two, and a decorator divides.
Diagnostics, several quotients by name, have the same shape.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import GenericAlias
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, get_args, get_type_hints

from hemspec.arguments import check_terms_reduction

P = ParamSpec("P")
ArrayT = TypeVar("ArrayT")
ArrayCo = TypeVar("ArrayCo", covariant=True)


class LossFunction(Protocol, Generic[P, ArrayCo]):
    """A loss: ``loss(...)`` is its reduced value, ``loss.terms(...)`` the average's (numerator, denominator)."""

    __name__: str
    __module__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> ArrayCo:
        """The reduced loss."""
        ...

    def terms(self, *args: P.args, **kwargs: P.kwargs) -> tuple[ArrayCo, ArrayCo]:
        """The numerator and denominator of ``reduction="mean"`` or ``"active_mean"``, same arguments as the loss."""
        ...


def present(
    body: Callable[..., Any],
    loss: Callable[..., Any],
    *,
    returns: Any,
    **methods: tuple[Callable[..., Any], Any],
) -> Any:
    """Give `loss` the name, docstring and signature of its body, and the methods, each with what it returns.

    A plain function with attributes, rather than an object that can be called: it pickles by name, documents itself
    and is traced by every compiler. Its annotations are types, not text: who reads them at run time would look the
    names up in this module, not in the body's.
    """
    functools.update_wrapper(loss, body)
    # `tf.function` takes a function among its arguments for the one it wraps: the body, which returns a pair.
    del vars(loss)["__wrapped__"]
    for name, (method, _) in methods.items():
        method.__name__, method.__qualname__ = name, f"{body.__qualname__}.{name}"
        setattr(loss, name, method)
    hints, signature = get_type_hints(body), inspect.signature(body)
    parameters = [p.replace(annotation=hints.get(p.name, p.annotation)) for p in signature.parameters.values()]
    for function, result in ((loss, returns), *methods.values()):
        function.__annotations__ = {**hints, "return": result}
        vars(function)["__signature__"] = signature.replace(parameters=parameters, return_annotation=result)
    return loss


Recorder = Callable[[Any, str, Any, dict[str, Any]], Any]
"""Given a function, the name of its method or "", and the arguments: what takes the place of the result, or None."""


def do_not_record(function: Any, method: str, args: Any, kwargs: dict[str, Any]) -> None:
    """For frameworks whose tracers look into functions."""
    return  # AutoGraph takes the docstring away and cannot read a function with nothing left


def loss_function(
    divide: Callable[[ArrayT, ArrayT], ArrayT], recorded: Recorder = do_not_record
) -> Callable[[Callable[P, tuple[ArrayT, ArrayT | None]]], LossFunction[P, ArrayT]]:
    """Turn ``f(...) -> (numerator, denominator)`` into the loss, with `divide` giving 0 for 0/0.

    `f` returns None for the denominator where the reduction has none (``"none"`` and ``"sum"``). `recorded` is asked
    first, for frameworks with a tracer that writes down calls instead of having them done.
    """
    # No assignment expressions in here: TensorFlow's AutoGraph warns that it cannot convert them.

    def decorate(body: Callable[P, tuple[ArrayT, ArrayT | None]]) -> LossFunction[P, ArrayT]:
        default = inspect.signature(body).parameters["reduction"].default

        def loss(*args: P.args, **kwargs: P.kwargs) -> ArrayT:
            call = recorded(loss, "", args, kwargs)
            if call is not None:
                return cast("ArrayT", call)
            numerator, denominator = body(*args, **kwargs)
            return numerator if denominator is None else divide(numerator, denominator)

        def terms(*args: P.args, **kwargs: P.kwargs) -> tuple[ArrayT, ArrayT]:
            check_terms_reduction(kwargs.get("reduction", default))
            call = recorded(loss, "terms", args, kwargs)
            if call is not None:
                return cast("tuple[ArrayT, ArrayT]", call)
            numerator, denominator = body(*args, **kwargs)
            assert denominator is not None
            return numerator, denominator

        terms.__doc__ = LossFunction.terms.__doc__
        array, _ = get_args(get_type_hints(body)["return"])
        return cast(
            "LossFunction[P, ArrayT]",
            present(body, loss, returns=array, terms=(terms, GenericAlias(tuple, (array, array)))),
        )

    return decorate


class Diagnostics(Protocol, Generic[P, ArrayT]):
    """Several quotients by name: ``f(...)`` gives their values, ``f.terms(...)`` their (numerator, denominator)."""

    __name__: str
    __module__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, ArrayT]:
        """The quotients."""
        ...

    def terms(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, tuple[ArrayT, ArrayT]]:
        """The numerator and denominator of each, which add up over batches and replicas; quotients do not."""
        ...


def diagnostics(
    divide: Callable[[ArrayT, ArrayT], ArrayT], recorded: Recorder = do_not_record
) -> Callable[[Callable[P, dict[str, tuple[ArrayT, ArrayT]]]], Diagnostics[P, ArrayT]]:
    """Turn ``f(...) -> {name: (numerator, denominator)}`` into diagnostics, with `divide` giving 0 for 0/0."""

    def decorate(body: Callable[P, dict[str, tuple[ArrayT, ArrayT]]]) -> Diagnostics[P, ArrayT]:
        def quotients(*args: P.args, **kwargs: P.kwargs) -> dict[str, ArrayT]:
            call = recorded(quotients, "", args, kwargs)
            if call is not None:
                return cast("dict[str, ArrayT]", call)
            return {name: divide(*pair) for name, pair in body(*args, **kwargs).items()}

        def terms(*args: P.args, **kwargs: P.kwargs) -> dict[str, tuple[ArrayT, ArrayT]]:
            call = recorded(quotients, "terms", args, kwargs)
            if call is not None:
                return cast("dict[str, tuple[ArrayT, ArrayT]]", call)
            return body(*args, **kwargs)

        terms.__doc__ = Diagnostics.terms.__doc__
        _, pair = get_args(get_type_hints(body)["return"])
        returns = GenericAlias(dict, (str, get_args(pair)[0]))
        return cast(
            "Diagnostics[P, ArrayT]",
            present(body, quotients, returns=returns, terms=(terms, GenericAlias(dict, (str, pair)))),
        )

    return decorate
