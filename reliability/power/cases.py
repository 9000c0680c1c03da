"""A command under every fault: what there is then, and what the next run makes of it."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from random import Random

from l2rfast import output

from .shim import Fault, Outcome, Shim
from .trace import lost
from .writers import Writer, called

FAULTS = (Fault.ENOSPC, Fault.EIO, Fault.EINTR, Fault.KILL, Fault.SHORT)
HIDDEN = re.compile(r"\.l2rfast-.*")
UNSURE = ("tensorboard",)  # folders whose files have other names in each run
State = dict[str, str]


@dataclass(frozen=True)
class Failure:
    """What was not as it should be."""

    writer: str
    before: str
    fault: Fault
    at: int
    what: str

    def __str__(self) -> str:
        return f"{self.writer}, {self.before}, {self.fault.name} at call {self.at}: {self.what}"


class Trial:
    """A writer in a folder of its own.

    Args:
        writer: a command.
        folder: empty.
        shim: runs it.
    """

    def __init__(self, writer: Writer, folder: Path, shim: Shim) -> None:
        self.writer, self.shim, self.folder = writer, shim, folder / "case"
        self.out, self.kept = self.folder / writer.out, folder / "kept"
        self.counts: Counter[str] = Counter()
        self.told: Counter[str] = Counter()

    def failures(self, cases: int | None = None, seed: int = 0, faults: Sequence[Fault] = FAULTS) -> Iterator[Failure]:
        """Run it with every fault at every call, over nothing, and over an earlier result.

        Args:
            cases: at so many calls alone, which are drawn.
            seed: of them.
            faults: of all.
        """
        random = Random(f"{seed} {self.writer.name}")
        for before in ("over nothing", "over an earlier result"):
            if before != "over nothing":
                if self.writer.old is None:
                    return
                self._clear()
                self._sure(self.writer.old(self.out))
                shutil.copytree(self.folder, self.kept)
            self._begin()
            old = state(self.folder)
            whole = self._sure(self.writer.new(self.out))
            new = state(self.folder)
            self.counts["calls"] += len(whole.calls)
            for what in lost(
                (call for call in whole.calls if not set(UNSURE) & set(call.path.split("/"))), self.folder
            ):
                yield Failure(self.writer.name, before, Fault.NONE, 0, what)
            calls = list(enumerate(whole.calls, 1))
            if cases is not None:
                calls = sorted(random.sample(calls, min(cases, len(calls))), key=itemgetter(0))
            for at, call in calls:
                for fault in faults:
                    if fault == Fault.SHORT and call.name != "write":
                        continue
                    self._begin()
                    done = self.shim.run(partial(called, self.writer.new(self.out)), self.folder, at, fault)
                    self.counts["kills" if fault == Fault.KILL else "errors"] += 1
                    for what in self._wrong(done, fault, old, new):
                        yield Failure(self.writer.name, before, fault, at, f"{call.name} {call.path} {call.to}: {what}")

    def together(self, times: int) -> Iterator[Failure]:
        """Run it twice at the same time, into one place: there has to be the result of one, whole, and where both say
        that they have written it, the last has to say so. What each said is kept in ``told``."""
        for _ in range(times):
            self._clear()
            both = self.shim.both([partial(called, self.writer.new(self.out))] * 2, self.folder)
            now = state(self.folder)
            self._clear()
            self._sure(self.writer.new(self.out))
            self.counts["two at once"] += 1
            codes = sorted(one.code for one in both)
            replaced = sum("another process has written" in one.said for one in both)
            self.told[f"exit codes {codes[0]} and {codes[1]}" + ", one says that it replaces" * (replaced > 0)] += 1
            wrong = [f"{one.code}: {one.said[-300:]}" for one in both if one.code and list(self._told(one))]
            if now != state(self.folder):
                wrong.append(f"there is something else than one leaves: {_differs(now, state(self.folder))}")
            if codes[0] != 0:
                wrong.append(f"none has written: {both[0].said} {both[1].said}")
            for what in wrong:
                yield Failure(self.writer.name, "two at once", Fault.NONE, 0, what)

    def _wrong(self, done: Outcome, fault: Fault, old: State, new: State) -> Iterator[str]:
        killed = fault == Fault.KILL
        if killed and done.code != -9:
            yield f"it was not killed: {done.code} {done.said}"
        if not killed:
            yield from self._told(done)
        now = state(self.folder)
        if not self.writer.staged:
            output.settle(self.out if self.out.is_dir() else self.out.parent)
            now = state(self.folder)
            if visible(now) not in (old, new):
                yield f"neither the old nor the new: {_differs(now, old, new)}"
            if done.code == 0 and visible(now) != new:
                yield "it said nothing, and there is not the new"
        if now not in (old, new) if not self.writer.staged else fault in (Fault.KILL, Fault.ENOSPC):
            self.counts["next runs"] += 1
            again = self.shim.run(partial(called, self.writer.next(self.out)), self.folder)
            left = state(self.folder)
            if not again.calls or self.writer.once:  # all was there, and only who writes removes what is hidden
                left = visible(left)
            refused = self.writer.once and visible(now) == new and "expected a new folder" in again.said
            if again.code and not refused:
                yield f"the next run ends with {again.code}: {again.said[-400:]}"
            elif left != new:
                yield f"the next run leaves another result: {_differs(left, new)}"

    def _told(self, done: Outcome) -> Iterator[str]:
        if done.code == 0:
            return
        if "Exception ignored" in done.said:  # of a library's object that is collected; the sentence stands below
            return
        if "Traceback" in done.said:
            yield "a traceback: " + done.said.strip().splitlines()[-1]
        elif done.code not in self.writer.codes:
            yield f"it ends with {done.code}: {done.said[-300:]}"
        elif not done.said.startswith("l2rfast: ") or ".l2rfast-" in done.said:
            yield f"it says {done.said.strip()!r}"

    def _sure(self, words: Sequence[str]) -> Outcome:
        done = self.shim.run(partial(called, words), self.folder)
        if done.code:
            raise RuntimeError(f"{self.writer.name}: {words} ends with {done.code}: {done.said}")
        return done

    def _clear(self) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder)
        self.folder.mkdir()

    def _begin(self) -> None:
        self._clear()
        if self.kept.exists():
            shutil.copytree(self.kept, self.folder, dirs_exist_ok=True)


def state(folder: Path) -> State:
    """The sha256 of every file below a folder, by its path; empty for a folder."""
    found = {}
    for file in folder.rglob("*"):
        path = file.relative_to(folder)
        if not any(part in UNSURE for part in path.parts):
            found[str(path)] = "" if file.is_dir() else hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def visible(state: State) -> State:
    """Without what is in hidden folders of l2rfast."""
    return {path: sum for path, sum in state.items() if not any(map(HIDDEN.fullmatch, Path(path).parts))}


def _differs(now: State, *others: State) -> str:
    """In what it differs from each."""
    return " | ".join(
        ", ".join(sorted(path for path in now.keys() | other.keys() if now.get(path) != other.get(path))[:6])
        for other in others
    )
