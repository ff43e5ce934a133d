"""The distribution: what it installs, what importing it imports, and who may import whom."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import hemspec

PACKAGES = {
    "hemspec",
    "hemspec_torch",
    "hemspec_tensorflow",
    "hemspec_jax",
    "hemspec_keras",
    "hemspec_conformance",
    "hemspec_benchmark",
    "hemspec_perf",
}
BACKENDS = sorted(name for name in PACKAGES if name.split("_")[-1] in ("torch", "tensorflow", "jax", "keras"))


def installed_files() -> list[str]:
    files = importlib.metadata.files("hemspec")
    assert files is not None
    return [str(file) for file in files]


@pytest.fixture
def wheel() -> list[str]:
    files = installed_files()
    if any(file.endswith(".pth") for file in files):
        pytest.skip("an editable install lists no files")
    return files


def test_top_level_names(wheel: list[str]) -> None:
    names = {file.split("/")[0] for file in wheel if not file.startswith((".", "/"))}
    assert {name for name in names if not name.endswith(".dist-info")} == PACKAGES


def test_every_package_is_typed(wheel: list[str]) -> None:
    assert {file.split("/")[0] for file in wheel if file.endswith("/py.typed")} == PACKAGES


def test_version() -> None:
    assert importlib.metadata.version("hemspec") == hemspec.__version__


def test_importing_hemspec_imports_numpy_alone() -> None:
    code = (
        "import sys; before = set(sys.modules); import hemspec;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names);"
        "print(sorted(name for name in new if not name.startswith('_')))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "['hemspec', 'numpy']"


def imports_of(package: str) -> set[str]:
    """Every module that a package's source names in an import."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    found: set[str] = set()
    for path in Path(spec.origin).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_never_import_the_reference(backend: str) -> None:
    losses = {f"hemspec.{name}" for name in hemspec.__all__ if name.endswith("_loss")}
    forbidden = {name for name in imports_of(backend) if name.startswith("hemspec.reference")} | (
        imports_of(backend) & (losses | {"hemspec_conformance", "hemspec_benchmark", "hemspec_perf"})
    )
    assert not forbidden


def test_nothing_imports_the_benchmarks() -> None:
    benchmarks = ("hemspec_benchmark", "hemspec_perf")
    for package in PACKAGES - {*benchmarks}:
        assert not {name for name in imports_of(package) if name.startswith(benchmarks)}


def test_the_benchmarks_share_their_style_alone() -> None:
    shared = {name for name in imports_of("hemspec_perf") if name.startswith("hemspec_benchmark")}
    assert {name.split(".")[1] for name in shared} == {"style"}


@pytest.mark.finding(17)
def test_no_plugin_of_pytest_loads_by_itself() -> None:
    ours = importlib.metadata.distribution("hemspec").entry_points
    assert {point.group for point in ours} == {"console_scripts"}


@pytest.mark.finding(17)
def test_other_peoples_tests_run_beside_hemspec(tmp_path: Path) -> None:
    """Their options may have any name; the suite's are there only where its plugin is asked for."""
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser):\n"
        "    for name in ('--backend', '--backend-full', '--backend-timeout', '--backend-json'):\n"
        "        parser.addoption(name)\n"
    )
    (tmp_path / "test_theirs.py").write_text(
        "import sys\n"
        "def test_theirs(pytestconfig):\n"
        "    assert pytestconfig.getoption('--backend') == 'theirs'\n"
        "    assert not [name for name in sys.modules if name.startswith('hemspec')]\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--backend", "theirs"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout
