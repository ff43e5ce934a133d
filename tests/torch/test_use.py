"""How PyTorch users meet the losses: modules, devices, half precision, vmap, compilation, accumulation, messages."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import hemspec.torch as ht

CRITERIA = [
    ht.HEMLoss(),
    ht.HEMLoss(margin=[1.0, 2.0, 0.5], reduction="mean"),
    ht.MultiMarginLoss(margin=torch.tensor([1.0, 2.0, 0.5])),
    ht.CrossEntropyLoss(),
    ht.FocalLoss(gamma=1.5, alpha=np.array([1.0, 2.0, 0.5])),
    ht.LogitNormLoss(),
    ht.LogitAdjustedLoss(class_counts=[5, 3, 2]),
    ht.DiceLoss(smooth=1.0, batch=True),
]
named = pytest.mark.parametrize("criterion", CRITERIA, ids=lambda criterion: type(criterion).__name__)


@pytest.fixture
def batch() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, generator=generator), torch.randint(0, 3, (6,), generator=generator)


@named
def test_modules_survive_pickle_deepcopy_and_state_dict(criterion: Any, batch: tuple[Any, Any]) -> None:
    expected = criterion(*batch)
    assert torch.equal(pickle.loads(pickle.dumps(criterion))(*batch), expected)
    clone = copy.deepcopy(criterion)
    clone.load_state_dict(criterion.state_dict())
    assert torch.equal(clone(*batch), expected)


@named
def test_half_does_not_round_the_constants(criterion: Any, batch: tuple[Any, Any]) -> None:
    assert torch.equal(copy.deepcopy(criterion).half()(*batch), criterion(*batch))


def test_a_list_of_margins_is_read_in_float64() -> None:
    """As a float32 tensor 0.1 would be 0.10000000149, and the loss of float64 logits wrong from the ninth digit on."""
    logits = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    loss = ht.hem_loss(logits, torch.tensor([0]), margin=[0.1, 0.1, 0.1])
    assert loss.item() == pytest.approx((1.1 + 2.1) / 2, abs=1e-14)


def test_the_margin_given_is_not_shared() -> None:
    margins = torch.tensor([1.0, 2.0])
    criterion = ht.HEMLoss(margin=margins)
    margins[0] = 100.0
    assert criterion.margin[0] == 1.0


def test_repr_names_every_hyper_parameter() -> None:
    assert repr(ht.HEMLoss(margin=[1.0, 2.0])) == "HEMLoss(margin=<(2,)>, ignore_index=-100, reduction='active_mean')"
    assert repr(ht.DiceLoss()) == "DiceLoss(smooth=0.0, batch=False, ignore_index=-100, reduction='mean')"


@named
def test_vmap_over_a_batch_of_batches(criterion: Any, batch: tuple[Any, Any]) -> None:
    logits, target = torch.stack([batch[0], batch[0] * 2]), torch.stack([batch[1], batch[1].flip(0)])
    together = torch.func.vmap(criterion)(logits, target)
    one_by_one = torch.stack([criterion(z, y) for z, y in zip(logits, target, strict=True)])
    torch.testing.assert_close(together, one_by_one)


def test_per_sample_gradients(batch: tuple[Any, Any]) -> None:
    one = torch.func.grad(lambda z, y: ht.hem_loss(z, y))
    gradients = torch.func.vmap(one)(*batch)
    logits = batch[0].clone().requires_grad_()
    ht.hem_loss(logits, batch[1], reduction="sum").backward()
    torch.testing.assert_close(gradients, logits.grad)


def test_vmap_cannot_read_labels_so_a_bad_one_is_nan(batch: tuple[Any, Any]) -> None:
    target = batch[1].clone()
    target[2] = 7
    losses = torch.func.vmap(lambda z, y: ht.hem_loss(z, y))(batch[0], target)
    assert losses.isnan().tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("reduction", ["mean", "active_mean"])
def test_micro_batches_by_terms_give_the_whole_batch(batch: tuple[Any, Any], reduction: str) -> None:
    logits, target = batch
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 3.0])
    criterion = ht.HEMLoss(reduction=reduction)
    whole = logits.clone().requires_grad_()
    loss = criterion(whole, target, weight)
    loss.backward()

    parts = logits.clone().requires_grad_()
    denominator = torch.zeros(())
    value = torch.zeros(())
    for rows in (slice(0, 2), slice(2, 3), slice(3, 6)):
        n, d = criterion.terms(parts[rows], target[rows], weight[rows])
        n.backward()
        value, denominator = value + n.detach(), denominator + d
    torch.testing.assert_close(value / denominator, loss.detach())
    torch.testing.assert_close(parts.grad / denominator, whole.grad)


def test_non_contiguous_and_channels_last_inputs(batch: tuple[Any, Any]) -> None:
    images = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    target = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(3))
    expected = ht.hem_loss(images, target)
    assert torch.equal(ht.hem_loss(images.to(memory_format=torch.channels_last), target), expected)
    wide = torch.zeros(2, 3, 4, 10)
    wide[..., ::2] = images
    assert torch.equal(ht.hem_loss(wide[..., ::2], target), expected)


def test_the_logits_are_not_written_to(batch: tuple[Any, Any]) -> None:
    logits = batch[0].clone().requires_grad_()
    before = logits.detach().clone()
    for criterion in CRITERIA:
        criterion(logits, batch[1]).backward()
    assert torch.equal(logits.detach(), before)


def test_autocast_computes_in_float32() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = torch.randn(4, 8) @ torch.randn(8, 3)
        assert logits.dtype == torch.bfloat16
        assert ht.hem_loss(logits, torch.tensor([0, 1, 2, 0])).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_nan_for_a_bad_label_and_the_cpu_value_otherwise(batch: tuple[Any, Any]) -> None:
    logits, target = batch[0].cuda(), batch[1].cuda()
    for criterion in CRITERIA:
        torch.testing.assert_close(copy.deepcopy(criterion).cuda()(logits, target).cpu(), criterion(*batch))
    target[0] = 9
    assert ht.hem_loss(logits, target).isnan()


TRACED_CONSTANTS = [
    (ht.hem_loss, {"margin": -1.0}),
    (ht.hem_loss, {"margin": float("nan")}),
    (ht.multi_margin_loss, {"margin": float("inf")}),
    (ht.focal_loss, {"gamma": -1.0}),
    (ht.focal_loss, {"alpha": [1.0, -1.0, 1.0]}),
    (ht.logit_norm_loss, {"temperature": 0.0}),
    (ht.logit_adjusted_loss, {"class_counts": [1.0, 0.0, 1.0]}),
    (ht.logit_adjusted_loss, {"class_counts": [1.0, 2.0, 1.0], "temperature": -1.0}),
    (ht.dice_loss, {"smooth": -1.0}),
]


@pytest.mark.parametrize(("loss", "constants"), TRACED_CONSTANTS)
def test_a_bad_constant_in_a_compiled_tensor_is_nan(
    loss: Any, constants: dict[str, Any], batch: tuple[Any, Any]
) -> None:
    tensors = {name: torch.tensor(value) for name, value in constants.items()}
    compiled = torch.compile(lambda z, y, t: loss(z, y, **t), fullgraph=True, backend="aot_eager")
    logits = batch[0].clone().requires_grad_()
    value = compiled(logits, batch[1], tensors)
    value.backward()
    assert value.isnan()
    assert logits.grad.isnan().all()
    with pytest.raises(ValueError, match=f"{list(constants)[-1]} must be finite and >"):
        loss(batch[0], batch[1], **tensors)


def test_compiled_once_for_batches_of_every_size() -> None:
    compilations = []

    def counting(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(ht.HEMLoss(), fullgraph=True, dynamic=True, backend=counting)
    for n in (8, 16, 23, 40):
        compiled(torch.randn(n, 5), torch.randint(0, 5, (n,)))
    assert len(compilations) == 1


@pytest.fixture
def alone(tmp_path: Any) -> Any:
    """A process group of this process."""
    if not torch.distributed.is_available():
        pytest.skip("this PyTorch is built without torch.distributed")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield torch.distributed.group.WORLD
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_a_process_group_is_shown_shared_by_copies_and_not_pickled(alone: Any, batch: tuple[Any, Any]) -> None:
    criterion = ht.HEMLoss(process_group=alone, class_group=alone)
    assert repr(criterion) == (
        "HEMLoss(margin=1.0, ignore_index=-100, reduction='active_mean', process_group=<group of 1>,"
        " class_group=<group of 1>)"
    )
    assert torch.equal(criterion(*batch), ht.hem_loss(*batch))
    model = copy.deepcopy(torch.nn.ModuleList([criterion, criterion]))
    assert model[0] is model[1] is not criterion
    assert model[0].process_group is alone
    with pytest.raises(TypeError, match=r"cannot pickle .*ProcessGroup"):
        pickle.dumps(criterion)
    assert not criterion.state_dict()
    criterion.process_group = criterion.class_group = None
    assert repr(pickle.loads(pickle.dumps(criterion))) == repr(ht.HEMLoss())


def test_a_module_pickled_before_there_were_groups(batch: tuple[Any, Any]) -> None:
    state = ht.HEMLoss().__getstate__()
    del state["process_group"], state["class_group"]
    criterion = ht.HEMLoss.__new__(ht.HEMLoss)
    criterion.__setstate__(state)
    assert torch.equal(criterion(*batch), ht.hem_loss(*batch))


def test_gradients_by_functorch_know_the_group(alone: Any, batch: tuple[Any, Any]) -> None:
    gradient = torch.func.grad(lambda z: ht.cross_entropy_loss(z, batch[1], process_group=alone))(batch[0])
    torch.testing.assert_close(gradient, torch.func.grad(lambda z: ht.cross_entropy_loss(z, batch[1]))(batch[0]))


@named
def test_groups_are_checked(criterion: Any, alone: Any, batch: tuple[Any, Any]) -> None:
    loss = type(criterion).function
    given = {name: getattr(criterion, name) for name in criterion.constants}
    for mistaken in (lambda **options: loss(*batch, **given, **options), lambda **o: type(criterion)(**given, **o)):
        with pytest.raises(ValueError, match="process_group must be None with reduction 'none', which sums nothing"):
            mistaken(process_group=alone, reduction="none")
        with pytest.raises(
            TypeError, match=r"process_group must be a torch.distributed.ProcessGroup or None; got int 2"
        ):
            mistaken(process_group=2)
        with pytest.raises(TypeError, match=r"got int -100 \(new_group gives that to a process outside the group\)"):
            mistaken(process_group=torch.distributed.GroupMember.NON_GROUP_MEMBER)
        if "class_group" in criterion.groups:
            with pytest.raises(
                TypeError, match=r"class_group must be a torch.distributed.ProcessGroup or None; got str"
            ):
                mistaken(class_group="classes")
    torch.distributed.destroy_process_group()
    with pytest.raises(ValueError, match=r"process_group needs torch.distributed.init_process_group, which was not"):
        loss(*batch, **given, process_group=alone)


ONE_HOT = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
MESSAGES: list[tuple[Any, type[Exception], str]] = [
    (lambda z, y: ht.HEMLoss(margin=-1), ValueError, "margin must be finite and >= 0; got -1.0"),
    (lambda z, y: ht.HEMLoss(margin="wide"), TypeError, "margin must be a real number"),
    (lambda z, y: ht.HEMLoss(margin=True), TypeError, "margin must be a real number or an array of them; got bool"),
    (
        lambda z, y: ht.HEMLoss(reduction="average"),
        ValueError,
        "reduction must be one of 'none', 'sum', 'mean', 'active_mean'; got 'average'",
    ),
    (
        lambda z, y: ht.CrossEntropyLoss(reduction="active_mean"),
        ValueError,
        "only HEM and multi-class margin have inactive positions",
    ),
    (
        lambda z, y: ht.LogitAdjustedLoss(class_counts=[1, 0]),
        ValueError,
        "class_counts must be finite and > 0; got 0.0",
    ),
    (
        lambda z, y: ht.HEMLoss()(z, y.float()),
        TypeError,
        "target must hold integer class indices of shape (6,); got float32 of shape (6,)",
    ),
    (lambda z, y: ht.HEMLoss()(z, y + 3), ValueError, "target must lie in [0, 3) at every valid position; got"),
    (lambda z, y: ht.HEMLoss()(z, ONE_HOT), ValueError, "one-hot target? take the argmax over the classes"),
    (
        lambda z, y: ht.HEMLoss()(z[:, 0], y),
        ValueError,
        "expected () (shape of input: (6,), class axis 0), got (6,); is the class axis missing from input?",
    ),
    (lambda z, y: ht.HEMLoss()(z[:, :1], y * 0), ValueError, "input must have at least 2 classes along axis 1"),
    (lambda z, y: ht.HEMLoss()(z.long(), y), TypeError, "input must be floating point"),
    (lambda z, y: ht.HEMLoss()(z.numpy(), y), TypeError, "input must be a torch.Tensor; got ndarray"),
    (lambda z, y: ht.HEMLoss(margin=[1, 2])(z, y), ValueError, "one entry per class, shape (3,); got shape (2,)"),
    (lambda z, y: ht.HEMLoss()(z, y, -torch.ones(6)), ValueError, "sample_weight must be finite and >= 0; got -1.0"),
]


@pytest.mark.parametrize(("mistake", "error", "message"), MESSAGES, ids=[message for *_, message in MESSAGES])
def test_a_confused_user_is_told(mistake: Any, error: type[Exception], message: str, batch: tuple[Any, Any]) -> None:
    with pytest.raises(error) as caught:
        mistake(*batch)
    assert message in str(caught.value)
