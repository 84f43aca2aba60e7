"""Items -> responses: a vLLM or SGLang server as the engine, beside `generate`.

Why: large models generate many times faster on a serving engine, on another machine. In: Items, a server's address,
and a VLM of which only the processor and the tokenizer are used (`vlm.model` may be None). Out: one Response per
item, as they are finished; what fails is retried, quarantined or ends the run, never dropped. `server_contract` says
what is asked and what counts as an answer. Never here: text in place of ids unless asked for and marked, a setting
left to the server, an API key (OPENAI_API_KEY) in a message.

No server tells which weights it serves: vLLM's /v1/models gives a name, and its `system_fingerprint` hashes the
configuration. So it must list the study's own name for the model, and its operator states the hashes of the
checkpoint's files (`python -m dontblink.fingerprint FOLDER`), which must equal ours. Before the items go two probes, a
small picture and one above the pixel budget: what is wrong with them is wrong with the server and ends the run, what
is wrong with an item later quarantines it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

from dontblink import fingerprint
from dontblink.generate import Response, check_settings, encode_items
from dontblink.items import Item
from dontblink.progress import Progress
from dontblink.server_connection import Connection
from dontblink.server_contract import ContractError, ServerError, build_request, make_probes, read_reply
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
    requests_per_minute: float = 0.0,
    checkpoint: Path | None = None,
    server_fingerprint: Path | None = None,
    unverified: bool = False,
    retokenise: bool = False,
    quarantine: Callable[[str, str], None] | None = None,
    progress: bool = True,
) -> Iterator[Response]:
    """Generate one response per item on a server, yielded as completed; closing the iterator stops all requests.

    Greedy responses equal the local engine's up to the round-off of the server's kernels; sampled ones are seeded
    per item, but follow the server's own generator. The pixel budget and the template's switches that `vlm` was loaded
    with go along with every request.

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
    retries
        How often a request is repeated that met a lost connection, a damaged reply, a time-out, status 429 (a
        Retry-After of up to ten minutes is honoured) or 5xx.
    requests_per_minute
        At most so many, repeated ones included; 0 is no limit.
    checkpoint, server_fingerprint
        The folder (or the fingerprint file) of the checkpoint that will be replayed, and the file that states the
        server's. Required unless `unverified`, which the engine's name then records.
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
        If the server cannot be reached, refuses us, does not list `vlm.name`, does not keep the contract for the
        probes, or serves another checkpoint.
    GenerateError
        If a setting is impossible.
    """
    check_settings(max_new_tokens, temperature, top_p, top_k)
    if concurrent_requests < 1 or timeout_s <= 0 or retries < 0 or requests_per_minute < 0:
        raise ServerError(
            f"{concurrent_requests=}, {timeout_s=}, {retries=}, {requests_per_minute=}; expected >= 1, > 0, >= 0, "
            ">= 0; correct the parameters"
        )
    if not unverified or server_fingerprint is not None:
        check_checkpoint(checkpoint, server_fingerprint)
    sampling: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    bar = Progress(len(items), f"generate {vlm.name}", enabled=progress)
    with Connection(url, timeout_s, retries, requests_per_minute) as server:
        engine = find_engine(server, vlm.name)
        options: dict[str, Any] = {"engine": engine + ", unverified" * unverified, "retokenise": retokenise}
        for probe in make_probes(vlm):
            reply = server.ask(build_request(vlm, probe, max_new_tokens=1, **sampling), probe.id).result()
            read_reply(vlm, vlm.encode(probe), reply, max_new_tokens=1, **options)
        queue, asked = deque(items), dict[Future[Any], Prompt]()
        while queue or asked:
            while queue and len(asked) < concurrent_requests:
                item = queue.popleft()
                prompts = encode_items(vlm, [item], quarantine)
                bar.advance(1 - len(prompts))
                for prompt in prompts:
                    request = build_request(vlm, item, max_new_tokens=max_new_tokens, **sampling)
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
            "server: nothing says that it serves this checkpoint; "
            f"{fingerprint.HOW_TO_STATE}, or set server.verification: skip"
        )
    try:
        here, there = fingerprint.read_fingerprint(checkpoint), fingerprint.read_fingerprint(stated)
        fingerprint.compare_fingerprints(here, there, stated)
    except fingerprint.FingerprintError as error:
        raise ServerError(str(error)) from error


def find_engine(server: Connection, name: str) -> str:
    """Return what a server that serves the model calls itself, say 'vllm 0.15.0'.

    Raises
    ------
    ServerError
        If it does not list the model by the study's name: a server's only model may be another one.
    """
    rows = server.look("/v1/models").get("data")
    rows = rows if isinstance(rows, list) else []
    models = {str(row["id"]): row for row in rows if isinstance(row, dict) and "id" in row}
    if name not in models:
        raise ServerError(
            f"{server.name}: lists {', '.join(map(repr, models)) or 'no model'}, expected {name!r}; start it on that "
            f"checkpoint with --served-model-name {name}, or name in extraction.models only what it serves"
        )
    try:
        version = server.look("/version").get("version", "")
    except ServerError:  # SGLang and others have no such page; it is only a label
        version = ""
    return f"{models[name].get('owned_by', 'server')} {version}".strip()
