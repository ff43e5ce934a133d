"""``python -m hemspec_perf`` is the command ``hemspec-perf``."""

from hemspec_perf.cli import app

app(prog_name="hemspec-perf")
