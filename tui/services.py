"""What screens and dialogs ask of the app: the app as they see it, with its types."""

from typing import Protocol, cast

from textual.message_pump import MessagePump

from minialign.engine.mlx_thread import ModelChoice, ModelThread
from tui.preferences import Preferences


class Services(Protocol):
    """The part of the app that a screen may use besides what every Textual app has."""

    model_thread: ModelThread
    choice: ModelChoice  # the model that answers
    preferences: Preferences

    def show_error(self, error: BaseException) -> None: ...
    def action_go(self, mode: str) -> None: ...
    def choose(self, choice: ModelChoice) -> None: ...
    def chat_with(self, choice: ModelChoice) -> None: ...
    def train(self, method: str, data: str) -> None: ...
    def label_from(self, file: str) -> None: ...


def services_of(node: MessagePump) -> Services:
    """The app of a widget or screen."""
    return cast(Services, node.app)
