"""What methods on single ratings share."""

from collections.abc import Sequence
from typing import Any

from minialign.errors import UserError
from minialign.learn.batch import Example, TokenizerLike, TooLong
from minialign.methods.method import encode_texts
from minialign.records import Rated


def check_rows(rows: Sequence[Rated], config: Any) -> None:
    """Raise a UserError when all ratings say the same."""
    if rows and len({row.good for row in rows}) < 2:
        word, fix = "bad", "add good responses"
        if rows[0].good:
            word, fix = "good", "add bad responses, or imitate the good ones: minialign sft"
        raise UserError(f"all {len(rows)} ratings are {word}: there is nothing to tell apart", fix)


def encode_with_mismatched(
    rows: Sequence[Rated], tokenizer: TokenizerLike, limit: int, config: Any
) -> list[Example | TooLong]:
    """Examples of a row's own response and that of the next row with another prompt."""
    coded = []
    for at, row in enumerate(rows):
        around = (rows[i % len(rows)] for i in range(at + 1, at + len(rows)))
        other = next((one for one in around if one.prompt != row.prompt), row)
        texts = [row.response, other.response]
        reasons = [(one.finish_reasons or ["stop"])[0] for one in (row, other)]
        coded.append(encode_texts(row, texts, reasons, tokenizer, limit, {"good": row.good}))
    return coded
