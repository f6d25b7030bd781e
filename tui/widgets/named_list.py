"""A list whose lines are known by their ids, and stay highlighted when it is filled anew."""

from collections.abc import Sequence

from textual.widgets import OptionList
from textual.widgets.option_list import Option


class NamedList(OptionList):
    """Lines with ids; those without are headings."""

    def __init__(self, id: str):
        super().__init__(id=id, markup=False)

    @property
    def current(self) -> str | None:
        """The id of the highlighted line."""
        return self.highlighted_option.id if self.highlighted_option else None

    def fill(self, lines: Sequence[Option], wanted: str | None) -> None:
        """Other lines; ``wanted`` is highlighted, or the first that can be. When the same are there
        they are only told anew."""
        ids = [line.id for line in lines]
        if [line.id for line in self.options] == ids:
            for at, line in enumerate(lines):
                self.replace_option_prompt_at_index(at, line.prompt)
        else:
            self.clear_options()
            self.add_options(lines)
        if self.highlighted is None or self.current != wanted:
            first = next((at for at, line in enumerate(lines) if not line.disabled), None)
            self.highlighted = ids.index(wanted) if wanted and wanted in ids else first
