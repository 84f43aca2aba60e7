"""Items -> responses: a vLLM or SGLang server as the engine, beside `generate`.

Why: large models generate many times faster on a serving engine, on another machine; but the replay measures the very
ids that a model produced, behind the very prompt that it was shown, and a server can differ in either without an error.
In: Items, a server's address, and a VLM of which only the processor and the tokenizer are used (`vlm.model` may be
None). Out: one Response per item, as they are finished; what fails is retried, quarantined or ends the run, never
dropped. Never: text in place of ids unless asked for and marked; ids that the local tokenizer, processor and stop
policy do not confirm; a setting left to the server's defaults; the API key (OPENAI_API_KEY) in a message.

The contract. Fields of vLLM's and SGLang's `/v1/chat/completions`. Asked: `return_token_ids` (both),
`return_prompt_token_ids` (SGLang). Read: `choices[0].token_ids`; `prompt_token_ids`, beside the choices (vLLM) or in
the choice (SGLang); `finish_reason`; `stop_reason` (vLLM) or `matched_stop` (SGLang): the id or text that stopped it;
vLLM says null for the model's own end-of-sequence id. The pixel budget and the template's switches of the loaded
processor go along as `mm_processor_kwargs` and `chat_template_kwargs`; whether a server obeys them shows in its prompt
ids. A Response that stopped ends with its end-of-sequence id; servers differ in whether `token_ids` and
`usage.completion_tokens` include it. Where it is absent it is appended if the reply, or a model with a single one, says
which it was; the ids must then be as many as `completion_tokens`, with or without it.

No server tells which weights it serves: vLLM's /v1/models gives a name, and its `system_fingerprint` hashes the
configuration. So it must list the study's own name for the model, and its operator states the hashes of the
checkpoint's files (`python -m dontblink.models.fingerprint FOLDER`), which must equal ours. Before the items go two
probes, a small picture and one above the pixel budget: what is wrong with them is wrong with the server and ends the
run, what is wrong with an item later quarantines it.

The connection: several requests at a time, never faster than allowed, repeated unless the server has refused them. An
event loop in a thread of its own does the waiting, so that a caller works on, in a notebook too, and Ctrl-C ends every
request at once.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from tqdm import tqdm

from dontblink.errors import NamedError
from dontblink.models import fingerprint
from dontblink.models.families import read_image_tokens
from dontblink.models.generate import Sampling, build_response, encode_items, item_generator
from dontblink.models.response import Response
from dontblink.models.vlm import VLM, Prompt
from dontblink.questions.items import Item, open_image, split_question

SUPPRESS = -100.0  # the strongest logit bias that the protocol knows
SEEDS = 2**31
REMEDY = "use a vLLM or SGLang that knows return_token_ids"
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 60.0
LONGEST_RETRY_AFTER_S = 600.0  # a server that wants a longer rest ends the run: it goes on where it stopped
OUR_FAULT = (401, 403, 404)  # would meet every item: the key, the address or the model's name


class ContractError(NamedError):
    """A reply that cannot be a response of the item that it names; other items may go on."""


def build_request(vlm: VLM, item: Item, sampling: Sampling) -> dict[str, Any]:
    """Return the body of a chat completion: the question's parts in order, every setting stated.

    What is left out of a request, vLLM takes from the checkpoint's generation_config.json. The seed of an item is
    drawn from (seed, item id), so that no order of items changes it. `top_k` -1 is the value for "off" that both
    servers know. Placeholder ids get the lowest logit bias, and are checked again in the reply.
    ItemError if an image cannot be read, or the question names one that is not there.
    """
    content: list[dict[str, Any]] = []
    for part in split_question(item):
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            data = base64.b64encode(encode_png(open_image(item.images[part]))).decode()
            content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
    sampled = sampling.temperature > 0
    return {
        "model": vlm.name, "messages": [{"role": "user", "content": content}], "n": 1, "stream": False,
        "max_completion_tokens": sampling.max_new_tokens, "temperature": sampling.temperature,
        "top_p": sampling.top_p if sampled else 1.0, "top_k": sampling.top_k if sampled and sampling.top_k else -1,
        "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "seed": int(item_generator(sampling.seed, item.id).integers(SEEDS)),
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

    def make_probe(name: str, width: int, height: int) -> Item:
        picture = encode_png(Image.linear_gradient("L").resize((width, height)))
        return Item(name, "", "test", (picture,), "look <image 1> there", "", "other")

    return make_probe("probe", 96, 64), make_probe("probe of a large picture", side, side)


def encode_png(picture: Image.Image) -> bytes:
    """Return a picture as PNG, which loses nothing: a server sees our pixels."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def read_reply(
    vlm: VLM, prompt: Prompt, reply: Any, *, max_new_tokens: int, engine: str, retokenise: bool = False
) -> Response:
    """Return the response in a server's reply to one item.

    Parameters
    ----------
    reply : the parsed JSON
    retokenise : accept text where there are no ids, tokenise it, and mark the response

    ContractError in one line, for whatever is wrong with the prompt ids, the response ids, their count or their end.
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
        raise ContractError(f"{where}: no prompt_token_ids in the reply; {REMEDY}")
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
    except NamedError as error:
        raise ContractError(str(error)) from error
    return replace(response, engine=engine, retokenised=retokenised)


def tokenise_text(vlm: VLM, where: str, choice: Mapping[str, Any]) -> list[int]:
    """Return ids of a reply's text, with the tokenizer's end-of-sequence id where it stopped and shows none.

    ContractError if the server has cut the reasoning out of the text.
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
    if len(found) != len(expected) and theirs == len(prompt.image_sizes):
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

    def show(ids: Sequence[int]) -> str:
        if k == len(ids):
            return "the end"
        known = 0 <= ids[k] < vlm.n_vocabulary
        return f"id {ids[k]} {repr(vlm.decode([ids[k]])) if known else '(outside the vocabulary)'}"

    raise ContractError(
        f"item {prompt.item_id}: prompt position {k} is {show(found)} on the server and {show(expected)} here "
        f"(prompts of {len(found)} and {len(expected)} ids); serve this checkpoint's own template with the switches "
        f"{json.dumps(vlm.template_options)}, and pictures where the question has them (vLLM: "
        "--chat-template-content-format openai)"
    )


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


class Connection:
    """A server, while the `with` block lasts; see `generate_on_server` for the settings."""

    def __init__(self, url: str, timeout_s: float, retries: int, requests_per_minute: float) -> None:
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise NamedError(f"server.url: {error}; expected http://host:port") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise NamedError(f"server.url: found {url!r}, expected http://host:port")
        self.name = str(address.copy_with(userinfo=b"")).rstrip("/").removesuffix("/v1")
        self.root = url.rstrip("/").removesuffix("/v1")
        self.timeout_s, self.retries = timeout_s, retries
        self.spacing_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self.next_turn_s = 0.0
        self.jitter = item_generator(0, "jitter")  # spreads repeated requests; decides nothing else
        self.key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not self.key.isascii() or not self.key.isprintable():
            raise NamedError("OPENAI_API_KEY: holds letters that no header can carry; set it anew")

    def __enter__(self) -> Connection:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self.client = httpx.AsyncClient(headers=headers, timeout=None, limits=httpx.Limits())  # noqa: S113 (`_request` times)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._start(self._stop()).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def _start(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    async def _stop(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.client.aclose()

    def ask(self, body: dict[str, Any], item_id: str) -> Future[Any]:
        """Post a chat completion; the future gives the parsed reply, or raises ContractError or NamedError."""
        return self._start(self._request("POST", "/v1/chat/completions", f"item {item_id}", body))

    def look(self, page: str) -> dict[str, Any]:
        """Return a page of the server; raise NamedError where it has none."""
        found = self._start(self._request("GET", page, page)).result()
        if not isinstance(found, dict):
            raise NamedError(f"{self.name}{page}: not a JSON object; give the address of an OpenAI-compatible server")
        return found

    async def _request(self, method: str, page: str, where: str, body: dict[str, Any] | None = None) -> Any:
        status, problem, pause = 0, "", 0.0
        for attempt in range(self.retries + 1):
            await asyncio.sleep(pause)
            await self._wait_turn()
            pause = min(FIRST_BACKOFF_S * 2**attempt, LONGEST_BACKOFF_S) * (0.5 + self.jitter.random())
            try:
                async with asyncio.timeout(self.timeout_s):
                    reply = await self.client.request(method, self.root + page, json=body)
            except TimeoutError:
                remedy = "raise server.timeout_s or lower server.concurrent_requests"
                status, problem = 0, f"no answer in {self.timeout_s:g} s; {remedy}"
                continue
            except httpx.DecodingError as error:
                found = self._show(f"{error}")
                status, problem = 0, f"a damaged reply ({found}); look for a proxy between here and the server"
                continue
            except httpx.RequestError as error:
                found = self._show(f"{type(error).__name__} {error}")
                status, problem = 0, f"no connection ({found}); start the server or correct its address"
                continue
            status, problem = reply.status_code, self._describe(reply)
            if status == 200:
                try:
                    return reply.json()
                except (ValueError, RecursionError) as error:
                    raise ContractError(f"{where}: the reply is not JSON; use an OpenAI-compatible server") from error
            if status in OUR_FAULT:
                raise NamedError(f"{self.name}: {where}: {problem}; correct OPENAI_API_KEY or server.url")
            if status != 429 and status < 500:
                raise ContractError(f"{where}: refused by the server: {problem}")
            pause = max(pause, read_retry_after(reply))
            if pause > LONGEST_RETRY_AFTER_S:
                raise NamedError(
                    f"{self.name}: {where}: {problem}; it asks for a rest of {pause:g} s (Retry-After), at most "
                    f"{LONGEST_RETRY_AFTER_S:g} s are waited for; what is finished is kept, run again after it"
                )
        tried = f"{problem} ({self.retries + 1} attempts)"
        if status == 500 and body and await self._answers():
            raise ContractError(f"{where}: the server fails on this item alone: {tried}")
        raise NamedError(f"{self.name}: {where}: {tried}; what is finished is kept, run again to go on")

    async def _answers(self) -> bool:
        """Return whether the server still answers anything."""
        try:
            return (await self.client.get(f"{self.root}/v1/models", timeout=self.timeout_s)).is_success
        except httpx.RequestError:
            return False

    async def _wait_turn(self) -> None:
        now = time.monotonic()
        turn = max(now, self.next_turn_s)
        self.next_turn_s = turn + self.spacing_s
        await asyncio.sleep(turn - now)

    def _describe(self, reply: httpx.Response) -> str:
        """Return a status and the server's own words, in one line and without the key."""
        try:
            found = reply.json()
            found = found.get("error", found)
            words = found if isinstance(found, str) else found.get("message", found)
        except (ValueError, AttributeError, RecursionError):
            words = reply.text
        return f"status {reply.status_code}: {self._show(str(words))}"

    def _show(self, words: str) -> str:
        """Return a foreign text as at most 300 letters of one line, the key replaced before anything is cut."""
        line = " ".join(words.split())
        return (line.replace(self.key, "...") if self.key else line)[:300]


def read_retry_after(reply: httpx.Response) -> float:
    """Return the seconds that a server asks to be left alone (a number or a date); 0 where it does not say."""
    stated = reply.headers.get("retry-after", "0")
    try:
        return max(0.0, float(stated))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(stated).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def generate_on_server(
    vlm: VLM, items: Sequence[Item], sampling: Sampling, *, url: str, concurrent_requests: int = 16,
    timeout_s: float = 600.0, retries: int = 5, requests_per_minute: float = 0.0, checkpoint: Path | None = None,
    server_fingerprint: Path | None = None, unverified: bool = False, retokenise: bool = False,
    quarantine: Callable[[str, str], None] | None = None, progress: bool = True,
) -> Iterator[Response]:  # fmt: skip
    """Generate one response per item on a server, yielded as completed; closing the iterator stops all requests.

    Greedy responses equal the local engine's up to the round-off of the server's kernels; sampled ones are seeded
    per item, but follow the server's own generator. The pixel budget and the template's switches that `vlm` was loaded
    with go along with every request.

    Parameters
    ----------
    url : the server's address, with or without /v1
    concurrent_requests : how many requests wait for the server at a time; it makes the batches
    timeout_s : for one whole answer, the server's queue included
    retries : how often a request is repeated that met a lost connection, a damaged reply, a time-out, status 429 (a
        Retry-After of up to ten minutes is honoured) or 5xx
    requests_per_minute : at most so many, repeated ones included; 0 is no limit
    checkpoint, server_fingerprint : the folder (or the fingerprint file) of the checkpoint that will be replayed, and
        the file that states the server's. Required unless `unverified`, which the engine's name then records.
    retokenise : accept text from a server that returns no ids; such responses are marked `retokenised`
    quarantine : called with (item id, reason) for an item that cannot be encoded, or whose reply breaks the contract;
        by default the error is raised

    Raises
    ------
    ItemError, ContractError
        For one item, if there is no `quarantine`.
    NamedError
        If a setting is impossible, or the server cannot be reached, refuses us, does not list `vlm.name`, does not
        keep the contract for the probes, or serves another checkpoint.
    """
    if concurrent_requests < 1 or timeout_s <= 0 or retries < 0 or requests_per_minute < 0:
        raise NamedError(
            f"{concurrent_requests=}, {timeout_s=}, {retries=}, {requests_per_minute=}; expected >= 1, > 0, >= 0, "
            ">= 0; correct the parameters"
        )
    if not unverified or server_fingerprint is not None:
        check_checkpoint(checkpoint, server_fingerprint)
    bar = tqdm(total=len(items), desc=f"generate {vlm.name}", unit="item", disable=None if progress else True)
    with bar, Connection(url, timeout_s, retries, requests_per_minute) as server:
        engine = find_engine(server, vlm.name)
        options: dict[str, Any] = {"engine": engine + ", unverified" * unverified, "retokenise": retokenise}
        for probe in make_probes(vlm):
            reply = server.ask(build_request(vlm, probe, replace(sampling, max_new_tokens=1)), probe.id).result()
            read_reply(vlm, vlm.encode(probe), reply, max_new_tokens=1, **options)
        queue, asked = deque(items), dict[Future[Any], Prompt]()
        while queue or asked:
            while queue and len(asked) < concurrent_requests:
                item = queue.popleft()
                prompts = encode_items(vlm, [item], quarantine)
                bar.update(1 - len(prompts))
                for prompt in prompts:
                    asked[server.ask(build_request(vlm, item, sampling), item.id)] = prompt
            for future in wait(asked, return_when=FIRST_COMPLETED).done:
                prompt = asked.pop(future)
                try:
                    response = read_reply(
                        vlm, prompt, future.result(), max_new_tokens=sampling.max_new_tokens, **options
                    )
                except ContractError as error:
                    if quarantine is None:
                        raise
                    quarantine(prompt.item_id, str(error))
                else:
                    yield response
                bar.update()


def check_checkpoint(checkpoint: Path | None, stated: Path | None) -> None:
    """Raise NamedError unless the server's stated files are those of the checkpoint here."""
    if checkpoint is None or stated is None:
        raise NamedError(
            "server: nothing says that it serves this checkpoint; "
            f"{fingerprint.HOW_TO_STATE}, or set server.verification: skip"
        )
    here, there = fingerprint.read_fingerprint(checkpoint), fingerprint.read_fingerprint(stated)
    fingerprint.compare_fingerprints(here, there, stated)


def find_engine(server: Connection, name: str) -> str:
    """Return what a server that serves the model calls itself, say 'vllm 0.15.0'.

    NamedError if it does not list the model by the study's name: a server's only model may be another one.
    """
    rows = server.look("/v1/models").get("data")
    rows = rows if isinstance(rows, list) else []
    models = {str(row["id"]): row for row in rows if isinstance(row, dict) and "id" in row}
    if name not in models:
        raise NamedError(
            f"{server.name}: lists {', '.join(map(repr, models)) or 'no model'}, expected {name!r}; start it on that "
            f"checkpoint with --served-model-name {name}, or name in extraction.models only what it serves"
        )
    try:
        version = server.look("/version").get("version", "")
    except NamedError:  # SGLang and others have no such page; it is only a label
        version = ""
    return f"{models[name].get('owned_by', 'server')} {version}".strip()
