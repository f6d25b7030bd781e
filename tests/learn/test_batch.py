"""Which tokens are trained, by hand; cutting; batches that visit every row once."""

import json

import mlx.core as mx
import numpy as np
import pytest

from minialign.learn.batch import (
    Example,
    TooLong,
    collate,
    encode,
    encode_prompt,
    encode_response,
    endless,
    index_batches,
)
from minialign.models.tokens.tokenizer import Tokenizer
from minialign.records import Demonstration, Pair, Prompted, Ranking, Rated

USER = {"role": "user", "content": "hi"}


def say(role, content):
    return {"role": role, "content": content}


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return Tokenizer.load(tiny_model)


def marked(example, tokenizer, row=0):
    """The text with trained stretches in brackets."""
    text, inside = tokenizer.decode(example.prompt, skip_special=False), False
    for token, trained in zip(example.responses[row], example.masks[row], strict=True):
        if bool(trained) != inside:
            text += "[" if trained else "]"
            inside = bool(trained)
        text += tokenizer.decode([token], skip_special=False)
    return text + ("]" if inside else "")


# conversation, which turns -> what is read, trained stretches in brackets
TABLE = [
    (
        [USER, say("assistant", "yes")],
        "all",
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[yes<|im_end|>]",
    ),
    (
        [say("system", "be kind"), USER, say("assistant", "\nyes ")],
        "all",
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n[\nyes <|im_end|>]",
    ),
    (
        [USER, say("assistant", "a"), say("user", "b"), say("assistant", "c")],
        "all",
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[a<|im_end|>]\n"
        "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n[c<|im_end|>]",
    ),
    (
        [USER, say("assistant", "a"), say("user", "b"), say("assistant", "c")],
        "last",
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\n[c<|im_end|>]",
    ),
    (
        [USER, say("assistant", "a"), say("user", "thanks")],
        "all",
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[a<|im_end|>]",
    ),
]


@pytest.mark.parametrize(("messages", "train_on", "expected"), TABLE)
def test_trained_tokens_by_hand(tokenizer, messages, train_on, expected):
    example = encode(Demonstration(messages), tokenizer, 500, train_on)
    assert marked(example, tokenizer) == expected
    # the very ids of the template's own text
    whole = tokenizer.render(messages, False)
    ids = example.prompt + example.responses[0]
    assert ids == whole[: len(ids)]


def test_plain_text_is_trained_whole(tokenizer):
    example = encode(Demonstration([say("text", "the fox")]), tokenizer, 100)
    ids = example.prompt + example.responses[0]
    assert ids == [*tokenizer.encode("the fox"), tokenizer.encode("<|endoftext|>")[0]]
    assert example.masks == [[1] * (len(ids) - 1)]


def test_one_bos_where_the_model_wants_one(tiny_model, tmp_path):
    """The template writes none, as TinyLlama's: prompts, demonstrations and texts get one."""
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"add_bos_token": True, "bos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.load(tmp_path)
    rows = [
        Pair([USER], "yes", "no"),
        Demonstration([USER, say("assistant", "yes")]),
        Demonstration([USER, say("assistant", "a"), USER, say("assistant", "b")]),
        Demonstration([say("text", "the fox")]),
    ]
    for row in rows:
        example = encode(row, tokenizer, 500)
        ids = example.prompt + [i for i in example.responses[0] if i not in tokenizer.eos_ids]
        assert ids[0] == tokenizer.bos_id
        assert ids.count(tokenizer.bos_id) == 1
        # a cut prompt keeps it
    cut = encode(Pair([say("user", "fox " * 200)], "yes", "no"), tokenizer, 64)
    assert cut.prompt[0] == tokenizer.bos_id
    assert cut.length == 64


def test_pairs_rankings_and_ratings_share_a_prompt(tokenizer):
    pair = encode(Pair([USER], "yes", "no", margin=2.0), tokenizer, 100)
    assert [tokenizer.decode(ids) for ids in pair.responses] == ["yes", "no"]
    assert all(ids[-1] in tokenizer.eos_ids for ids in pair.responses)
    assert pair.meta == {"margin": 2.0}
    ranking = encode(Ranking([USER], ["a", "b", "c"], [3, 2, 1]), tokenizer, 100)
    assert len(ranking.responses) == 3
    assert encode(Rated([USER], "a", True), tokenizer, 100).meta == {"good": True}
    with pytest.raises(TypeError):
        encode(Prompted([USER]), tokenizer, 100)


def test_a_response_follows_the_prompt_exactly(tokenizer):
    for text in ("yes", " yes", "\n\nyes\n", "the quick fox 🦊"):
        prompt = encode_prompt([USER], tokenizer)
        response = encode_response([USER], text, tokenizer)
        whole = tokenizer.render_text([USER, say("assistant", text)], False)
        shown = tokenizer.decode(prompt + response, skip_special=False)
        assert whole.startswith(shown)
        assert whole[len(shown) :].strip() == ""


def test_a_long_prompt_is_cut_at_messages_from_the_left(tokenizer):
    turns = [say("system", "be kind")]
    for i in range(6):
        turns += [say("user", f"question {i} the fox"), say("assistant", f"answer {i}")]
    pair = Pair([*turns, say("user", "last one")], "yes", "no no no")
    full = encode(pair, tokenizer, 1000)
    assert full.cut == 0
    cut = encode(pair, tokenizer, 120)
    text = tokenizer.decode(cut.prompt, skip_special=False)
    assert cut.cut == len(full.prompt) - len(cut.prompt) > 0
    assert cut.length <= 120
    assert cut.responses == full.responses  # never the response
    assert text.startswith("<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nquestion ")
    assert text.endswith("last one<|im_end|>\n<|im_start|>assistant\n")


def test_one_message_too_long_is_cut_by_tokens(tokenizer):
    pair = Pair([say("user", "fox " * 200)], "yes", "no")
    cut = encode(pair, tokenizer, 64)
    assert cut.length == 64
    assert tokenizer.decode(cut.prompt, skip_special=False).endswith("<|im_start|>assistant\n")


def test_a_response_that_does_not_fit_is_named(tokenizer):
    row = Pair([USER], "fox " * 200, "no", source="pairs.jsonl:7")
    assert encode(row, tokenizer, 64) == TooLong("pairs.jsonl:7", pytest.approx(204, abs=500), 64)
    long = Demonstration([USER, say("assistant", "fox " * 200)], source="x:1")
    assert isinstance(encode(long, tokenizer, 64), TooLong)
    assert isinstance(encode(Demonstration([say("text", "fox " * 200)]), tokenizer, 64), TooLong)


def test_a_long_conversation_loses_its_oldest_exchanges(tokenizer):
    turns = []
    for i in range(8):
        turns += [say("user", f"question {i}"), say("assistant", f"answer {i}")]
    example = encode(Demonstration(turns), tokenizer, 100)
    assert example.length <= 100
    shown = marked(example, tokenizer)
    assert shown.endswith("[answer 7<|im_end|>]")
    assert "answer 0" not in shown
    assert example.meta["dropped_turns"] == 8 - shown.count("[answer")


def test_every_row_once_an_epoch_in_an_order_of_seed_and_epoch():
    random = np.random.default_rng(0)
    lengths = random.integers(1, 500, 103).tolist()
    first = index_batches(lengths, 8, 1, 0)
    assert sorted(i for batch in first for i in batch) == list(range(103))
    assert sorted(map(len, first)) == [7] + [8] * 12
    assert first == index_batches(lengths, 8, 1, 0)
    assert first != index_batches(lengths, 8, 1, 1)
    assert first != index_batches(lengths, 8, 2, 0)

    # like lengths together: far less padding than in the order of the file
    def waste(batches):
        return sum(
            max(lengths[i] for i in b) * len(b) - sum(lengths[i] for i in b) for b in batches
        )

    assert waste(first) < 0.3 * waste([list(range(i, min(i + 8, 103))) for i in range(0, 103, 8)])
    order = endless(lengths, 8, 1)
    two = [next(order) for _ in range(26)]
    assert two[:13] == first
    assert two[13:] == index_batches(lengths, 8, 1, 1)


def test_collate_pads_and_masks():
    rows = [
        Example([1, 2, 3], [[4, 5]], [[0, 1]]),
        Example([6], [[7], [8, 9, 10]], [[1], [1, 1, 1]]),
    ]
    batch = collate(rows, multiple=4)
    assert batch.prompts.tolist() == [[1, 2, 3, 0], [6, 0, 0, 0]]
    assert batch.responses.tolist() == [[4, 5, 0, 0], [7, 0, 0, 0], [8, 9, 10, 0]]
    assert batch.mask.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]
    assert batch.prompt_of.tolist() == [0, 1, 1]
    assert batch.prompt_lengths.tolist() == [3, 1]
    assert (batch.size, batch.trained_tokens) == (2, 5)
    assert batch.prompts.dtype == mx.int32
