"""Matplotlib's plot directive in Markdown: what it inserts into a page as reStructuredText is rendered there."""

from __future__ import annotations

from docutils import nodes
from matplotlib.sphinxext.plot_directive import PlotDirective
from myst_parser.mdit_to_docutils.base import make_document
from myst_parser.mocking import MockRSTParser, MockStateMachine
from sphinx.application import Sphinx


class Plot(PlotDirective):
    """As Matplotlib's, but that MyST's stand-in for a state machine has no `insert_input`."""

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []

        def insert_input(lines: list[str], source: str) -> None:
            page = self.state_machine.document
            part = make_document(source)
            part.settings, part.reporter = page.settings, page.reporter
            MockRSTParser().parse("\n".join(lines), part)
            found.extend(part.children)

        if isinstance(self.state_machine, MockStateMachine):
            self.state_machine.insert_input = insert_input
        errors = super().run()
        return found + errors


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("matplotlib.sphinxext.plot_directive")
    app.add_directive("plot", Plot, override=True)
    return {"parallel_read_safe": True}
