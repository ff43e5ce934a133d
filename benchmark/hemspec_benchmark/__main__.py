"""``python -m hemspec_benchmark`` is the command ``hemspec-benchmark``."""

from hemspec_benchmark.cli import app

app(prog_name="hemspec-benchmark")
