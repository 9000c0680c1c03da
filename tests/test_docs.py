"""The code of the docs runs: the blocks of each page in order, in a folder with small generated scans.

A block that is not run says why in a comment above it, `% not run: needs a GPU` (in the READMEs an HTML comment).
"""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from pagefiles import ensure
from pages import ROOT, RUN, SHOWN, Block, blocks, commands
from PIL import Image
from typer.testing import CliRunner

import l2rfast
from l2rfast import _dispatch
from l2rfast.cli import app, crew, overview
from l2rfast.methods.cohort import workers
from l2rfast.methods.training import trainer

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "bench/README.md")),
    *sorted(file for file in (ROOT / "docs").rglob("*.md") if file.parent.name not in ("api", "cli")),
]
WITH_CODE = [page for page in PAGES if any(block.language in RUN for block in blocks(page.read_text()))]
STEPS = 2  # of a training
# What takes less time than the defaults, where a page says nothing else.
CHEAP = {"preset": "fast"}
DEFAULTS = {"register": CHEAP, "cohort": CHEAP, "template": {"affine_rounds": 0, "rounds": 1}}
DEFAULTS["train"] = {"discrete": {"grid": "9,9", "search": "5,5"}}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@contextmanager
def in_this_process(count: int) -> Generator[workers.Team]:
    """As `workers.processes`, without processes: each of them would import PyTorch, for seconds."""

    def team(work: workers.Work, lines: Mapping[str, workers.Words]) -> Generator[workers.Outcome]:
        for id, words in lines.items():
            yield id, work(words)

    yield team


@pytest.fixture
def _small(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a page begins ends soon: pictures are not drawn, training takes few steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.syspath_prepend(page.parent)  # what lies beside a page is imported from there
    monkeypatch.setattr(_dispatch, "OPERATORS", {**_dispatch.OPERATORS})  # a page's own are of no other test
    monkeypatch.setattr(overview, "draw_overview", lambda file, *rest, **more: Image.new("L", (1, 1)).save(file))
    monkeypatch.setattr(crew, "processes", in_this_process)
    begin = trainer._Trainer.__init__

    def briefly(self: Any, task: Any, out: Any, options: Any, *others: Any) -> None:
        task.validations = min(task.validations, 1)
        begin(self, task, out, replace(options, steps=min(options.steps, STEPS)), *others)

    monkeypatch.setattr(trainer._Trainer, "__init__", briefly)
    yield
    plt.close("all")
    l2rfast.unpatch()


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
@pytest.mark.usefixtures("_small")
@pytest.mark.filterwarnings("ignore:Default grid_sample")  # in ConvexAdam
def test_the_code_of_a_page_runs(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page.read_text()):
        if block.reason is None and block.language == "python":
            run_python(page, block, namespace)
        elif block.reason is None and block.language == "sh":
            run_shell(page, block)


def run_python(page: Path, block: Block, namespace: dict[str, Any]) -> None:
    text = "\n" * (block.line - 1) + block.text  # so that a line has the number that it has in the page
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            ensure(node.value, Path())
    try:
        exec(compile(text, str(page), "exec"), namespace)
    except Exception as error:
        line = next(frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(page))
        raise AssertionError(f"{name(page)}:{line}: {type(error).__name__}: {error}") from error


def run_shell(page: Path, block: Block) -> None:
    for number, text, words in commands(block.text):
        where = f"{name(page)}:{block.line + number}: {' '.join(words)}"
        program = Path(words[0]).name
        if program in ANYWHERE:
            subprocess.run(["sh", "-c", text], check=True)
            continue
        assert program in PROGRAMS, f"{where}: of other programs the block is one of console"
        PROGRAMS[program](words[1:], where)


def run_l2rfast(words: Sequence[str], where: str) -> None:
    said = None
    if ">" in words[-2:-1]:
        words, said = words[:-2], Path(words[-1])
    given: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if before != "--out":
            for part in word.rpartition("=")[2].split(","):
                ensure(re.sub("^[a-z]+:", "", part), Path())
        given += sorted(glob(word)) or [word]
    cheap = {} if "--method" in given else DEFAULTS  # other methods have no presets
    result = CliRunner().invoke(app, given, default_map=cheap)
    assert result.exception is None or isinstance(result.exception, SystemExit), f"{where}: {result.exception!r}"
    assert result.exit_code == 0, f"{where}: exit code {result.exit_code}: {result.stderr[-300:]}"
    if said is not None:
        said.write_text(result.stdout)


def known_to_make(words: Sequence[str], where: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        variable, _, value = word.partition("=")
        form = rf"^{variable} *\??=" if value else rf"^{word}:"
        assert re.search(form, makefile, re.M), f"{where}: the Makefile has no {variable}"


def known_extras(words: Sequence[str], where: str) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in words:
        for extras in re.findall(r"^(?:l2rfast|\.)\[(.*)\]$", word):
            assert {*extras.split(",")} <= known.keys(), f"{where}: there is no such extra"
        if word.endswith(".txt"):
            assert (ROOT / word).exists(), f"{where}: there is no {word}"


def known_module(words: Sequence[str], where: str) -> None:
    assert words[0] == "-m", f"{where}: of scripts the block is one of console"
    assert find_spec(words[1]) is not None, f"{where}: there is no {words[1]}"


ANYWHERE = ("cat", "cp", "echo", "ls", "mkdir", "printf")
PROGRAMS: dict[str, Callable[[Sequence[str], str], None]] = {
    "l2rfast": run_l2rfast,
    "make": known_to_make,
    "pip": known_extras,
    "python": known_module,
    "python3": known_module,
}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_are_run_or_say_why_not(page: Path) -> None:
    for block in blocks(page.read_text()):
        where = f"{name(page)}:{block.line}"
        assert block.language in RUN + SHOWN, f"{where}: expected one of {', '.join(RUN + SHOWN)} after the fence"
        if block.reason is not None:
            assert block.language in RUN, f"{where}: it would not be run in any case"
            assert block.reason.startswith("needs "), f"{where}: expected a reason as 'needs a GPU'"


def test_figures_have_an_alternative_text() -> None:
    for page in PAGES:
        text = page.read_text()
        for plot in re.finditer(r"^ *(?:`{3,}|:{3,})\{plot\}.*\n((?: *:[\w-]+:.*\n)*)", text, re.M):
            where = f"{name(page)}:{text.count(chr(10), 0, plot.start()) + 1}"
            assert re.search(r":nofigs:|:alt: *\S", plot[1]), f"{where}: the figure has no :alt:, a sentence of text"


PAGE = """\
% not run: needs a GPU

```python
a = 1
```

````{note}
 ```sh
 l2rfast info \\
    --help  # twice
 make test
 ```
````

```{plot}
import b
```
"""


def test_blocks_are_found() -> None:
    python, shell = blocks(PAGE)
    assert python == Block(4, "python", "a = 1\n", "needs a GPU")
    assert (shell.line, shell.language, shell.reason) == (9, "sh", None)
    assert [(line, words) for line, _, words in commands(shell.text)] == [
        (0, ["l2rfast", "info", "--help"]),
        (2, ["make", "test"]),
    ]


def test_what_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "README.md"
    with pytest.raises(AssertionError, match=r"^README\.md:7: NameError: name 'x' is not defined$"):
        run_python(page, Block(7, "python", "x\n", None), {})
    for text, message in (
        ("l2rfast describe absent.txt", "exit code 2: l2rfast: error: "),
        ("sbatch job.sh", "of other programs the block is one of console"),
        ("make nothing", "the Makefile has no nothing"),
        ("pip install 'l2rfast[nothing]'", "there is no such extra"),
        ("python -m bench.nothing", "there is no bench.nothing"),
    ):
        with pytest.raises(AssertionError, match=f"^README.md:7: .*{message}"):
            run_shell(page, Block(7, "sh", text, None))
