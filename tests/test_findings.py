"""What people ran into, by number: each has a test that carries it, ``@pytest.mark.finding(9)``.

``pytest tests -m finding`` runs them all; this file says what the numbers are, and that none has lost its test.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent

FINDINGS = {
    1: "differentiation nested in differentiation loses a gradient",
    2: "sums over many positions drift",
    3: "what is indexed by class comes in another order, or as shares instead of counts",
    4: "loading or moving a model changes hyper-parameters",
    5: "an optimizer trains or decays hyper-parameters",
    6: "a weight or a hyper-parameter that wants a gradient gets none, without a word",
    7: "Keras's class weights of sequence labels are nonsense",
    8: "a documented look-up of class weights breaks at ignored labels",
    9: "a device without float64 is asked for it",
    10: "the frameworks' hunters of NaN and infinities stop at our own constants",
    11: "gradients for many incoming gradients at once fail in PyTorch",
    12: "sizes that depend on data cannot be compiled in PyTorch",
    13: "weights of shape (N, 1) with labels of shape (N, T) in Keras",
    14: "TorchScript and torch.fx meet our modules",
    15: "type hints do not resolve at run time",
    16: "rarer ways to run: `where` of the logits' shape, graphs of TensorFlow 1, checkpointing, ragged labels",
    17: "an installed hemspec changes other people's test runs",
    18: "Keras does not find the losses by name",
    19: "float labels get the wrong advice",
    20: "an axis too many, or in another place, gets no advice",
    21: "labels 1..C give NaN, and nobody says how to find them",
    22: "a function instead of a class in Keras's compile; labels of another rank",
    23: "numbers that are strings, and arguments of cross-entropy",
    24: "the English of messages",
    25: "a port that ignores the incoming gradient conforms",
    26: "a port that overwrites what it is given conforms",
    27: "a port that damages rows beyond a block conforms",
    28: "a port that cuts labels to 32 bits conforms",
    29: "a port that ignores 100 where -100 is ignored conforms",
    30: "nobody asks for second derivatives",
    31: "machine-made mutants that match no source any more",
}


def marked(path: Path) -> Iterator[int]:
    """The numbers that tests of a file carry."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.finding":
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def test_every_number_has_a_test_that_carries_it() -> None:
    carried = defaultdict(set)
    for path in TESTS.rglob("*.py"):
        for number in marked(path):
            carried[number].add(path.relative_to(TESTS).as_posix())
    assert set(carried) == set(FINDINGS), {n: FINDINGS.get(n) for n in set(carried) ^ set(FINDINGS)}
