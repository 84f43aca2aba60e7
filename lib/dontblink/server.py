"""Items -> responses: a vLLM or SGLang server as the engine, beside `generate`.

Why: large models generate many times faster on a serving engine, on another machine. In: Items, a server's address,
and a VLM of which only the processor and the tokenizer are used (`vlm.model` may be None). Out: one Response per
item, as they are finished; what fails is retried, quarantined or ends the run, never dropped. `server_contract` says
what is asked and what counts as an answer. Never here: text in place of ids unless asked for and marked, a setting
left to the server, an API key (OPENAI_API_KEY) in a message.

No server tells which weights it serves: vLLM's /v1/models gives a name, and its `system_fingerprint` hashes the
configuration. So its operator states the hashes of the checkpoint's files, `python -m dontblink.server fingerprint
FOLDER` (without torch: `python -m dontblink.fingerprint FOLDER`), and they must equal ours. Before the items goes a
probe, one small picture between two words: what is wrong with that is wrong with the server and ends the run, what is
wrong with an item later quarantines it.
"""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from PIL import Image

from dontblink import fingerprint
from dontblink.generate import Response, check_settings, encode_items
from dontblink.items import Item
from dontblink.progress import Progress
from dontblink.server_connection import Connection
from dontblink.server_contract import ContractError, ServerError, build_request, read_reply
from dontblink.vlm import VLM, Prompt


def generate_on_server(
    vlm: VLM,
    items: Sequence[Item],
    *,
    url: str,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    concurrent_requests: int = 16,
    timeout_s: float = 600.0,
    retries: int = 5,
    backoff_s: float = 1.0,
    requests_per_minute: float = 0.0,
    checkpoint: Path | None = None,
    server_fingerprint: Path | None = None,
    unverified: bool = False,
    served_model: str = "",
    request_extras: Mapping[str, Any] | None = None,
    retokenise: bool = False,
    quarantine: Callable[[str, str], None] | None = None,
    progress: bool = True,
) -> Iterator[Response]:
    """Generate one response per item on a server, yielded as completed; closing the iterator stops all requests.

    Greedy responses equal the local engine's up to the round-off of the server's kernels; sampled ones are seeded
    per item, but follow the server's own generator.

    Parameters
    ----------
    url
        The server's address, with or without /v1.
    max_new_tokens, temperature, top_p, top_k, seed
        As in `generate.generate_responses`.
    concurrent_requests
        How many requests wait for the server at a time; it makes the batches.
    timeout_s
        For one whole answer, the server's queue included.
    retries, backoff_s
        How often, and after how long at first, a request is repeated that met a lost connection, a time-out, status
        429 (Retry-After is honoured) or 5xx.
    requests_per_minute
        At most so many, repeated ones included; 0 is no limit.
    checkpoint, server_fingerprint
        The folder (or the fingerprint file) of the checkpoint that will be replayed, and the file that states the
        server's. Required unless `unverified`, which the engine's name then records.
    served_model
        Its name on the server, where there is more than one.
    request_extras
        See `server_contract.build_request`.
    retokenise
        Accept text from a server that returns no ids; such responses are marked `retokenised`.
    quarantine
        Called with (item id, reason) for an item that cannot be encoded, or whose reply breaks the contract; by
        default the error is raised.

    Raises
    ------
    ItemError, VLMError, ContractError
        For one item, if there is no `quarantine`.
    ServerError
        If the server cannot be reached, refuses us, does not keep the contract for the probe, or serves another
        checkpoint.
    GenerateError
        If a setting is impossible.
    """
    check_settings(max_new_tokens, temperature, top_p, top_k)
    if concurrent_requests < 1 or timeout_s <= 0 or retries < 0 or backoff_s < 0 or requests_per_minute < 0:
        raise ServerError(
            f"{concurrent_requests=}, {timeout_s=}, {retries=}, {backoff_s=}, {requests_per_minute=}; expected >= 1, "
            "> 0, >= 0, >= 0, >= 0; correct the parameters"
        )
    if not unverified or server_fingerprint is not None:
        check_checkpoint(checkpoint, server_fingerprint)
    sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    sampling["extras"] = request_extras or {}
    bar = Progress(len(items), f"generate {vlm.name}", enabled=progress)
    with Connection(url, timeout_s, retries, backoff_s, requests_per_minute) as server:
        served, engine = find_model(server, vlm.name, served_model)
        options: dict[str, Any] = {"engine": engine + ", unverified" * unverified, "retokenise": retokenise}
        probe = make_probe()
        reply = server.ask(build_request(vlm, probe, served, max_new_tokens=1, **sampling), probe.id).result()
        read_reply(vlm, vlm.encode(probe), reply, max_new_tokens=1, **options)
        queue, asked = deque(items), dict[Future[Any], Prompt]()
        while queue or asked:
            while queue and len(asked) < concurrent_requests:
                item = queue.popleft()
                prompts = encode_items(vlm, [item], quarantine)
                bar.advance(1 - len(prompts))
                for prompt in prompts:
                    request = build_request(vlm, item, served, max_new_tokens=max_new_tokens, **sampling)
                    asked[server.ask(request, item.id)] = prompt
            for future in wait(asked, return_when=FIRST_COMPLETED).done:
                prompt = asked.pop(future)
                try:
                    response = read_reply(vlm, prompt, future.result(), max_new_tokens=max_new_tokens, **options)
                except ContractError as error:
                    if quarantine is None:
                        raise
                    quarantine(prompt.item_id, str(error))
                else:
                    yield response
                bar.advance()
    bar.close()


def check_checkpoint(checkpoint: Path | None, stated: Path | None) -> None:
    """Raise ServerError unless the server's stated files are those of the checkpoint here."""
    if checkpoint is None or stated is None:
        raise ServerError(
            "server: nothing says that it serves this checkpoint; give checkpoint and server_fingerprint (save what "
            "`python -m dontblink.server fingerprint FOLDER` prints on the serving machine), or unverified: true"
        )
    try:
        here, there = fingerprint.read_fingerprint(checkpoint), fingerprint.read_fingerprint(stated)
        fingerprint.compare_fingerprints(here, there, stated)
    except fingerprint.FingerprintError as error:
        raise ServerError(str(error)) from error


def find_model(server: Connection, name: str, served_model: str) -> tuple[str, str]:
    """Return what the server calls the model and what the server calls itself, say ('qwen', 'vllm 0.15.0').

    Raises
    ------
    ServerError
        If it lists no such model, or several and none is named.
    """
    listed = server.look("/v1/models")
    models = {model["id"]: model for model in listed.get("data", []) if isinstance(model, dict) and "id" in model}
    wanted = served_model or (next(iter(models)) if len(models) == 1 else name)
    if wanted not in models:
        raise ServerError(f"{server.name}: serves {', '.join(models) or 'no model'}, not {wanted!r}; set served_model")
    try:
        version = server.look("/version").get("version", "")
    except ServerError:  # SGLang and others have no such page; it is only a label
        version = ""
    return wanted, f"{models[wanted].get('owned_by', 'server')} {version}".strip()


def make_probe() -> Item:
    """Return an item whose picture stands between two words, to find out how a server makes prompts and ids."""
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((96, 64)).save(buffer, "PNG")
    return Item("probe", "", "test", (buffer.getvalue(),), "look <image 1> there", "", "other")


def main() -> None:
    """Print the fingerprint of a checkpoint folder."""
    if sys.argv[1:2] != ["fingerprint"]:
        raise SystemExit("usage: python -m dontblink.server fingerprint FOLDER")
    del sys.argv[1]
    fingerprint.main()


if __name__ == "__main__":
    main()
