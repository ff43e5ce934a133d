"""Imbalanced data: training on a long tail, tested on all classes alike."""

from __future__ import annotations

from hemspec_benchmark import datasets, metrics
from hemspec_benchmark.tasks import Outcome
from hemspec_benchmark.training import Workshop


def run(workshop: Workshop, setting: str, loss: str, seed: int) -> Outcome:
    """As many steps as on the balanced data; the seed rotates which classes are rare."""
    whole = workshop.data(seed)
    data = datasets.long_tail(whole, float(setting.removeprefix("ratio-")), seed)
    recipe = workshop.protocol.classification
    learner, _ = workshop.train(data, loss, seed, recipe, epochs=workshop.same_steps(data, whole))
    predictions = learner.logits(data.test_images).argmax(axis=1)
    recall = metrics.recalls(data.test_labels, predictions, data.num_classes)
    return Outcome(
        metrics.balanced(data.test_labels, predictions, data.class_counts),
        {"class_counts": data.class_counts.tolist(), "recall": recall.tolist()},
    )
