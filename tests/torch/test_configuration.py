"""Hyper-parameters are configuration: what the constructor said holds, whatever is loaded, moved, cast or averaged."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import hemspec.torch as ht

pytestmark = pytest.mark.finding(4)

VECTOR = [0.1, 2.0, 0.5]
"""No entry survives a cast to half precision and back."""
HELD: dict[str, tuple[Any, str]] = {
    "hem": (lambda v: ht.HEMLoss(margin=v), "margin"),
    "linear hem": (lambda v: ht.LinearHEMLoss(margin=v), "margin"),
    "multi margin": (lambda v: ht.MultiMarginLoss(margin=v), "margin"),
    "focal": (lambda v: ht.FocalLoss(alpha=v), "alpha"),
    "logit adjusted": (lambda v: ht.LogitAdjustedLoss(class_counts=v), "class_counts"),
}
COUNTS = [7.0, 1001.0, 2049.0]
each = pytest.mark.parametrize("name", HELD)


def numbers(name: str) -> list[float]:
    return COUNTS if name == "logit adjusted" else VECTOR


def make(name: str, values: Any = None) -> Any:
    return HELD[name][0](numbers(name) if values is None else values)


def batch(classes: int = 3) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, classes, generator=generator), torch.randint(0, classes, (6,), generator=generator)


def value(criterion: Any) -> Any:
    logits, target = batch()
    if isinstance(criterion, ht.LinearHEMLoss):
        return criterion(logits, torch.eye(3), target)
    return criterion(logits, target)


def assert_kept(criterion: Any, name: str) -> None:
    held = getattr(criterion, HELD[name][1])
    assert held.dtype == torch.float64
    assert held.tolist() == numbers(name)
    assert torch.equal(value(criterion), value(make(name)))


class Model(torch.nn.Module):
    def __init__(self, criterion: Any) -> None:
        super().__init__()
        self.head, self.criterion = torch.nn.Linear(2, 3), criterion


WAYS: dict[str, Any] = {
    "half": lambda model: model.half(),
    "bfloat16 and back": lambda model: model.bfloat16().float(),
    "double": lambda model: model.double(),
    "meta and back": lambda model: model.to("meta").to_empty(device="cpu"),
    "to": lambda model: model.to("cpu", torch.float16),
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "share_memory": lambda model: model.share_memory(),
    "zeroed state": lambda model: [t.zero_() for t in model.state_dict().values()] and model,
    "averaged": lambda model: averaged(model),
    "functional_call": lambda model: model,
}


def averaged(model: Any) -> Any:
    """Stochastic weight averaging of what came from somewhere else, buffers too."""
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    other = copy.deepcopy(model)
    average.update_parameters(other)
    average.update_parameters(other)
    return average.module


@each
@pytest.mark.parametrize("way", WAYS)
def test_what_the_constructor_said_holds(name: str, way: str) -> None:
    assert_kept(WAYS[way](Model(make(name))).criterion, name)


@each
def test_there_is_no_state(name: str) -> None:
    criterion = make(name)
    assert not criterion.state_dict()
    assert not [*criterion.parameters(), *criterion.buffers()]
    assert isinstance(getattr(criterion, HELD[name][1]), torch.Tensor)


@each
@pytest.mark.parametrize("where", ["meta", "no_grad", "inference_mode", "fake", "default dtype"])
def test_made_anywhere(name: str, where: str) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    places = {
        "meta": lambda: torch.device("meta"),
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
        "fake": FakeTensorMode,
    }
    if where == "default dtype":
        torch.set_default_dtype(torch.float16)
        try:
            criterion = make(name)
        finally:
            torch.set_default_dtype(torch.float32)
    else:
        with places[where]():
            criterion = make(name)
    assert_kept(criterion, name)
    logits = batch()[0].requires_grad_()
    if not isinstance(criterion, ht.LinearHEMLoss):
        criterion(logits, batch()[1]).backward()  # nothing in it is an inference tensor


def test_used_among_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    made_outside = ht.HEMLoss(margin=VECTOR)
    with FakeTensorMode():
        for criterion in (made_outside, ht.HEMLoss(margin=VECTOR)):
            assert isinstance(criterion(torch.randn(6, 3), torch.zeros(6, dtype=torch.int64)), FakeTensor)
    assert_kept(made_outside, "hem")
    assert not made_outside._copies  # no fake one is kept


@pytest.mark.parametrize("made", [lambda: torch.tensor(VECTOR), lambda: torch.tensor(VECTOR, dtype=torch.float16)])
def test_a_tensor_without_values_is_refused(made: Any) -> None:
    """A model that from_pretrained builds makes its tensors on the meta device, where they lose their values."""
    with torch.device("meta"), pytest.raises(ValueError, match="margin must have values; got a tensor that has none"):
        ht.HEMLoss(margin=made())


def test_a_vector_may_be_assigned_and_written_to() -> None:
    logits, target = batch()
    criterion = ht.HEMLoss(margin=VECTOR)
    criterion(logits.to("meta"), target.to("meta"))
    assert criterion._copies["margin"][1].device.type == "meta"
    criterion.margin = torch.tensor([3.0, 2.0, 1.0])
    assert not criterion._copies
    assert torch.equal(criterion(logits, target), ht.hem_loss(logits, target, margin=[3.0, 2.0, 1.0]))
    criterion(logits.to("meta"), target.to("meta"))
    before = criterion._copies["margin"]
    criterion(logits.to("meta"), target.to("meta"))
    assert criterion._copies["margin"] is before  # copied once
    criterion.margin[0] = 5.0
    criterion(logits.to("meta"), target.to("meta"))
    assert criterion._copies["margin"] is not before
    assert torch.equal(criterion(logits, target), ht.hem_loss(logits, target, margin=[5.0, 2.0, 1.0]))


CHECKPOINTS = {
    "cross entropy": ht.CrossEntropyLoss,
    "hem": ht.HEMLoss,
    "hem+": lambda: ht.HEMLoss(margin=VECTOR),
    "hem+ of other classes": lambda: ht.HEMLoss(margin=[1.0] * 7),
    "focal": lambda: ht.FocalLoss(alpha=VECTOR),
    "logit adjusted": lambda: ht.LogitAdjustedLoss(class_counts=COUNTS),
    "PyTorch's": torch.nn.CrossEntropyLoss,
    "PyTorch's with class weights": lambda: torch.nn.CrossEntropyLoss(weight=torch.tensor(VECTOR)),
}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("written", CHECKPOINTS)
@each
def test_a_checkpoint_of_another_loss_loads(name: str, written: str, strict: bool) -> None:
    source, model = Model(CHECKPOINTS[written]()), Model(make(name))
    with torch.no_grad():
        source.head.weight.fill_(3.0)
    for state in (source.state_dict(), {f"model.{key}": entry for key, entry in source.state_dict().items()}):
        whole = model if "head.weight" in state else torch.nn.ModuleDict({"model": model})
        given = dict(state)
        missing, unexpected = whole.load_state_dict(given, strict=strict)
        assert not missing
        assert not unexpected
        assert given.keys() == state.keys()
    assert model.head.weight.eq(3.0).all()
    assert_kept(model.criterion, name)


@pytest.mark.parametrize("strict", [True, False])
@each
@pytest.mark.parametrize("size", [3, 5])
def test_a_checkpoint_of_the_version_with_buffers_loads(name: str, strict: bool, size: int) -> None:
    """Version 0.1.0 wrote vectors: the constructor's stay."""
    model, key = Model(make(name)), HELD[name][1]
    state = {**Model(ht.HEMLoss()).state_dict(), f"criterion.{key}": torch.full((size,), 9.0, dtype=torch.float64)}
    for assign in (False, True):
        model.load_state_dict(state, strict=strict, assign=assign)
        assert_kept(model.criterion, name)
    # What is no hyper-parameter of any loss is still unexpected.
    with pytest.raises(RuntimeError, match=r"Unexpected key.*criterion\.other"):
        model.load_state_dict({**state, "criterion.other": torch.ones(1)})


def test_a_subclass_keeps_the_state_it_adds() -> None:
    class Scaled(ht.HEMLoss):
        def __init__(self) -> None:
            super().__init__(margin=VECTOR)
            self.weight = torch.nn.Parameter(torch.ones(3))

    criterion = Scaled()
    criterion.load_state_dict({"weight": torch.tensor([4.0, 5.0, 6.0]), "margin": torch.ones(3)})
    assert criterion.weight.tolist() == [4.0, 5.0, 6.0]
    assert criterion.margin.tolist() == VECTOR


FIXTURES = Path(__file__).parents[1] / "fixtures/0.1.0"


@pytest.mark.parametrize(
    ("file", "held"), [("HEMLoss", "margin"), ("FocalLoss", "alpha"), ("LogitAdjustedLoss", "class_counts")]
)
def test_a_pickle_of_the_version_with_buffers_has_none(file: str, held: str) -> None:
    criterion = pickle.loads((FIXTURES / f"{file}.torch.pickle").read_bytes())
    kept = getattr(criterion, held).tolist()
    assert not criterion.state_dict()
    for again in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion)), criterion.half()):
        assert getattr(again, held).tolist() == kept
        assert not again.state_dict()


def test_from_pretrained(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")

    class Config(transformers.PretrainedConfig):  # type: ignore[misc, name-defined]
        model_type = "tiny"

    class Tiny(transformers.PreTrainedModel):  # type: ignore[misc, name-defined]
        config_class = Config

        def __init__(self, config: Any, criterion: Any = None) -> None:
            super().__init__(config)
            self.head = torch.nn.Linear(2, 3)
            self.criterion = criterion or torch.nn.ModuleList([make(name) for name in HELD])
            self.post_init()

        def _init_weights(self, module: Any) -> None:
            pass

    Tiny(Config(), torch.nn.ModuleList()).save_pretrained(tmp_path / "bare")
    Tiny(Config()).save_pretrained(tmp_path / "same")
    old = Tiny(Config(), torch.nn.ModuleList())
    old.criterion.register_module("0", torch.nn.Module())
    old.criterion[0].register_buffer("margin", torch.full((3,), 9.0))
    old.save_pretrained(tmp_path / "old")
    for checkpoint in ("bare", "same", "old"):
        for options in ({}, {"low_cpu_mem_usage": True}, {"dtype": torch.bfloat16}):
            model = Tiny.from_pretrained(tmp_path / checkpoint, **options)
            for name, criterion in zip(HELD, model.criterion, strict=True):
                assert_kept(criterion, name)


def test_skip_init_and_parameters_to_vector() -> None:
    class Holder(torch.nn.Module):
        def __init__(self, device: Any = None) -> None:
            super().__init__()
            self.head, self.criterion = torch.nn.Linear(2, 3, device=device), ht.HEMLoss(margin=VECTOR)

    model = torch.nn.utils.skip_init(Holder)
    assert_kept(model.criterion, "hem")
    vector = torch.nn.utils.parameters_to_vector(model.parameters())
    assert vector.numel() == 9
    torch.nn.utils.vector_to_parameters(torch.zeros(9), model.parameters())
    assert_kept(model.criterion, "hem")


def test_functional_call() -> None:
    class Head(Model):
        def forward(self, x: Any, y: Any) -> Any:
            return self.criterion(self.head(x), y)

    model = Head(ht.HEMLoss(margin=VECTOR))
    x, y = torch.randn(6, 2), batch()[1]
    state = {name: torch.zeros_like(t) for name, t in model.named_parameters()}
    assert torch.equal(
        torch.func.functional_call(model, state, (x, y)), ht.hem_loss(torch.zeros(6, 3), y, margin=VECTOR)
    )


def test_compiled_once_for_every_margin() -> None:
    compilations = []

    def counting(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    logits, target = batch()
    criterion = ht.HEMLoss(margin=VECTOR)
    compiled = torch.compile(criterion, fullgraph=True, backend=counting)
    for margins in (VECTOR, [1.0, 1.0, 3.0], [0.25, 0.5, 4.0]):
        criterion.margin = torch.tensor(margins, dtype=torch.float64)
        torch.testing.assert_close(compiled(logits, target), ht.hem_loss(logits, target, margin=margins))
        criterion.margin[1] += 1.0
        torch.testing.assert_close(compiled(logits, target), criterion(logits, target))
    assert len(compilations) == 1


@pytest.mark.parametrize(("name", "strict"), [*((name, False) for name in HELD), ("hem", True)])
def test_a_constant_of_an_exported_program(name: str, strict: bool) -> None:
    if name == "linear hem":
        pytest.skip("its input is another")
    criterion = make(name)
    exported = torch.export.export(criterion, batch(), strict=strict)
    assert not exported.state_dict
    assert torch.equal(exported.module()(*batch()), value(criterion)) or torch.allclose(
        exported.module()(*batch()), value(criterion)
    )


def test_compiled_with_the_copy_that_moving_made() -> None:
    """Where a compiler makes no copies, so that each call would bring the vector from the host."""
    graphs = []

    def keep(graph: Any, inputs: Any) -> Any:
        graphs.append([given.device.type for given in inputs if isinstance(given, torch.Tensor)])
        return graph.forward

    criterion = ht.HEMLoss(margin=VECTOR).to("meta")
    torch.compile(criterion, fullgraph=True, backend=keep)(*(given.to("meta") for given in batch()))
    assert graphs == [["meta"] * 3]
