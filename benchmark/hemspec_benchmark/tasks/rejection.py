"""Unknown-class rejection: can one tell what was never trained on?"""

from __future__ import annotations

from typing import Any, Final

from hemspec_benchmark import datasets, metrics, unknowns
from hemspec_benchmark.tasks import Outcome
from hemspec_benchmark.training import Workshop

SHOWN: Final = 12
"""Images of each kind whose logits are kept, of seed 0, to be shown."""


def run(workshop: Workshop, setting: str, loss: str, seed: int) -> Outcome:
    """Near: classes held out, rotating with the seed. Far: `unknowns.FAR`, as many of each as test images; where a
    score is to be chosen on validation images `unknowns.CHOOSING` in their place."""
    details: dict[str, Any] = {}
    data = workshop.data(seed)
    if setting == "near":
        known, unknown = datasets.hold_out(data, seed)
        recipe = workshop.protocol.classification
        learner, _ = workshop.train(known, loss, seed, recipe, epochs=workshop.same_steps(known, data))
        logits = learner.logits(known.test_images)
        details["held_out"] = [name for name in data.classes if name not in known.classes]
        scores = {"digits" if data.name == "digits" else "classes": unknown}
    else:
        learner, _ = workshop.on_all_classes(loss, seed)
        images = data.test_images
        logits = learner.logits(images)
        # Noise and photographs are the same for all trainings.
        if workshop.protocol.evaluate_on == "validation":
            scores = {name: make(images, data.test_labels, 0) for name, make in unknowns.CHOOSING.items()}
        else:
            scores = {name: make(images, 0) for name, make in unknowns.FAR.items()}
    unknown_logits = {name: learner.logits(images) for name, images in scores.items()}
    if setting == "far" and seed == 0:
        details["samples"] = {name: part[:SHOWN].tolist() for name, part in {"known": logits, **unknown_logits}.items()}
        # What accepts 95 % of the known images, for the pictures.
        details["samples"]["threshold"] = float(sorted(logits.max(axis=1))[int(0.05 * len(logits))])
    measured = {
        f"{metric}/{name}": value
        for name, part in unknown_logits.items()
        for metric, value in metrics.rejection(logits, part).items()
    }
    return Outcome(measured, details)
