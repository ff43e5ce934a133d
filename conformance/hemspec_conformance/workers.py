"""Runs checks in a process of its own, so that one that hangs or crashes costs itself and nothing else."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any, Final

from hemspec_conformance.backend import AdapterError, Backend
from hemspec_conformance.session import Outcome, Session, said
from hemspec_conformance.vectors import VectorsMissingError

START_SECONDS: Final = 600.0
"""How long a framework may take to be imported."""
GRACE_SECONDS: Final = 20.0
"""How long a process may take to clean up."""
GIVE_UP: Final = 2
"""After so many checks of a loss in a mode have hung or crashed, the others of that loss and mode are not run."""


@dataclass(frozen=True)
class Request:
    """What to check."""

    backend: str
    """The adapter's module."""
    full: bool = False
    examples: int | None = None
    fuzz: int = 0
    """So many random calls instead of the suite."""
    seed: int = 0

    def session(self) -> Session:
        backend = Backend.load(self.backend)
        return Session(backend, full=self.full, examples=self.examples, fuzz=self.fuzz, seed=self.seed)


@dataclass(frozen=True)
class Opening:
    """What a worker says first: what it tests, and what it could be asked."""

    name: str
    spec_version: int
    versions: dict[str, str]
    checks: tuple[Outcome, ...] = field(repr=False)
    """Each check as it would be reported if it failed without a word."""


def opening(session: Session) -> Opening:
    backend = session.backend
    checks = tuple(
        Outcome(check.id, check.kind, check.loss, check.case, check.mode, check.dtype, "failed")
        for check in session.checks
    )
    return Opening(backend.name, backend.spec_version, dict(backend.versions), checks)


def serve(connection: Connection, request: Request) -> None:
    """The worker: says what it can be asked, then answers one index after the other."""
    try:
        session = request.session()
    except (AdapterError, VectorsMissingError) as error:
        connection.send(str(error))
        return
    except Exception as error:
        connection.send(f"reading {request.backend!r} {said(error)}")
        return
    connection.send(opening(session))
    with contextlib.suppress(EOFError):  # nobody asks any more
        while True:
            method, index = connection.recv()
            connection.send(getattr(session, method)(index))


class Worker:
    """A process that runs checks; replaced when one of them hangs or kills it."""

    def __init__(self, request: Request, seconds: float) -> None:
        self.request, self.seconds = request, seconds
        self.lost: Counter[tuple[str, str]] = Counter()
        self.opening = self.start()

    def start(self) -> Opening:
        # Frameworks with threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, self.request), daemon=True)
        self.process.start()
        theirs.close()
        answer = self.receive(START_SECONDS)
        if isinstance(answer, Opening):
            return answer
        reason = answer if isinstance(answer, str) else f"importing {self.request.backend!r} {self.fate(answer)}"
        self.stop()
        raise AdapterError(reason)

    def receive(self, seconds: float) -> Any:
        """What the process sends; None if nothing came in time, EOFError if it died."""
        try:
            return self.connection.recv() if self.connection.poll(seconds) else None
        except (EOFError, ConnectionResetError):
            return EOFError

    def fate(self, answer: Any, seconds: float = START_SECONDS) -> str:
        """Why nothing came back."""
        if answer is None:
            return f"did not end within {seconds:g} s"
        self.process.join(10)
        code = self.process.exitcode
        return f"ended the process{f' with signal {-code}' if code and code < 0 else f' with exit code {code}'}"

    def run(self, index: int) -> Outcome:
        """Ask one check, and wait no longer than the limit."""
        check = self.opening.checks[index]
        cell = (check.loss, check.mode)
        if self.lost[cell] >= GIVE_UP:
            reason = f"not run: {GIVE_UP} checks of {check.loss or 'the adapter'} in mode {check.mode} hung or crashed"
            return replace(check, status="skipped", message=reason)
        self.connection.send(("run", index))
        answer = self.receive(self.seconds)
        if isinstance(answer, Outcome):
            return answer
        self.lost[cell] += 1
        message = self.fate(answer, self.seconds)
        self.process.kill()
        self.stop()
        self.start()
        self.connection.send(("describe", index))
        asked = self.receive(self.seconds)
        said = f"{self.opening.name}: {check.id}\n  {message}{f': {asked}' if asked else ''}"
        return replace(check, seconds=self.seconds if answer is None else 0.0, message=said)

    def stop(self) -> None:
        """Let the process end by itself, which it does when nobody asks any more; one that hangs is killed."""
        self.connection.close()
        self.process.join(GRACE_SECONDS)
        self.process.kill()
        self.process.join()


class InProcess:
    """The same without a process: no limit, but a debugger can be used."""

    def __init__(self, request: Request) -> None:
        self.session = request.session()
        self.opening = opening(self.session)

    def run(self, index: int) -> Outcome:
        return self.session.run(index)

    def stop(self) -> None:
        pass


def run_all(
    request: Request,
    choose: Callable[[Opening], Sequence[int]],
    *,
    workers: int,
    seconds: float,
    progress: Callable[[Outcome, int], None],
) -> tuple[Opening, list[Outcome]]:
    """Run the chosen checks of a plan in so many processes (0: in this one). Outcomes come in the plan's order."""
    first: Worker | InProcess = Worker(request, seconds) if workers else InProcess(request)
    chosen = choose(first.opening)
    outcomes: dict[int, Outcome] = {}
    cells = Cells(first.opening, chosen)

    def work(worker: Worker | InProcess) -> None:
        mode: str | None = None
        while (cell := cells.take(mode)) is not None:
            for index in cell:
                outcomes[index] = worker.run(index)
                progress(outcomes[index], len(chosen))
            mode = first.opening.checks[cell[0]].mode
        worker.stop()

    # A thread that cannot start its process leaves its share to the others.
    helpers = [threading.Thread(target=lambda: work(Worker(request, seconds)), daemon=True) for _ in range(workers - 1)]
    for helper in helpers:
        helper.start()
    work(first)
    for helper in helpers:
        helper.join()
    missing = [first.opening.checks[index].id for index in chosen if index not in outcomes]
    if missing:  # a verdict without them would be about another suite
        raise AdapterError(f"{len(missing)} checks were not run, the first of them {missing[0]}")
    return first.opening, [outcomes[index] for index in chosen]


class Cells:
    """The chosen checks in portions of one mode, loss and kind, handed out to the workers.

    A worker goes on with the mode it is in as long as there is something left of it, because it has compiled for that
    mode already, and takes the last mode next: those that compile tend to be there, and long work is best begun early.
    """

    def __init__(self, opening: Opening, chosen: Sequence[int]) -> None:
        self.lock = threading.Lock()
        self.portions: dict[str, dict[tuple[str, str], list[int]]] = {}
        for index in chosen:
            check = opening.checks[index]
            of_mode = self.portions.setdefault(check.mode, {})
            of_mode.setdefault((check.loss, check.kind), []).append(index)
        self.taken: set[str] = set()

    def take(self, mode: str | None) -> list[int] | None:
        """The next portion for a worker that was last in this mode; None when nothing is left."""
        with self.lock:
            left = [name for name, portions in self.portions.items() if portions]
            if not left:
                return None
            if mode not in left:
                untaken = [name for name in left if name not in self.taken]
                mode = (untaken or left)[-1]
            assert mode is not None
            self.taken.add(mode)
            portions = self.portions[mode]
            return portions.pop(next(iter(portions)))
