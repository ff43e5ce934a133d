"""Formulas as MathML, which browsers draw themselves: no script, no fonts, nothing from another host.

docutils converts; what it cannot is a warning, and so an error of the build.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def converted(node: nodes.Element, *, block: bool) -> str:
    try:
        # The class is the conversion's, for a stylesheet of its own; the form is what browsers understand.
        return str(tex2mathml(node.astext(), as_block=block)).replace('class="mathopen"', 'form="prefix"')
    except MathError as error:
        logger.warning("formula %r: %s", node.astext(), error, location=node, type="math")
        return ""


def visit_inline(translator: Any, node: nodes.Element) -> None:
    translator.body.append(converted(node, block=False))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.Element) -> None:
    translator.body.append(f'<div class="formula">{converted(node, block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
