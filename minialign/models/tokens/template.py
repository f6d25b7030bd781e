"""Chat templates: Jinja in a sandbox, with what Hugging Face's renderer gives to templates."""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from minialign.errors import UserError

# For models that have no template: roles as headings, and the end token after every answer.
FALLBACK = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '### Assistant:\n' + message['content'] + eos_token + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### User:\n' + message['content'] + '\n\n' }}"
    "{% else %}{{ message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)


def _refuse(message: str) -> NoReturn:
    raise UserError(f"the model's chat template refuses these messages: {message}")


def _tojson(value: Any, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


@lru_cache(maxsize=16)
def _compile(source: str) -> Any:
    import jinja2  # only rendering needs it: not for the app's first frame
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}…{% endgeneration %}`` marks the assistant's text; here it is plain."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    extensions = [Generation, "jinja2.ext.loopcontrols"]
    options: Any = {"trim_blocks": True, "lstrip_blocks": True, "extensions": extensions}
    environment = ImmutableSandboxedEnvironment(**options)
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as reason:
        said = f"the model's chat template cannot be read: line {reason.lineno}: {reason.message}"
        fix = "get the model again, or mend chat_template in its tokenizer_config.json"
        raise UserError(said, fix) from None


def render(
    source: str,
    messages: Sequence[dict[str, Any]],
    add_generation_prompt: bool,
    special: dict[str, str],
) -> str:
    """The text of ``messages``; ``special`` holds ``bos_token``, ``eos_token`` and so on.

    Raises:
        UserError: the template refuses the messages (two user turns in a row…), or fails on them.
    """
    import jinja2

    try:
        given = {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        return _compile(source).render(**given, tools=None, documents=None, **special)
    except jinja2.TemplateError as reason:
        roles = ", ".join(str(message.get("role")) for message in messages)
        said = f"the model's chat template fails on messages with the roles {roles}: {reason}"
        fix = "each message needs a role (system, user, assistant) and a content"
        raise UserError(said, fix) from None


def choose_template(value: Any) -> str | None:
    """The template of a ``chat_template`` entry: a string, or a list of named ones ("default")."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, list):
        entries = [
            one for one in value if isinstance(one, dict) and {"name", "template"} <= set(one)
        ]
        named = {entry["name"]: entry["template"] for entry in entries}
        return named.get("default") or next(iter(named.values()), None)
    return None
