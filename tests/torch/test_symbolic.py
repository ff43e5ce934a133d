"""Models that hold or call a loss, under TorchScript, which does not look into a loss, and traced by torch.fx."""

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import hemspec.torch as ht

pytestmark = [
    pytest.mark.finding(14),
    # PyTorch deprecates TorchScript, in favour of torch.export.
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]

CRITERIA: dict[str, Any] = {
    "HEM": lambda: ht.HEMLoss(margin=0.7),
    "HEM+": lambda: ht.HEMLoss(margin=[0.1, 2.0, 0.5], reduction="mean"),
    "linear HEM": lambda: ht.LinearHEMLoss(margin=0.7),
    "linear HEM+": lambda: ht.LinearHEMLoss(margin=[0.1, 2.0, 0.5], ignore_index=1),
    "multi margin": lambda: ht.MultiMarginLoss(margin=[0.1, 2.0, 0.5]),
    "cross-entropy": lambda: ht.CrossEntropyLoss(reduction="none"),
    "focal": lambda: ht.FocalLoss(gamma=1.5, alpha=[1.0, 0.3, 2.0]),
    "logit norm": lambda: ht.LogitNormLoss(temperature=0.5),
    "logit adjusted": lambda: ht.LogitAdjustedLoss(class_counts=[7, 1001, 2049]),
    "dice": lambda: ht.DiceLoss(smooth=0.5, batch=True),
}
each = pytest.mark.parametrize("name", CRITERIA)
FUNCTIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "hem": (ht.hem_loss, {"margin": 0.7}),
    "hem, array": (ht.hem_loss, {"margin": np.array([0.1, 2.0, 0.5], np.float32)}),
    "hem, tensor": (ht.hem_loss, {"margin": torch.tensor([0.1, 2.0, 0.5]), "reduction": "mean"}),
    "linear hem": (ht.linear_hem_loss, {"margin": [0.1, 2.0, 0.5]}),
    "multi margin": (ht.multi_margin_loss, {"reduction": "active_mean"}),
    "cross-entropy": (ht.cross_entropy_loss, {"ignore_index": 1}),
    "focal": (ht.focal_loss, {"alpha": [1.0, 0.3, 2.0]}),
    "logit norm": (ht.logit_norm_loss, {}),
    "logit adjusted": (ht.logit_adjusted_loss, {"class_counts": [7, 1001, 2049]}),
    "dice": (ht.dice_loss, {"smooth": 0.5}),
}


class Holder(torch.nn.Module):
    """A model with a linear head, whose weight a linear loss is given instead of logits."""

    def __init__(self, criterion: Any) -> None:
        super().__init__()
        self.head, self.criterion = torch.nn.Linear(2, 3), criterion
        self.whole_head = isinstance(criterion, ht.LinearHEMLoss)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)

    @torch.jit.ignore
    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.criterion(self.head(x), y)

    @torch.jit.unused
    def figures(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.criterion.diagnostics(self.head(x), y)["active_fraction"]


def arguments(model: Any, x: Any, y: Any, sample_weight: Any = None) -> tuple[Any, ...]:
    if model.whole_head:
        return x, model.head.weight, y, model.head.bias, sample_weight
    return model.head(x), y, sample_weight


class Calls(Holder):
    def forward(self, x: Any, y: Any, sample_weight: Any = None) -> Any:
        return self.criterion(*arguments(self, x, y, sample_weight))


class CallsTerms(Holder):
    def forward(self, x: Any, y: Any) -> Any:
        numerator, denominator = self.criterion.terms(*arguments(self, x, y))
        return numerator / (2 * denominator)


class CallsDiagnostics(Holder):
    def forward(self, x: Any, y: Any) -> Any:
        logits = self.head(x)
        figures = self.criterion.diagnostics(logits, y)
        return figures["kept_errors"] + logits.sum()


class CallsFunction(Holder):
    def __init__(self, function: Any, options: dict[str, Any]) -> None:
        super().__init__(None)
        self.function, self.options = function, options
        self.whole_head = "linear" in function.__name__

    def forward(self, x: Any, y: Any) -> Any:
        if self.whole_head:
            return 3 * self.function(x, self.head.weight, y, linear_bias=self.head.bias, **self.options)
        return 3 * self.function(self.head(x), y, **self.options)


class CallsByKeyword(Holder):
    def forward(self, x: Any, y: Any) -> Any:
        return ht.hem_loss(input=self.head(x), target=y)


def batch(n: int = 6) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, 2, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def assert_same(model: Any, other: Any, *extra: Any) -> None:
    """The same values and gradients, also of a batch of another size than ever seen."""
    for n in (6, 3):
        results = []
        for each_model in (model, other):
            each_model.zero_grad()
            value = each_model(*batch(n), *(e[:n] for e in extra)).sum()
            value.backward()
            results.append((value.detach(), *(p.grad.clone() for p in each_model.parameters())))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
        assert results[0][0] != 0


def assert_traces(model: Any) -> Any:
    """Its graph computes the same, also copied, pickled, compiled anew from its nodes, and traced once more."""
    graph = torch.fx.symbolic_trace(model)
    assert_same(model, graph)
    graph.graph.lint()
    graph.recompile()
    for other in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph)), torch.fx.symbolic_trace(graph)):
        assert_same(model, other)
    return graph


def targets(graph: Any, op: str) -> list[Any]:
    return [node.target for node in graph.graph.nodes if node.op == op]


@each
def test_fx_of_a_model_with_a_criterion(name: str) -> None:
    """The loss is a module of the graph, as PyTorch's losses are, and still has no state."""
    model = Calls(CRITERIA[name]())
    graph = assert_traces(model)
    assert "criterion" in targets(graph, "call_module")
    assert graph.state_dict().keys() == model.state_dict().keys()
    weights = torch.arange(6.0)
    assert_same(model, graph, weights)


@each
def test_fx_of_a_criterion_by_itself(name: str) -> None:
    criterion = CRITERIA[name]()
    graph = torch.fx.symbolic_trace(criterion)
    assert not graph.state_dict()
    x, y = batch()
    model = Holder(criterion)
    assert torch.equal(graph(*arguments(model, x, y)), criterion(*arguments(model, x, y)))


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "cross-entropy"])
def test_fx_of_terms(name: str) -> None:
    model = CallsTerms(CRITERIA[name]())
    assert assert_traces(model).state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", ["HEM", "HEM+", "linear HEM+"])
def test_fx_of_diagnostics(name: str) -> None:
    assert_traces(CallsDiagnostics(CRITERIA[name]()))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fx_of_a_function(name: str) -> None:
    model = CallsFunction(*FUNCTIONS[name])
    assert model.function in targets(assert_traces(model), "call_function")


def test_fx_of_a_call_by_keyword() -> None:
    assert_traces(CallsByKeyword(None))


class Doubled(ht.HEMLoss):
    def forward(self, input: Any, target: Any, sample_weight: Any = None) -> Any:
        return 2 * super().forward(input, target, sample_weight)


def test_fx_of_a_derived_class() -> None:
    """What it adds is done once."""
    assert_traces(Calls(Doubled(margin=[0.1, 2.0, 0.5])))


def test_fx_of_what_is_wrong() -> None:
    """It is said where it is called, as without a trace."""
    with pytest.raises(TypeError, match=r"target must be a torch.Tensor; got list"):
        torch.fx.symbolic_trace(Calls(ht.HEMLoss()))(torch.ones(1, 2), [0])


class ScriptedCall(torch.nn.Module):
    """TorchScript knows no defaults of what it calls in Python: the weights are given, as None."""

    def __init__(self, criterion: Any) -> None:
        super().__init__()
        self.head, self.criterion = torch.nn.Linear(2, 3), criterion

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.criterion(self.head(x), y, None)


class ScriptedHead(ScriptedCall):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.criterion(x, self.head.weight, y, self.head.bias, None)


class ScriptedTerms(ScriptedCall):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        numerator, denominator = self.criterion.terms(self.head(x), y, None)
        return numerator / (2 * denominator)


class ScriptedDiagnostics(ScriptedCall):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = self.head(x)
        return self.criterion.diagnostics(logits, y, None)["kept_errors"] + logits.sum()


@each
def test_script_of_a_holder(name: str) -> None:
    """It compiles and saves, and the criterion is still there to be called in Python."""
    model = Holder(CRITERIA[name]())
    scripted = torch.jit.script(model)
    x, y = batch()
    assert torch.equal(scripted(x), model(x))
    given = arguments(model, x, y)
    assert torch.equal(scripted.criterion(*given), model.criterion(*given))
    if not model.whole_head:
        assert torch.equal(scripted.loss(x, y), model.loss(x, y))
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    buffer.seek(0)
    assert torch.equal(torch.jit.load(buffer)(x), model(x))


@each
def test_script_of_a_call(name: str) -> None:
    """A call is done in Python: of the same value and gradient."""
    model = (ScriptedHead if "linear" in name else ScriptedCall)(CRITERIA[name]())
    assert_same(model, torch.jit.script(model))


@pytest.mark.parametrize("model", [ScriptedTerms, ScriptedDiagnostics])
@pytest.mark.parametrize("name", ["HEM", "HEM+"])
def test_script_of_other_methods(name: str, model: Any) -> None:
    model = model(CRITERIA[name]())
    assert_same(model, torch.jit.script(model))


def test_script_of_a_process_group(tmp_path: Any, monkeypatch: Any) -> None:
    """It gets through: the loss of this process alone would be another."""
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sums = []
        monkeypatch.setattr(dist, "all_reduce", lambda *args, **kwargs: sums.append(kwargs.get("group")))
        model = torch.jit.script(ScriptedCall(ht.HEMLoss(process_group=dist.group.WORLD)))
        model(*batch())
        assert sums == [dist.group.WORLD]
    finally:
        dist.destroy_process_group()
