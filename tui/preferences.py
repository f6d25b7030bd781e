"""What the app remembers: theme, model, sampling, where labelling was; ``tui.json`` in the home."""

import contextlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from minialign.durable import write_atomic
from minialign.home import home


@dataclass
class Preferences:
    """Remembered between sittings; a damaged file counts as none."""

    theme: str = "minialign"
    model: str | None = None
    adapter: str | None = None
    beside: list[str | None] | None = None  # model and adapter of the second answer
    system: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)  # what differs from the defaults
    label_source: str | None = None
    label_order: str | None = None  # a scorer or judge: its least sure pairs first
    place: str = "chat"  # the screen that was open
    still: bool = False  # no animations
    welcomed: bool = False

    @staticmethod
    def load() -> "Preferences":
        """What was saved, as far as it reads."""
        try:
            values = json.loads((home() / "tui.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return Preferences()
        preferences = Preferences()
        for name, default in asdict(preferences).items():
            value = values.get(name) if isinstance(values, dict) else None
            if value is not None and (default is None or isinstance(value, type(default))):
                setattr(preferences, name, value)
        return preferences

    def keep(self, **values: Any) -> None:
        """Change some, and write them."""
        vars(self).update(values)
        self.save()

    def save(self) -> None:
        """Write them; a full disk only means that they are not remembered."""
        with contextlib.suppress(OSError):
            home().mkdir(parents=True, exist_ok=True)
            write_atomic(home() / "tui.json", json.dumps(asdict(self), indent=1) + "\n")
