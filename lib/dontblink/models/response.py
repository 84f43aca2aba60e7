"""One record of a response, from whatever engine wrote it to the table that counts it, and its row in a shard.

Why: what every later stage reads must not depend on who generated it, nor need a model library to be read. In: what an
engine returns. Out: a `Response`; shards of them. The replay adds a `Trace`, the tables an item and scores. Never:
text in place of token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

FinishReason = Literal["stop", "length", "empty"]
INTEGERS = pa.list_(pa.int32())
RESPONSES = pa.schema({
    "item_id": pa.string(), "model": pa.string(), "prompt_ids": INTEGERS, "response_ids": INTEGERS,
    "text": pa.string(), "finish_reason": pa.string(), "engine": pa.string(), "retokenised": pa.bool_(),
})  # fmt: skip


@dataclass(frozen=True)
class Response:
    """What a model answered to one item."""

    item_id: str
    model: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]  # with the EOS that ended it as its last id
    text: str
    finish_reason: FinishReason  # EOS, max_new_tokens reached without EOS, nothing but EOS
    engine: str = "local"  # or which server generated it
    retokenised: bool = False  # the ids were made from text, and may not be those that the model produced


def pack_responses(responses: Sequence[Response]) -> pa.Table:
    """Return the responses as rows of `RESPONSES`."""
    return pa.Table.from_pylist([vars(response) for response in responses], RESPONSES)


def unpack_responses(table: pa.Table) -> list[Response]:
    """Return the rows of a response shard as records."""
    return [
        Response(**{**row, "prompt_ids": tuple(row["prompt_ids"]), "response_ids": tuple(row["response_ids"])})
        for row in table.to_pylist()
    ]
