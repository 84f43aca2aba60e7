"""Bad replies of a server: fields lost, of other types, ids that no model should write."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from bad_input import VALUES, attack, make_picture
from hypothesis import strategies as st

from dontblink import paths
from dontblink.models.checkpoints import load_vlm
from dontblink.models.server import read_reply
from dontblink.models.vlm import VLM
from dontblink.questions.items import Item


@functools.cache
def load_processor() -> VLM:
    """Return a shipped checkpoint without its weights: it encodes and cuts."""
    return load_vlm(paths.ROOT / "models" / "testbed" / "qwen3vl-tiny-s", weights=False)


def use_reply(reply: Any, folder: Path) -> None:
    """Read a server's reply."""
    vlm = load_processor()
    item = Item("q1", "demo", "test", (make_picture(1),), "what is a1 + b2 ?", "3", "other")
    prompt = vlm.encode(item)
    if isinstance(reply, dict) and reply.get("prompt_token_ids") == "own":
        reply = reply | {"prompt_token_ids": prompt.ids.tolist()}
    for retokenise in (False, True):
        read_reply(vlm, prompt, reply, max_new_tokens=3, engine="server", retokenise=retokenise)


REPLY = {
    "choices": [{"finish_reason": "stop", "token_ids": [9, 8], "message": {"content": "a1"}, "stop_reason": None}],
    "prompt_token_ids": "own", "usage": {"completion_tokens": 2},
}  # fmt: skip


def edit_reply(choice: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Return a good reply with fields replaced."""
    return {**REPLY, "choices": [{**REPLY["choices"][0], **choice}], **whole}  # type: ignore[dict-item]


CHOICE = ["finish_reason", "token_ids", "message", "stop_reason", "matched_stop", "prompt_token_ids"]
WHOLE = ["usage", "prompt_token_ids", "choices"]
ODD = [
    None, 0, -1, True, "", "x", [], {}, [None], [-1], [2**70], ["1"], [1.0], [True], {"content": 3}, {"content": []},
    {"reasoning": 1}, float("nan"), [[1]], {"completion_tokens": "2"}, [0] * 5,
]  # fmt: skip


test_replies_of_a_server = attack(
    "server replies",
    use_reply,
    VALUES
    | st.builds(
        edit_reply,
        st.dictionaries(st.sampled_from(CHOICE), VALUES | st.sampled_from(ODD), max_size=2),
        st.dictionaries(st.sampled_from(WHOLE), VALUES | st.sampled_from(ODD), max_size=1),
    ),
    [
        *ODD,
        *(edit_reply({name: value}, {}) for name in CHOICE[:4] for value in ODD),
        *(edit_reply({}, {name: value}) for name in WHOLE for value in ODD),
        *(edit_reply({"token_ids": None, "finish_reason": "length", "message": value}, {}) for value in ODD),
    ],
)
