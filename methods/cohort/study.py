"""The folder of a cohort: what is where in it, and how far each pair has come."""

from __future__ import annotations

import json
from pathlib import Path

from l2rfast._json import parsed
from l2rfast.errors import InputError
from l2rfast.io.reading import reading
from l2rfast.output import folder_made, removed, settle, written_whole

JOBS, REPORT = "cohort.json", "report.json"
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # names of files may be any bytes


class Study:
    """A folder: ``cohort.json`` has the command line of each pair, by its id; ``pairs/ID`` what ``l2rfast register``
    wrote, all of which comes at once; ``errors/ID.txt`` why a pair failed, in one sentence.

    Args:
        folder: which may not exist yet.
        proof: the file by which a pair's folder is known to be finished.
    """

    def __init__(self, folder: Path, proof: str = REPORT) -> None:
        self.folder, self.proof = folder, proof

    def pair(self, id: str) -> Path:
        """The folder of a pair."""
        return self.folder / "pairs" / id

    def finished(self, id: str) -> bool:
        """Whether a pair is registered.

        Raises:
            InputError: it was being replaced when that was ended, and that cannot be finished.
        """
        settle(self.pair(id))
        return (self.pair(id) / self.proof).is_file()

    def error(self, id: str) -> str | None:
        """Why a pair failed; None where it did not, or was not tried."""
        file = self._error(id)
        return file.read_text(**_TEXT).strip() if file.is_file() and not self.finished(id) else None

    def failed(self, id: str, why: str) -> None:
        """Write down that a pair failed, and why, in one sentence.

        Raises:
            InputError: nothing can be written there.
        """
        file = self._error(id)
        folder_made(file.parent)
        with written_whole(file, links=False) as part:
            part.write_text(why + "\n", **_TEXT)

    def mended(self, id: str) -> None:
        """Of a pair that is finished, what an earlier try said goes.

        Raises:
            InputError: it cannot be removed.
        """
        removed(self._error(id))

    def _error(self, id: str) -> Path:
        return self.folder / "errors" / f"{id}.txt"

    def check(self, jobs: dict[str, list[str]], *, resume: bool) -> None:
        """See whether this can be begun, or gone on with, before anything is written.

        Args:
            jobs: the command line of each pair, by its id.
            resume: go on with what was begun there.

        Raises:
            InputError: the folder holds a cohort and ``resume`` does not say to go on, or a pair that is finished in it
                was registered otherwise.
        """
        file = self.folder / JOBS
        if not file.exists():
            return
        if not resume:
            raise InputError(f"--out {self.folder}: holds a cohort; expected --resume to go on with it, or another")
        begun = _begun(file)
        for id, line in jobs.items():
            if begun.get(id, line) != line and self.finished(id):
                raise InputError(
                    f"--resume: {self.folder}: expected the options that {id} was registered with, "
                    f"{' '.join(begun[id])}, got {' '.join(line)}"
                )

    def begin(self, jobs: dict[str, list[str]]) -> None:
        """Write down what is to be done for every pair, in ``cohort.json``, beside the pairs that are there.

        Raises:
            InputError: nothing can be written there.
        """
        file = self.folder / JOBS
        begun = _begun(file) if file.exists() else {}
        if begun | jobs != begun:
            with written_whole(file, links=False) as whole:
                whole.write_text(json.dumps({"pairs": begun | jobs}, indent=1) + "\n")


def _begun(file: Path) -> dict[str, list[str]]:
    """The command line of each pair, as a study has it.

    Raises:
        InputError: the file is damaged.
    """
    with reading(f"{file}", "the pairs of a study", KeyError, TypeError):
        begun = dict(parsed(file.read_text())["pairs"])
        if not all(isinstance(line, list) and all(isinstance(word, str) for word in line) for line in begun.values()):
            raise ValueError("a pair without its command line")
        return begun
