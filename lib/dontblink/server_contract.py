"""What a server is asked, and what must come back before its ids count as a response.

Why: the replay measures the very ids that a model produced, behind the very prompt that it was shown; a server can
differ in either without an error. In: an Item or a server's reply to it. Out: the request, with nothing left to the
server's defaults, and a Response. Never: text where ids are expected, ids that the local tokenizer, processor and
stop policy do not confirm.

Fields of vLLM's and SGLang's `/v1/chat/completions`. Asked: `return_token_ids` (both), `return_prompt_token_ids`
(SGLang). Read: `choices[0].token_ids`; `prompt_token_ids`, beside the choices (vLLM) or in the choice (SGLang);
`finish_reason`; `stop_reason` (vLLM) or `matched_stop` (SGLang): the id or text that stopped it; vLLM says null for
the model's own end-of-sequence id. The pixel budget and the template's switches of the loaded processor go along as
`mm_processor_kwargs` and `chat_template_kwargs`; whether a server obeys them shows in its prompt ids.

The EOS convention: a Response that stopped ends with its end-of-sequence id. Servers differ in whether `token_ids`
and `usage.completion_tokens` include it. Where it is absent it is appended if the reply, or a model with a single
one, says which it was; the ids must then be as many as `completion_tokens`, with or without it.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from dontblink.families import read_image_tokens
from dontblink.generate import GenerateError, Response, build_response, item_generator
from dontblink.items import Item, open_image, split_question
from dontblink.vlm import VLM, Prompt

SUPPRESS = -100.0  # the strongest logit bias that the protocol knows
SEEDS = 2**31
REMEDY = "use a vLLM or SGLang that knows return_token_ids"


class ServerError(GenerateError):
    """A server that the run cannot go on with; one line that names what was found and the remedy."""


class ContractError(ServerError):
    """A reply that cannot be a response of the item that it names; other items may go on."""


def build_request(
    vlm: VLM,
    item: Item,
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int,
) -> dict[str, Any]:
    """Return the body of a chat completion: the question's parts in order, every setting stated.

    What is left out of a request, vLLM takes from the checkpoint's generation_config.json. The seed of an item is
    drawn from (seed, item id), so that no order of items changes it. `top_k` -1 is the value for "off" that both
    servers know. Placeholder ids get the lowest logit bias, and are checked again in the reply.

    Raises
    ------
    ItemError
        If an image cannot be read, or the question names one that is not there.
    """
    content: list[dict[str, Any]] = []
    for part in split_question(item):
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            content.append({"type": "image_url", "image_url": {"url": encode_image(item.images[part])}})
    sampled = temperature > 0
    return {
        "model": vlm.name, "messages": [{"role": "user", "content": content}], "n": 1, "stream": False,
        "max_completion_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p if sampled else 1.0,
        "top_k": top_k if sampled and top_k else -1, "min_p": 0.0, "repetition_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "seed": int(item_generator(seed, item.id).integers(SEEDS)),
        "logit_bias": {str(i): SUPPRESS for i in vlm.suppressed_ids}, "tool_choice": "none",
        "stop": [], "stop_token_ids": list(vlm.eos_ids), "ignore_eos": False, "min_tokens": 0,
        "include_stop_str_in_output": False, "skip_special_tokens": False, "spaces_between_special_tokens": False,
        "add_generation_prompt": True, "continue_final_message": False,
        "chat_template_kwargs": dict(vlm.template_options), "mm_processor_kwargs": state_pixels(vlm),
        "return_token_ids": True, "return_prompt_token_ids": True,
    }  # fmt: skip


def state_pixels(vlm: VLM) -> dict[str, dict[str, int]]:
    """Return the least and the most pixels of a picture as the processor here was told them.

    In the processor's own unit (GLM counts a pixel once per frame), so that the checkpoint's processor on the server
    scales pictures to the same grids.
    """
    size = vlm.processor.image_processor.size
    return {"size": {edge: int(size[edge]) for edge in ("shortest_edge", "longest_edge")}}


def make_probes(vlm: VLM) -> tuple[Item, Item]:
    """Return two items that show how a server makes prompts and ids, each a picture between two words.

    One picture is small, the other takes more image tokens than the budget, so that it must be scaled down.
    """
    images = vlm.processor.image_processor
    side = images.patch_size * images.merge_size * (math.isqrt(read_image_tokens(images, vlm.family)[1]) + 1)
    return make_probe("probe", (96, 64)), make_probe("probe of a large picture", (side, side))


def make_probe(name: str, size: tuple[int, int]) -> Item:
    """Return an item with one picture of a (width, height) in px."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize(size).save(buffer, "PNG", compress_level=1)
    return Item(name, "", "test", (buffer.getvalue(),), "look <image 1> there", "", "other")


def encode_image(source: Any) -> str:
    """Return an image as a data URL: PNG of the EXIF-turned RGB picture, so that a server sees our pixels."""
    buffer = io.BytesIO()
    open_image(source).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def read_reply(
    vlm: VLM, prompt: Prompt, reply: Any, *, max_new_tokens: int, engine: str, retokenise: bool = False
) -> Response:
    """Return the response in a server's reply to one item.

    Parameters
    ----------
    reply
        The parsed JSON.
    retokenise
        Accept text where there are no ids, tokenise it, and mark the response.

    Raises
    ------
    ContractError
        In one line, for whatever is wrong with the prompt ids, the response ids, their count or their end.
    """
    where = f"item {prompt.item_id}"
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise ContractError(f"{where}: a reply without its one choice; use a chat completion server")
    choice = choices[0]
    usage = reply["usage"] if isinstance(reply.get("usage"), dict) else {}
    reason = choice.get("finish_reason")
    if reason not in ("stop", "length"):
        raise ContractError(f"{where}: finish reason {reason!r}; expected stop or length: the response is not whole")
    prompt_ids = reply.get("prompt_token_ids") or choice.get("prompt_token_ids")
    ids = choice.get("token_ids")
    if retokenised := ids is None:
        if not retokenise:
            raise ContractError(
                f"{where}: no token_ids in the reply, and its text may be cut into other ids than were generated; "
                f"{REMEDY}, or set extraction.retokenised: leave_out"
            )
        ids = tokenise_text(vlm, where, choice)
    elif prompt_ids is None:
        raise ContractError(
            f"{where}: no prompt_token_ids in the reply; use a vLLM or SGLang that knows return_token_ids"
        )
    if prompt_ids is not None:
        check_prompt(vlm, prompt, check_integers(where, "prompt_token_ids", prompt_ids), usage.get("prompt_tokens"))
    ids = check_integers(where, "token_ids", ids)
    closed = close_ids(vlm, where, ids, reason, choice)
    if not retokenised:
        n_counted = usage.get("completion_tokens")
        if n_counted not in (len(ids), len(closed)):
            raise ContractError(
                f"{where}: {len(ids)} token_ids, usage.completion_tokens {n_counted}; expected as many: ids are lost"
            )
        check_length(vlm, where, closed, max_new_tokens)
    try:
        response = build_response(vlm, prompt, closed)
    except GenerateError as error:
        raise ContractError(str(error)) from error
    return replace(response, engine=engine, retokenised=retokenised)


def tokenise_text(vlm: VLM, where: str, choice: Mapping[str, Any]) -> list[int]:
    """Return ids of a reply's text, with the tokenizer's end-of-sequence id where it stopped and shows none.

    Raises
    ------
    ContractError
        If the server has cut the reasoning out of the text.
    """
    message = choice.get("message")
    if not isinstance(message, dict) or not isinstance(message.get("content") or "", str):
        raise ContractError(f"{where}: its message is {message!r}, expected a text; use a chat completion server")
    if message.get("reasoning") or message.get("reasoning_content"):
        raise ContractError(f"{where}: the reasoning is cut out of the text; serve without a reasoning parser")
    ids = list(vlm.tokenizer(message.get("content") or "", add_special_tokens=False)["input_ids"])
    stopped = choice["finish_reason"] == "stop"
    return [*ids, vlm.tokenizer.eos_token_id] if stopped and not set(ids[-1:]) & set(vlm.eos_ids) else ids


def check_integers(where: str, name: str, ids: Any) -> list[int]:
    """Return the ids if they are a list of whole numbers, else raise ContractError."""
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise ContractError(f"{where}: {name} is not a list of whole numbers; {REMEDY}")
    return ids


def check_prompt(vlm: VLM, prompt: Prompt, found: Sequence[int], n_counted: Any) -> None:
    """Raise ContractError, naming the first difference, unless the server saw our prompt.

    A server may show each image as the one placeholder of the template instead of one per image token; the others
    are then put in before the comparison, and the prompt tokens that the server counts (`n_counted`) must be ours.
    """
    expected = prompt.ids.tolist()
    ours, theirs = (sum(i == vlm.image_token_id for i in ids) for ids in (expected, found))
    pixels = f"serve with the pixel budget of this run (vLLM: --mm-processor-kwargs '{json.dumps(state_pixels(vlm))}')"
    if len(found) != len(expected) and theirs == len(prompt.grid_thw):
        if n_counted != len(expected):
            raise ContractError(
                f"item {prompt.item_id}: usage.prompt_tokens {n_counted}, expected {len(expected)}; with one "
                f"placeholder a picture only this count tells its image tokens; {pixels}"
            )
        counts = iter([rows * columns for rows, columns in vlm.image_grid(prompt)])
        found = np.repeat(found, [next(counts) if i == vlm.image_token_id else 1 for i in found]).tolist()
    elif theirs != ours:
        raise ContractError(
            f"item {prompt.item_id}: {theirs} image tokens on the server and {ours} here, of pictures of "
            f"{', '.join(f'{width}x{height}' for width, height in prompt.image_sizes)} px; {pixels}"
        )
    if list(found) == expected:
        return
    shorter = min(len(found), len(expected))
    k = next((k for k in range(shorter) if found[k] != expected[k]), shorter)
    there, here = (f"id {ids[k]} {show_token(vlm, ids[k])}" if k < len(ids) else "the end" for ids in (found, expected))
    raise ContractError(
        f"item {prompt.item_id}: prompt position {k} is {there} on the server and {here} here (prompts of "
        f"{len(found)} and {len(expected)} ids); serve this checkpoint's own template with the switches "
        f"{json.dumps(vlm.template_options)}, and pictures where the question has them (vLLM: "
        "--chat-template-content-format openai)"
    )


def show_token(vlm: VLM, token: int) -> str:
    """Return a token's text for messages."""
    return repr(vlm.decode([token])) if 0 <= token < vlm.n_vocabulary else "(outside the vocabulary)"


def close_ids(vlm: VLM, where: str, ids: Sequence[int], reason: str, choice: Mapping[str, Any]) -> list[int]:
    """Return the ids with the end-of-sequence id that stopped them; raise ContractError where none can be named."""
    early = next((k for k, i in enumerate(ids[:-1]) if i in vlm.eos_ids), None)
    if early is not None:
        raise ContractError(
            f"{where}: token {early} is the end-of-sequence id {ids[early]} and {len(ids) - early - 1} more follow; "
            "serve with this checkpoint's stop ids, and never ignore them"
        )
    if reason == "length" or (ids and ids[-1] in vlm.eos_ids):
        return list(ids)
    named = choice.get("stop_reason")
    named = choice.get("matched_stop") if named is None else named
    if named is None and len(vlm.eos_ids) == 1:
        named = vlm.eos_ids[0]
    if named in vlm.eos_ids:
        return [*ids, named]
    raise ContractError(
        f"{where}: stopped by {named!r}, expected one of the end-of-sequence ids {list(vlm.eos_ids)}; "
        "serve without stop texts, by a server that returns or names the id"
    )


def check_length(vlm: VLM, where: str, ids: Sequence[int], max_new_tokens: int) -> None:
    """Raise ContractError unless a response without an end was cut exactly where we asked for it."""
    ended = bool(ids) and ids[-1] in vlm.eos_ids
    if len(ids) > max_new_tokens or (not ended and len(ids) < max_new_tokens):
        raise ContractError(
            f"{where}: {len(ids)} token_ids {'with' if ended else 'without'} an end, max_new_tokens {max_new_tokens}; "
            "raise the context length of the server (vLLM: --max-model-len)"
        )
