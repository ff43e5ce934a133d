"""Runs checks in a process of its own, so that one that hangs or crashes costs itself and nothing else."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
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
    ready: Future[Cells] = Future()
    outcomes: dict[int, Outcome] = {}

    def work(worker: Worker | InProcess) -> None:
        cells = ready.result()
        mode: str | None = None
        while (portion := cells.take(mode)) is not None:
            mode = portion.mode
            while (index := cells.next(portion)) is not None:
                outcomes[index] = worker.run(index)
                progress(outcomes[index], len(chosen))
        worker.stop()

    def help_out() -> None:
        try:
            worker = Worker(request, seconds)
            ready.result()
        except (AdapterError, CancelledError):
            return  # its share is left to the others, and the first says what is wrong
        work(worker)

    # All at once, because importing a framework takes seconds.
    helpers = [threading.Thread(target=help_out, daemon=True) for _ in range(workers - 1)]
    for helper in helpers:
        helper.start()
    try:
        first: Worker | InProcess = Worker(request, seconds) if workers else InProcess(request)
        chosen = choose(first.opening)
    except BaseException:
        ready.cancel()
        raise
    ready.set_result(Cells(first.opening, chosen))
    work(first)
    for helper in helpers:
        helper.join()
    missing = [first.opening.checks[index].id for index in chosen if index not in outcomes]
    if missing:  # a verdict without them would be about another suite
        raise AdapterError(f"{len(missing)} checks were not run, the first of them {missing[0]}")
    return first.opening, [outcomes[index] for index in chosen]


@dataclass(eq=False)
class Portion:
    """Checks of one mode, loss and kind."""

    mode: str
    left: deque[int] = field(default_factory=deque)


class Cells:
    """The chosen checks in portions of one mode, loss and kind, handed out to the workers.

    A worker goes on with the mode it is in as long as there is something left of it, because it has compiled for that
    mode already, and takes the last mode next: those that compile tend to be there, and long work is best begun early.
    When all portions are begun, it helps with the one that has most left.
    """

    def __init__(self, opening: Opening, chosen: Sequence[int]) -> None:
        self.lock = threading.Lock()
        cells: dict[tuple[str, str, str], Portion] = {}
        for index in chosen:
            check = opening.checks[index]
            portion = cells.setdefault((check.mode, check.loss, check.kind), Portion(check.mode))
            portion.left.append(index)
        self.untaken = list(cells.values())
        self.taken: list[Portion] = []

    def take(self, mode: str | None) -> Portion | None:
        """The next portion for a worker that was last in this mode; None when nothing is left."""
        with self.lock:
            if not self.untaken:
                return max((p for p in self.taken if p.left), key=lambda p: len(p.left), default=None)
            modes = list(dict.fromkeys(portion.mode for portion in self.untaken))
            if mode not in modes:
                begun = {portion.mode for portion in self.taken}
                mode = ([name for name in modes if name not in begun] or modes)[-1]
            portion = next(portion for portion in self.untaken if portion.mode == mode)
            self.untaken.remove(portion)
            self.taken.append(portion)
            return portion

    def next(self, portion: Portion) -> int | None:
        """The next check of a portion, which others may be at, too; None when it is done."""
        with self.lock:
            return portion.left.popleft() if portion.left else None
