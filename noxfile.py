"""Everything a contributor or a CI runs. ``nox -l`` lists the sessions; plain ``nox`` runs lint, types, tests,
conformance of every backend, the example ports and trainings, the documentation, and build.

All sessions share one environment with the tested stack (constraints.txt), because installing three frameworks takes
longer than most sessions; it is made once and made again when pyproject.toml or constraints.txt change. hemspec itself
goes into it as a wheel, freshly built in every run: what is tested is what users get, not the tree. Each framework runs
in processes of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests", "conformance", "ports", "examples", "docs", "build"]
nox.options.error_on_missing_interpreters = True
nox.needs_version = ">=2024.4.15"

ROOT = Path(__file__).parent
WORK = ROOT / ".nox"
STACK = WORK / "stack"
EXTRAS = "torch,keras,jax,conformance,benchmark"
SITE_TOOLS = ("sphinx", "furo", "myst-parser", "sphinx-design", "sphinx-copybutton")
EXAMPLES = ("lightning", "transformers", "accelerate", "flax", "equinox")
EXPORT = ("onnx", "onnxscript", "onnxruntime")
TOOLS = ("tensorflow-cpu", "triton", "ruff", "mypy", "pytest-xdist", "expecttest", *SITE_TOOLS, *EXAMPLES, *EXPORT)
"""TensorFlow's smaller build, the extra names the usual one; Triton, which otherwise comes with PyTorch for CUDA; what
the documentation, the training examples and the tests of exported models need; and what PyTorch's own tests import."""
BACKENDS = {
    "numpy": {},
    "torch": {},
    "tensorflow": {},
    "jax": {},
    "keras-tensorflow": {"KERAS_BACKEND": "tensorflow"},
    "keras-jax": {"KERAS_BACKEND": "jax"},
    "keras-torch": {"KERAS_BACKEND": "torch"},
}
"""The targets of the conformance suite and of the tests, with the environment variables each needs."""

PORTS = {"autograd": ["autograd"], "mlx": ["mlx[cpu]", "ml_dtypes"]}  # NumPy has no bfloat16 of its own
"""The example ports in examples/backends, with what each needs."""
SUITE_NEEDS = ["numpy", "pytest", "hypothesis"]
"""All that the conformance suite needs beside the backend."""

OPERATORS = ROOT / "tests/torch/operators.py"
"""PyTorch's own checks of operators and modules; see `operators`."""

VERSIONS: dict[str, tuple[str, list[str], list[str]]] = {
    "numpy-oldest": ("3.10", ["numpy==1.26.0", "ml_dtypes==0.4.0"], ["numpy"]),
    "numpy-3.11": ("3.11", ["numpy==2.0.2", "ml_dtypes"], ["numpy"]),
    "numpy-3.12": ("3.12", ["numpy==2.3.5", "ml_dtypes"], ["numpy"]),
    "numpy-newest": ("3.13", ["numpy==2.5.5", "ml_dtypes"], ["numpy"]),
    "torch-oldest": ("3.10", ["torch==2.6.0", "keras==3.8.0", "numpy==1.26.0", "ml_dtypes"], ["torch", "keras-torch"]),
    "torch-newest": ("3.13", ["torch==2.14.1", "keras==3.15.1", "numpy", "ml_dtypes"], ["torch", "keras-torch"]),
    "jax-oldest": ("3.10", ["jax==0.6.0", "jaxlib==0.6.0", "keras==3.8.0", "numpy==1.26.0"], ["jax", "keras-jax"]),
    "jax-newest": ("3.13", ["jax==0.12.0.1", "jaxlib==0.12.0.1", "keras==3.15.1"], ["jax", "keras-jax"]),
    "tensorflow-oldest": (
        "3.10",
        ["tensorflow-cpu==2.18.0", "keras==3.8.0", "numpy==1.26.0"],
        ["tensorflow", "keras-tensorflow"],
    ),
    "tensorflow-newest": ("3.13", ["tensorflow-cpu==2.21.0", "keras==3.15.1"], ["tensorflow", "keras-tensorflow"]),
}
"""Beside the tested stack: the oldest that pyproject.toml allows and the newest there was, on every Python. Each with
its Python, what is pinned, and the backends that are checked in it."""

STRICT = ["-W", "-n", "--keep-going", "-q", "-E", "-d", str(WORK / "doctrees")]
"""Sphinx: every warning is an error, every reference has to be found, nothing is left from the build before."""

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",  # none of TensorFlow's start-up messages
    "TF_ENABLE_ONEDNN_OPTS": "0",
    # One thread a process, since two processes share the cores.
    "OMP_NUM_THREADS": "1",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "",  # what is imported is compiled once, see `stack`
}
"""The environment variables of every program."""


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """ruff: style, imports, likely bugs, formatting."""
    stack(session)
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """mypy, strict."""
    stack(session)
    run(session, "mypy")


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Unit tests and the examples in docstrings, one framework a process. Arguments go to pytest: a path, -k ..."""
    stack(session)
    if session.posargs:
        return pytest(session, *(str(ROOT / a) if a.startswith("tests/") else a for a in session.posargs))
    files = sorted((ROOT / "tests").glob("test_*.py"))
    # By file, because the tests about mutants share what the suite said of each.
    pytest(session, *files, ROOT / "tests/conformance", "-n2", "--dist", "loadfile")
    doctests = ["--doctest-modules", "--pyargs"]
    pytest(session, *doctests, "hemspec.reference", "hemspec.margins")
    for backend, variables in BACKENDS.items():
        if backend == "numpy":
            continue
        package = backend.split("-")[0]
        where = [ROOT / "tests" / package, ROOT / "tests/every", f"hemspec_{package}"]
        if package == "torch":
            where += [f"{OPERATORS}::{quick}" for quick in ("test_gradients", "test_modules")]
        pytest(session, *doctests, *where, "-n2", HEMSPEC_BACKEND=package, **variables)
    pytest(session, ROOT / "tests/benchmark", "-n2")
    return pytest(session, ROOT / "tests/perf", "-n2")


@nox.session(default=False, venv_backend="none")
def operators(session: nox.Session) -> None:
    """PyTorch's own kind of operator and module tests on our losses, three minutes. Arguments go to pytest.

    The quick ones are among the usual tests.
    """
    stack(session)
    pytest(session, OPERATORS, "-n2", *session.posargs)


@nox.session(venv_backend="none")
@nox.parametrize("backend", list(BACKENDS))
def conformance(session: nox.Session, backend: str) -> None:
    """The conformance suite on one backend or, unless one is named, on all of them, put side by side at the end.

    Arguments go to hemspec-conformance: ``nox -s "conformance(backend='torch')" -- --only 'hem_loss/*' --full``.
    """
    stack(session)
    adapter = f"hemspec_conformance.adapters.{backend.split('-')[0]}"
    limit = ["--workers", "2", "--timeout", "180"]  # two cores, where a first compilation can take its time
    verdict = ROOT / "results/conformance" / f"{backend}.json"
    with session.chdir(outside()):
        command = ["hemspec-conformance", "--backend", adapter, *limit, "--json", str(verdict), *session.posargs]
        run(session, *command, env=BACKENDS[backend])
    if not session.posargs:
        session.notify("matrix")


@nox.session(default=False, venv_backend="none")
def matrix(session: nox.Session) -> None:
    """Put the verdicts on all backends side by side: results/conformance.html, and the table of the documentation."""
    stack(session)
    verdicts = [ROOT / "results/conformance" / f"{backend}.json" for backend in BACKENDS]
    missing = [path.stem for path in verdicts if not path.exists()]
    if missing:
        return session.skip(f"no verdict yet on {', '.join(missing)}")
    table = ROOT / "results/conformance.md"
    pages = ["--html", str(ROOT / "results/conformance.html"), "--markdown", str(table)]
    run(session, "hemspec-conformance", "--merge", *map(str, verdicts), *pages)
    # The documentation says what passes. Skipped checks are the last column: with a GPU there are fewer, and more rows.
    shown = (ROOT / "docs/site/conformance.md").read_text()
    for row in table.read_text().splitlines():
        backend, skipped = row.split(" | ")[0], row.split(" | ")[-1]
        same_machine = any(line.startswith(backend) and line.endswith(skipped) for line in shown.splitlines())
        if row not in shown and (same_machine or backend not in shown):
            session.error(f"the table of docs/site/conformance.md is out of date; {table} has\n{row}")
    return None


@nox.session
@nox.parametrize("framework", list(PORTS))
def ports(session: nox.Session, framework: str) -> None:
    """The suite on the example ports, each beside its framework alone: NumPy, pytest, hypothesis and the wheel."""
    session.install(*SUITE_NEEDS, *PORTS[framework], *constraints())
    session.install("--no-deps", str(wheel(session)))
    session.chdir(ROOT / "examples/backends" / framework)
    limit = ["--workers", "2", "--timeout", "120"]  # MLX compiles with g++
    session.run("hemspec-conformance", "--backend", f"hem_{framework}_adapter", *limit, *session.posargs)


@nox.session(venv_backend="none")
def examples(session: nox.Session) -> None:
    """The training examples: each runs as it is, learns, and accumulates as exactly as it says."""
    stack(session)
    pytest(session, ROOT / "tests/examples", "-n2", "--dist", "worksteal", *session.posargs)


@nox.session(venv_backend="none")
def docs(session: nox.Session) -> None:
    """The documentation site, results/site/index.html; a broken link or an example that fails is an error."""
    stack(session)
    site = ROOT / "results/site"
    shutil.rmtree(site, ignore_errors=True)
    run(session, "sphinx-build", *STRICT, "docs/site", str(site))
    pytest(session, ROOT / "tests/docs", "-n2")


@nox.session(default=False)
def screenshots(session: nox.Session) -> None:
    """The built site in Chromium, desktop and phone, light and dark: results/screenshots. Needs chromium and a site."""
    session.install("playwright", *constraints())
    session.run("python", str(ROOT / "tests/docs/look.py"), str(ROOT / "results/screenshots"))


@nox.session(default=False, venv_backend="none")
def linkcheck(session: nox.Session) -> None:
    """Whether the documentation's links to other sites lead somewhere (needs the network)."""
    stack(session)
    run(session, "sphinx-build", *STRICT, "-b", "linkcheck", "docs/site", str(WORK / "linkcheck"))


@nox.session(default=False, venv_backend="none")
def benchmark(session: nox.Session) -> None:
    """The paper's six tasks in small, every loss in three frameworks (minutes); see results/quick/report.html.

    Arguments go to ``hemspec-benchmark quick``: ``nox -s benchmark -- --task robustness --seeds 5``.
    """
    stack(session)
    run(session, "hemspec-benchmark", "quick", "--output", "results/quick", *session.posargs)


@nox.session(default=False, venv_backend="none")
def perf(session: nox.Session) -> None:
    """Speed and memory of the margin losses beside the frameworks' own (minutes); see results/perf and docs/perf.md.

    Arguments go to ``hemspec-perf``: ``nox -s perf -- --quick --framework torch``. It sets its own number of threads.
    """
    stack(session)
    run(session, "hemspec-perf", "--output", "results/perf", *session.posargs)


@nox.session(default=False, venv_backend="none")
def report(session: nox.Session) -> None:
    """From the committed results: results/report, and the published tables and pictures."""
    stack(session)
    site = {"full": ["benchmark.md"], "swap": ["swap.md", "migration/index.md"], "selection": ["selection.md"]}
    for name, names in site.items():
        pages = [f"docs/site/{page}" for page in names] + (["README.md"] if name == "swap" else [])
        options = [part for page in pages for part in ("--readme", page)]
        arguments = [f"benchmark/results/{name}.json.gz", "--output", f"results/report/{name}", *options]
        run(session, "hemspec-benchmark", "report", *arguments, "--refresh", "docs/benchmark")


@nox.session
def build(session: nox.Session) -> None:
    """The wheel and the sdist, installed with NumPy alone, outside the tree: no framework, helpful errors."""
    session.install("build", "hatchling", *constraints())
    target = Path(session.create_tmp()) / "dist"
    shutil.rmtree(target, ignore_errors=True)
    session.run("python", "-m", "build", "--no-isolation", "--outdir", str(target), str(ROOT), silent=True)
    (built,) = target.glob("*.whl")
    session.install(str(built), *SUITE_NEEDS, *constraints())
    session.chdir(session.create_tmp())
    session.run("pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", str(ROOT / "tests/bare"))
    adapter = "hemspec_conformance.adapters.numpy"
    session.run("hemspec-conformance", "--backend", adapter, "--workers", "2")
    suite = ("-p", "hemspec_conformance.plugin", "--pyargs", "hemspec_conformance")
    session.run("pytest", "-q", *suite, "--backend", adapter, "-k", "hem_loss and random")


@nox.session(default=False, venv_backend="none")
@nox.parametrize("target", ["numpy", "torch"])
def mutants(session: nox.Session, target: str) -> None:
    """Change every place of HEM, MM and the reductions in turn; the conformance suite has to notice (long).

    A part of them is asked by the usual tests. In parts: ``nox -s "mutants(target='torch')" -- --part 2/10``.
    """
    stack(session)
    program = ROOT / "tests/conformance/mutation/kill.py"
    with session.chdir(outside()):
        run(session, "python", "-W", "ignore", str(program), target, *session.posargs)


@nox.session(default=False, venv_backend="none")
@nox.parametrize("backend", list(BACKENDS))
def fuzz(session: nox.Session, backend: str) -> None:
    """Random calls, good and bad, as many as asked for (long): ``nox -s "fuzz(backend='jax')" -- 20000 --seed 1``."""
    stack(session)
    inputs, *options = session.posargs or ["5000"]
    adapter = f"hemspec_conformance.adapters.{backend.split('-')[0]}"
    command = ["--backend", adapter, "--fuzz", inputs, "--workers", "2", "--timeout", "180", *options]
    with session.chdir(outside()):
        run(session, "hemspec-conformance", *command, env=BACKENDS[backend])


@nox.session(default=False, venv_backend="none")
@nox.parametrize("entry", list(VERSIONS))
def versions(session: nox.Session, entry: str) -> None:
    """The wheel with other versions of a framework, NumPy and Python (long; gigabytes): docs/site/versions.md.

    Every loss's random vectors in all modes, all of HEM and the bad arguments eagerly, and the examples in docstrings;
    ``-- --only '*'`` for all of the suite. What cannot be installed is skipped, with pip's reason.
    """
    python, pins, backends = VERSIONS[entry]
    folder = WORK / "versions" / entry
    try:
        make(session, folder, python, [*pins, *SUITE_NEEDS, "packaging"])
    except nox.command.CommandFailed:
        return session.skip(f"cannot be installed here: {', '.join(pins)} for Python {python}")
    programs = folder / "bin"
    install = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    session.run(*install, "--no-deps", "--force-reinstall", str(wheel(session)), external=True)
    test = [str(programs / "pytest"), "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    only = session.posargs or [f"--only={checks}" for checks in ("*/random*", "hem_loss/*/eager/*", "*/bad_*/eager/*")]
    only += ["--timeout", "180", "--workers", "2"]
    with session.chdir(outside()):
        session.run(*test, str(ROOT / "tests/bare"), env=QUIET, external=True)
        for backend in backends:
            name, variables = backend.split("-")[0], {**QUIET, **BACKENDS[backend]}
            adapter, package = f"hemspec_conformance.adapters.{name}", f"hemspec_{name}"
            command = [str(programs / "hemspec-conformance"), "--backend", adapter, *only]
            session.run(*command, env=variables, external=True)
            if name != "numpy":
                # Of hemspec_keras a module imports TensorFlow, where that is what Keras runs on.
                examples = ["--doctest-modules", "--doctest-ignore-import-errors", "--pyargs", package]
                session.run(*test, *examples, env=variables, external=True)
    return None


def make(session: nox.Session, folder: Path, python: str, requirements: list[str]) -> None:
    """A virtual environment of that Python with these packages, made once."""
    stamp, recipe = folder / "recipe", " ".join([python, *requirements])
    if stamp.exists() and stamp.read_text() == recipe:
        return
    found = [*sorted(Path.home().glob(f".pyenv/versions/{python}.*/bin/python")), shutil.which(f"python{python}")]
    if found[0] is None:
        session.skip(f"there is no Python {python} here")
    shutil.rmtree(folder, ignore_errors=True)
    session.run(str(found[0]), "-m", "venv", str(folder), external=True)
    pip_of = [str(folder / "bin/python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    session.run(*pip_of, "install", *requirements, external=True)
    stamp.write_text(recipe)


@nox.session(default=False, venv_backend="none")
def vectors(session: nox.Session) -> None:
    """Make the frozen vectors again from the tree; ``-- --check`` compares instead of writing."""
    stack(session)
    source = os.pathsep.join([str(ROOT), str(ROOT / "conformance")])
    run(session, "python", "-m", "hemspec_conformance.vectors", *session.posargs, env={"PYTHONPATH": source})


def constraints() -> list[str]:
    return ["--constraint", str(ROOT / "constraints.txt")]


def stack(session: nox.Session) -> None:
    """Make the shared environment if it is missing or out of date, and install a wheel of this tree into it."""
    recipe = hashlib.sha256()
    for part in (ROOT / "pyproject.toml", ROOT / "constraints.txt"):
        recipe.update(part.read_bytes())
    recipe.update(" ".join([sys.version, EXTRAS, *TOOLS]).encode())
    stamp = STACK / "recipe"
    if not stamp.exists() or stamp.read_text() != recipe.hexdigest():
        shutil.rmtree(STACK, ignore_errors=True)
        session.run(sys.executable, "-m", "venv", str(STACK), external=True)
        # Not compiled, since two files of five are ever imported.
        pip(session, "install", "--no-compile", *constraints(), f"{ROOT}[{EXTRAS}]", *TOOLS)
        stamp.write_text(recipe.hexdigest())
    if not getattr(stack, "installed", False):
        pip(session, "install", "--no-deps", "--force-reinstall", str(wheel(session)))
        stack.installed = True  # type: ignore[attr-defined]  # once for all sessions of a run


def wheel(session: nox.Session) -> Path:
    """A wheel of this tree, built once in a run."""
    folder = WORK / "wheels"
    if not getattr(wheel, "built", False):
        shutil.rmtree(folder, ignore_errors=True)
        session.run(
            sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "-w", str(folder), str(ROOT), external=True
        )
        wheel.built = True  # type: ignore[attr-defined]
    (path,) = folder.glob("*.whl")
    return path


def pip(session: nox.Session, *arguments: str) -> None:
    # Not through `run`: pip upgrades itself in no session.
    session.run(str(STACK / "bin/python"), "-m", "pip", "--disable-pip-version-check", "-q", *arguments, external=True)


def run(session: nox.Session, program: str, *arguments: str, env: dict[str, str] | None = None) -> None:
    """A program of the shared environment."""
    path = os.pathsep.join([str(STACK / "bin"), os.environ["PATH"]])
    session.run(str(STACK / "bin" / program), *arguments, external=True, env={**QUIET, "PATH": path, **(env or {})})


def pytest(session: nox.Session, *arguments: object, **env: str) -> None:
    """pytest outside the tree, so that it cannot import from it."""
    options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    with session.chdir(outside()):
        run(session, "pytest", *options, *map(str, arguments), env=env)


def outside() -> Path:
    """A folder from which nothing of the tree can be imported."""
    folder = WORK / "outside"
    folder.mkdir(exist_ok=True)
    return folder
