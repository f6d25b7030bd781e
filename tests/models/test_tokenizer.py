"""Token ids equal other implementations', streams equal whole decodings, templates render."""

import io
import json
import random
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from support.places import ROOT
from support.tiny import CHATML
from support.tiny_gguf import CORPUS, write_tiny_gguf

from minialign.errors import UserError
from minialign.models.sources.fetch import import_model
from minialign.models.tokens import vocabulary
from minialign.models.tokens.template import FALLBACK, render
from minialign.models.tokens.tokenizer import HELD, Tokenizer

FIXTURE = json.loads((ROOT / "tests" / "fixtures" / "llama_cpp.json").read_text())
BPE: dict[str, Any] = FIXTURE["bpe"]["vocabulary"]
SPM: dict[str, Any] = FIXTURE["spm"]["vocabulary"]
USER = [{"role": "user", "content": "hi"}]


# Token ids


@pytest.mark.parametrize("pre", FIXTURE["bpe"]["ids"])
def test_byte_level_ids_equal_llama_cpp(pre: str) -> None:
    fast = vocabulary.byte_level_bpe(BPE["tokens"], BPE["types"], BPE["merges"], pre, None)
    for text, ids in zip(CORPUS, FIXTURE["bpe"]["ids"][pre], strict=True):
        if pre == "qwen2" and unicodedata.normalize("NFC", text) != text:
            continue  # Qwen's own tokenizer composes characters; llama.cpp leaves that out
        assert fast.encode(text, add_special_tokens=False).ids == ids, text


def test_the_pre_tokenizers_differ() -> None:
    """The corpus tells them apart, so that the test above can fail."""
    found = {json.dumps(ids) for ids in FIXTURE["bpe"]["ids"].values()}
    assert len(found) == 5  # smollm is starcoder, llama-bpe smaug, qwen2 stablelm2


def test_qwen2_composes_characters() -> None:
    fast = vocabulary.byte_level_bpe(BPE["tokens"], BPE["types"], BPE["merges"], "qwen2", None)
    assert fast.encode("cafe\u0301").ids == fast.encode("caf\u00e9").ids


def test_unknown_pre_tokenizer_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'smollm'"):
        vocabulary.byte_level_bpe(BPE["tokens"], BPE["types"], BPE["merges"], "smollm9", None)


def test_gguf_sentencepiece_ids_equal_llama_cpp(tmp_path: Path, home: Path) -> None:
    write_tiny_gguf(tmp_path / "spm.gguf", SPM)
    folder = import_model(tmp_path / "spm.gguf")
    tokenizer = Tokenizer.load(folder)
    for text, ids in zip(CORPUS, FIXTURE["spm"]["ids"], strict=True):
        assert tokenizer.encode(text) == ids, text
    assert tokenizer.fast.encode("hello").ids == FIXTURE["spm"]["with_bos"]
    from transformers import AutoTokenizer  # what stock mlx_lm makes of the folder

    theirs = AutoTokenizer.from_pretrained(folder)
    for text, ids in zip(CORPUS, FIXTURE["spm"]["ids"], strict=True):
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids, text
    assert theirs("hello")["input_ids"] == FIXTURE["spm"]["with_bos"]
    assert tokenizer.adds_bos
    assert tokenizer.bos_id == 1


@pytest.fixture(scope="module")
def training_lines() -> list[str]:
    source = ROOT / "minialign"
    return [
        line
        for file in sorted(source.rglob("*.py"))[:20]
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]


@pytest.mark.parametrize(
    ("kind", "normalization", "extra_spaces"),
    [
        ("bpe", "identity", False),
        ("unigram", "identity", False),
        ("bpe", "identity", True),
        ("bpe", "nmt_nfkc", True),
    ],
)
def test_sentencepiece_ids_equal_the_library(
    tmp_path: Path, training_lines: list[str], kind: str, normalization: str, extra_spaces: bool
) -> None:
    """A model trained here, on its text, the corpus and random cuts of both; ids and decoding."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training_lines + [text for text in CORPUS if "\0" not in text]),
        model_writer=model,
        model_type=kind,
        vocab_size=1000,
        byte_fallback=True,
        character_coverage=0.999,
        normalization_rule_name=normalization,
        remove_extra_whitespaces=extra_spaces,
        num_threads=1,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ours = Tokenizer.load(tmp_path)
    choose = random.Random(0)
    letters = " ".join(CORPUS) if normalization == "identity" else "ab cd  é ﬁ ½ 好 ."
    texts = list(CORPUS) if normalization == "identity" else []
    for _ in range(300):
        texts.append("".join(choose.choice(letters) for _ in range(choose.randrange(30))))
        texts.append(choose.choice(training_lines)[choose.randrange(9) :])
    for text in texts:
        if re.search("<[|s/0u]", text):  # the library never reads special tokens in a text
            continue
        if extra_spaces and "▁" in text:  # there it is taken for a space, here it is not
            continue
        ids = theirs.encode(text)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids), text
    assert ours.bos_id == 1
    assert ours.eos_ids == {2}
    assert ours.adds_bos


def test_added_tokens_beside_a_sentencepiece_model(tmp_path: Path) -> None:
    folder = sentencepiece_folder(tmp_path)
    size = Tokenizer.load(folder).vocab_size
    (folder / "added_tokens.json").write_text(json.dumps({"<|im_end|>": size}))
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode("a<|im_end|>")[-1] == size
    assert size in tokenizer.eos_ids
    (folder / "added_tokens.json").write_text(json.dumps({"<|im_end|>": size + 5}))
    with pytest.raises(UserError, match="should have the id"):
        Tokenizer.load(folder)


def sentencepiece_folder(folder: Path) -> Path:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox " * 3, "jumps over the lazy dog"] * 5),
        model_writer=model,
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def test_damaged_tokenizer_files(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path)
    folder = sentencepiece_folder(tmp_path)
    data = (folder / "tokenizer.model").read_bytes()
    (folder / "tokenizer.model").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.load(folder)
    (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.load(folder)
    (folder / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config\.json"):
        Tokenizer.load(folder)


def test_a_protobuf_that_does_not_fit_is_told_with_what_to_do(tmp_path: Path, monkeypatch) -> None:
    folder = sentencepiece_folder(tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    monkeypatch.delattr("sentencepiece.sentencepiece_model_pb2", raising=False)
    with pytest.raises(UserError, match="do not fit together") as told:
        Tokenizer.load(folder)
    assert told.value.hint == "pip install --upgrade protobuf sentencepiece"


@pytest.mark.model
def test_embedded_ids_equal_llama_cpp_and_transformers(embedded_model: Path) -> None:
    from transformers import AutoTokenizer

    ours = Tokenizer.load(embedded_model)
    theirs = AutoTokenizer.from_pretrained(embedded_model)
    for text, ids in zip(CORPUS, FIXTURE["smollm2"]["ids"], strict=True):
        assert ours.encode(text) == ids, text
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids, text
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids) == text
    assert ours.eos_ids == {0, 2}
    assert ours.pad_id == theirs.pad_token_id
    assert not ours.adds_bos
    messages = [*USER, {"role": "assistant", "content": "yes"}, *USER]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ours.render_text(messages, True) == expected
    assert ours.render(messages, True) == theirs(expected, add_special_tokens=False)["input_ids"]


# Streams


@pytest.mark.parametrize("source", ["bpe", "spm"])
def test_stream_gives_what_decode_gives(source: str, tmp_path: Path, home: Path) -> None:
    """For texts and for random ids: the same in the end, and never half a character."""
    write_tiny_gguf(tmp_path / "m.gguf", (BPE | {"pre": "smollm"}) if source == "bpe" else SPM)
    tokenizer = Tokenizer.load(import_model(tmp_path / "m.gguf"))
    choose = random.Random(0)
    sequences = [tokenizer.encode(text) for text in CORPUS]
    for _ in range(200):
        size = choose.randrange(1, 25)
        sequences.append([choose.randrange(tokenizer.vocab_size) for _ in range(size)])
    for ids in sequences:
        stream = tokenizer.stream()
        pieces = [stream.add(token) for token in ids]
        whole = tokenizer.decode(ids)
        assert all(not piece.endswith("\ufffd") for piece in pieces)
        assert "".join(pieces) + stream.finish() == whole == tokenizer.stream().whole(ids)


def test_stream_holds_back_half_an_emoji(tiny_model: Path) -> None:
    tokenizer = Tokenizer.load(tiny_model)
    ids = tokenizer.encode("a🙂b")
    stream = tokenizer.stream()
    assert [stream.add(token) for token in ids] == ["a", "", "", "", "🙂", "b"]
    stream = tokenizer.stream()
    assert [stream.add(token) for token in ids[:3]] == ["a", "", ""]
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


def test_what_waits_for_the_rest_of_a_character_is_bounded(tiny_model: Path) -> None:
    """Bytes that never become a character, with emoji and a word between them."""
    tokenizer = Tokenizer.load(tiny_model)
    first = tokenizer.encode("é")[:1]  # the first of two bytes
    emoji = tokenizer.encode("🙂")
    choose = random.Random(0)
    bits = [first, emoji[:3], emoji[1:2], emoji]
    noise = [token for _ in range(300) for token in choose.choice(bits)]
    for ids in (first * 1000, noise, emoji[1:] * 200 + emoji + tokenizer.encode("fox")):
        stream = tokenizer.stream()
        pieces = []
        for token in ids:
            pieces.append(stream.add(token))
            assert len(stream._ids) <= 2 * HELD
        assert sum(map(bool, pieces)) > 5  # it is given while it comes, not at the end
        assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)


def test_long_runs_of_byte_tokens(tmp_path: Path, home: Path) -> None:
    """SentencePiece: characters without a token of their own, a whole answer of them."""
    write_tiny_gguf(tmp_path / "m.gguf", SPM)
    tokenizer = Tokenizer.load(import_model(tmp_path / "m.gguf"))
    byte = {value: tokenizer.fast.token_to_id(f"<0x{value:02X}>") for value in range(256)}
    emoji = [byte[value] for value in "é🙂".encode()]
    lone = [byte[0xE2]]
    hello = tokenizer.encode("hello")
    for ids in (hello + emoji * 100 + hello, lone * 500, emoji * 10 + emoji[:3], lone * 70 + hello):
        stream = tokenizer.stream()
        pieces = []
        for token in ids:
            pieces.append(stream.add(token))
            assert len(stream._ids) <= 2 * HELD
        assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)
    stream = tokenizer.stream()  # a byte too much takes only what waits with it
    text = "".join(map(stream.add, [*emoji * 20, *lone])) + stream.finish()
    assert text.startswith("é🙂" * 10)
    assert tokenizer.decode([*emoji * 20, *lone]) == "\ufffd" * 121
    assert tokenizer.stream().whole([*emoji * 20, *lone]) == text


# Special tokens and templates


def test_special_tokens_in_text_are_themselves(tiny_model: Path) -> None:
    tokenizer = Tokenizer.load(tiny_model)
    assert tokenizer.encode("<|im_start|>yes<|im_end|>")[0] == 1
    assert tokenizer.encode("<|im_start|>yes<|im_end|>")[-1] == 2
    assert tokenizer.decode([1, *tokenizer.encode("yes"), 2]) == "yes"
    assert tokenizer.decode([2], skip_special=False) == "<|im_end|>"
    assert tokenizer.eos_ids == {0, 2}  # <|endoftext|> is an end too


def changed(folder: Path, source: Path, **settings: Any) -> Tokenizer:
    """The tokenizer of ``source`` with other settings."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    config = json.loads((source / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | settings))
    return Tokenizer.load(folder)


def test_limits_in_the_file_are_not_ours(tmp_path: Path, tiny_model: Path) -> None:
    import tokenizers

    tokenizer = changed(tmp_path, tiny_model)
    fast = tokenizers.Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    fast.enable_truncation(4)
    fast.enable_padding(length=50)
    fast.save(str(tmp_path / "tokenizer.json"))
    text = "the quick brown fox"
    assert Tokenizer.load(tmp_path).encode(text) == tokenizer.encode(text)


def test_exactly_one_bos(tmp_path: Path, tiny_model: Path) -> None:
    """Added where the model wants one and the template leaves it out; never a second one."""
    bos = {"bos_token": "<|endoftext|>"}
    bare = "{% for m in messages %}{{ m.content }}{% endfor %}"
    for name, template, wants, count in [
        ("in_template", "{{ bos_token }}" + bare, True, 1),
        ("left_out", bare, True, 1),
        ("twice", "{{ bos_token }}{{ bos_token }}" + bare, True, 1),
        ("not_wanted", bare, False, 0),
        ("not_wanted_but_in_template", "{{ bos_token }}" + bare, False, 1),
    ]:
        tokenizer = changed(
            tmp_path / name, tiny_model, chat_template=template, add_bos_token=wants, **bos
        )
        ids = tokenizer.render(USER, False)
        assert ids.count(0) == count, name
        assert ids[-2:] == tokenizer.encode("hi")


def test_where_templates_are_found(tmp_path: Path, tiny_model: Path) -> None:
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    tokenizer = changed(tmp_path / "a", tiny_model, chat_template=named)
    assert tokenizer.render_text(USER, False) == "D"
    (tmp_path / "a" / "chat_template.jinja").write_text("J{{ messages[0].role }}")
    other = Tokenizer.load(tmp_path / "a")
    assert other.render_text(USER, False) == "Juser"
    assert other.template_hash != tokenizer.template_hash
    plain = changed(tmp_path / "b", tiny_model, chat_template=None)
    assert plain.template is None
    text = plain.render_text([*USER, {"role": "assistant", "content": "yo"}, *USER], True)
    assert text == (
        "<|im_start|>### User:\nhi\n\n### Assistant:\nyo<|im_end|>\n\n"
        "### User:\nhi\n\n### Assistant:\n"
    )


TEMPLATES = {
    "chatml": CHATML,
    "fallback": FALLBACK,
    "llama-2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}"
        "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
        "{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "blocks": (
        "{%- for message in messages %}\n    {%- if message.role == 'system' %}\n"
        "        {%- continue %}\n    {%- endif %}\n"
        "{{ message.role }}: {{ message | tojson(indent=2) }}\n"
        "    {% if loop.last %}\n    {% break %}\n    {% endif %}\n{% endfor %}"
        "{% if tools is not none %}tools{% endif %}{{ add_generation_prompt }}"
        "{% generation %}\n  answer é\n{% endgeneration %}"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
def test_templates_render_as_in_transformers(tiny_model: Path, name: str, prompt: bool) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tiny_model)
    messages = [
        {"role": "system", "content": "Bé brief.\n"},
        {"role": "user", "content": " what's <b>2+2</b>? "},
        {"role": "assistant", "content": "4 & no more"},
        {"role": "user", "content": "你好"},
    ]
    expected = theirs.apply_chat_template(
        messages, chat_template=TEMPLATES[name], add_generation_prompt=prompt, tokenize=False
    )
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    assert render(TEMPLATES[name], messages, prompt, special) == expected


def test_template_errors_are_for_people() -> None:
    twice = [*USER, *USER]
    with pytest.raises(UserError, match="roles must alternate"):
        render(TEMPLATES["llama-2"], twice, False, {"bos_token": "", "eos_token": ""})
    with pytest.raises(UserError, match="line 1"):
        render("{% for %}", USER, False, {})
    with pytest.raises(UserError, match="roles user"):
        render("{{ messages[0].nothing.more }}", USER, False, {})


def test_templates_are_sandboxed() -> None:
    for attack in (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ strftime_now.__globals__['os'] }}",
    ):
        with pytest.raises(UserError, match="fails on messages"):
            render(attack, USER, False, {})


def test_strftime_now() -> None:
    assert re.fullmatch(r"\d{4}", render("{{ strftime_now('%Y') }}", USER, False, {}))
