"""The examples of the site run: page by page, one framework to a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pages
import pytest

BLOCKS = pages.all_blocks()
FRAMEWORKS = sorted({block.framework for block in BLOCKS})


def test_there_are_examples_of_every_framework() -> None:
    assert {"numpy", "torch", "jax", "keras-tensorflow"} <= set(FRAMEWORKS)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_examples_run(framework: str, tmp_path: Path) -> None:
    keras = {"KERAS_BACKEND": framework.removeprefix("keras-")} if framework.startswith("keras-") else {}
    command = [sys.executable, pages.__file__, framework]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | keras, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


PAGE = """# A page

```python
import numpy
```

::::{tab-set}
:::{tab-item} PyTorch
```python
import torch
```

```python
x = torch.ones(1)
```
:::
:::{tab-item} Keras
```python
import os
os.environ["KERAS_BACKEND"] = "jax"
from hemspec.keras import HEMLoss
```
```pycon
>>> 1 + 1
2
```
:::
::::

<!-- not run: it needs a network -->

```python
raise ValueError
```

```bash
rm
```

```python
a = 1
```
"""


def test_blocks_belong_to_what_they_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "SITE", tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    found = [(block.line, block.framework) for block in pages.blocks(tmp_path / "page.md")]
    assert found == [(4, "numpy"), (10, "torch"), (14, "torch"), (19, "keras-jax"), (24, "keras-jax"), (41, "numpy")]


@pytest.mark.parametrize("code", ["raise ValueError\n", "assert 1 == 2\n", ">>> 1 + 1\n3\n"])
def test_a_wrong_example_is_noticed(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pages, "SITE", tmp_path)
    (tmp_path / "page.md").write_text(f"# A page\n\n```python\n{code}```\n")
    assert pages.main("numpy") == 1
    assert "docs/site/page.md:4: this block failed" in capsys.readouterr().err
