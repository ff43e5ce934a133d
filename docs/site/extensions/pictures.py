"""Pictures drawn while the site is built: of the reference, and of the committed results of the benchmark.

They are SVG inside the page, so that their text has the page's colour. The full report is made beside the build, in a
process of its own, since it takes as long.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from docutils import nodes
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from hemspec import cross_entropy_loss, hem_loss
from hemspec.reference.hem import kept_errors, margin_errors
from hemspec_benchmark import report, store, style
from hemspec_benchmark.swap import report as swap_report
from hemspec_benchmark.swap import selection_report

RESULTS: Final = Path(__file__).parents[3] / "benchmark/results"
FULL: Final = RESULTS / "full.json.gz"
REPORT: Final = "benchmark-report.html"


@style.styled
def errors_and_gradients() -> Figure:
    """One of the specification's worked examples: errors, their mean, and what HEM and CE do about them."""
    z, y = np.array([[0.0, 2.0, 1.0, 0.2]]), np.array([0])
    errors = margin_errors(z, y, np.ones(1))
    kept = kept_errors(errors)[0]
    figure = style.new_figure(style.CARD, 4.4)
    above, below = figure.subplots(2, sharex=True)
    classes = np.arange(z.shape[1])

    hem, ce = style.loss_style("hem")["color"], style.loss_style("ce")["color"]
    above.bar(classes, errors[0], color=[hem if keep else "none" for keep in kept], edgecolor=hem, width=0.5)
    above.axhline(errors.mean(), color=style.INK, linestyle="--", linewidth=1.2)
    above.text(-0.45, errors.mean() + 0.06, f"mean error {errors.mean():.2f}", va="bottom")
    above.set(ylabel="error", ylim=(0, 3.4), title="Errors: filled are kept, and averaged to 2.5")
    for j, error in enumerate(errors[0]):
        above.text(j, 0.08, f"{error:g}", ha="center", va="bottom")

    below.bar(classes - 0.17, hem_loss.gradient(z, y)[0], 0.3, color=hem, label="HEM")
    below.bar(classes + 0.17, cross_entropy_loss.gradient(z, y)[0], 0.3, color=ce, alpha=0.6, label="CE")
    below.axhline(0, color=style.INK, linewidth=0.8)
    below.set(ylabel="gradient", ylim=(-1.15, 1.15), title="Gradient in the logits")
    names = [f"class {j}\nz = {value:g}" for j, value in enumerate(z[0])]
    below.set_xticks(classes, [f"{name}\ntrue" if j == y[0] else name for j, name in enumerate(names)])
    below.legend(loc="upper right")
    return figure


@style.styled
def gradient_of_one_rival() -> Figure:
    """How hard each loss pulls as one rival falls behind: two classes, margin 1."""
    lead = np.linspace(-2.0, 5.0, 281)
    z, y = np.stack([lead, np.zeros_like(lead)], axis=1), np.zeros(len(lead), int)
    figure = style.new_figure(style.CARD, 3.0)
    axes = figure.add_subplot()
    for name, label, loss in (("ce", "CE", cross_entropy_loss), ("hem", "HEM, margin 1", hem_loss)):
        pull = np.abs(loss.gradient(z, y, reduction="none")[:, 0])
        axes.plot(lead, pull, color=style.loss_style(name)["color"], label=label)
    axes.axvline(0, color=style.INK, linewidth=0.8, linestyle=":")
    axes.set(xlabel="lead of the true class: its logit minus the rival's", ylabel="size of the gradient")
    axes.set_ylim(0, 1.1)
    axes.legend(loc="upper right")
    return figure


@functools.cache
def measured() -> dict[str, Callable[[], Figure | None]]:
    """What draws each of the report's figures."""
    return report.drawings(store.read(FULL))


def drawn_from(result: str, reporting: Any) -> Figure:
    """The one figure of a small report."""
    (figure,) = reporting.figures(store.read(RESULTS / result)).values()
    return figure


DRAWN: Final[dict[str, Callable[[], Figure]]] = {
    "errors-and-gradients": errors_and_gradients,
    "gradient-of-one-rival": gradient_of_one_rival,
    "swap": functools.partial(drawn_from, "swap.json.gz", swap_report),
    "selection": functools.partial(drawn_from, "selection.json.gz", selection_report),
}


class Picture(SphinxDirective):
    """``:::{picture} NAME`` with the caption inside."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        draw = DRAWN.get(name) or measured().get(name)
        figure = draw() if draw else None
        if figure is None:
            raise self.error(f"no picture {name!r}; there are {', '.join([*DRAWN, *measured()])}")
        caption = nodes.container(classes=["picture-caption"])
        self.state.nested_parse(self.content, self.content_offset, caption)
        wide = "wide" if figure.get_size_inches()[0] > 1.5 * style.CARD else "card"
        drawing = nodes.raw("", style.svg(figure, name, caption.astext().replace('"', "”")), format="html")
        return [nodes.container("", drawing, caption, classes=["picture", wide])]


def start_report(app: Sphinx) -> None:
    if app.builder.format != "html":
        return
    path = Path(app.outdir) / REPORT
    code = "import sys; from pathlib import Path; from hemspec_benchmark import report, store; "
    code += "Path(sys.argv[2]).write_text(report.page(store.read(Path(sys.argv[1]))), encoding='utf-8')"
    path.unlink(missing_ok=True)
    app.report = subprocess.Popen([sys.executable, "-c", code, str(FULL), str(path)])  # type: ignore[attr-defined]


def await_report(app: Sphinx, exception: Exception | None) -> None:
    status = app.report.wait() if hasattr(app, "report") else 0
    if status and not exception:
        raise ExtensionError(f"making {REPORT} ended with status {status}")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("picture", Picture)
    app.connect("builder-inited", start_report)
    app.connect("build-finished", await_report)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
