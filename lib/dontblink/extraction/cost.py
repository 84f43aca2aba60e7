"""What a study will cost: items, tokens, hours and gigabytes, from a short probe before anything starts.

In: a `Study` and a loaded model. Out: a line of text per model. A probe generates a few tokens for one
batch of items and replays them; the rest is arithmetic that the docstrings state. What the extraction would quarantine
does not stop the probe. Never: a promise, or two models in memory. Chains longer than the probe's cost more per token
in attention, which is left out.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from dontblink import paths
from dontblink.attention.replay import REGIONS, replay_responses
from dontblink.attention.trial import try_prompt
from dontblink.errors import NamedError
from dontblink.extraction.study import Shard, Study
from dontblink.files import read_json
from dontblink.models.generate import Sampling, encode_items, generate_responses
from dontblink.models.vlm import VLM
from dontblink.questions.items import Item
from dontblink.schema import HEAD_SETS

PROBE_TOKENS = 32
TOKENS_PER_STEP = 25  # of a reasoning step, for the size of the maps


@dataclass(frozen=True)
class Speed:
    """What a probe measured of one model on this machine."""

    n_items: int  # side by side in one batch
    prompt_tokens: float  # mean per item
    image_tokens: float
    prompt_s: float  # seconds to read the prompts of one batch
    step_s: float  # seconds to add one token to every response of one batch
    replay_s_per_token: float  # of prompt or response


def measure_speed(study: Study, vlm: VLM, items: Sequence[Item]) -> Speed:
    """Generate PROBE_TOKENS tokens for one batch of items and replay them, twice; the second run counts.

    The batch are the first items that can be encoded; NamedError if none can, or none of the batch be replayed.
    """
    reasons: list[str] = []

    def quarantine(item_id: str, reason: str) -> None:
        reasons.append(f"item {item_id}: {reason}")

    encoded = ((item, prompt) for item in items for prompt in encode_items(vlm, [item], quarantine))
    pairs = list(islice(encoded, study.settings["batch_size"]))
    batch, prompts = [item for item, _ in pairs], [prompt for _, prompt in pairs]
    if not batch:
        raise NamedError(f"none of {len(items)} items can be encoded, the first: {reasons[0]}")
    covered = [np.zeros(len(prompt.find_image(vlm.image_token_id)[0]), np.float32) for prompt in prompts]
    sets = np.zeros((len(HEAD_SETS), *try_prompt(vlm, prompts[0])), np.float32)
    seconds: dict[str, float] = {}
    for _ in range(2):
        for name, n_tokens in (("prompt", 1), ("whole", PROBE_TOKENS)):
            start = time.perf_counter()
            found = generate_responses(vlm, batch, Sampling(n_tokens), batch_size=len(batch), progress=False)
            responses = {r.item_id: r.response_ids for r in found}
            seconds[name] = time.perf_counter() - start
        ids = [responses[prompt.item_id] for prompt in prompts]
        start = time.perf_counter()
        replayed = replay_responses(
            vlm, prompts, ids, head_sets=sets, reasoning=[(0, len(r)) for r in ids], coverage=covered, control=covered,
            steps=[[(0, len(r))] for r in ids], implementation=study.settings["replay_implementation"],
            token_budget=study.settings["replay_batch_tokens"], quarantine=quarantine,
        )  # fmt: skip
        seconds["replay"] = time.perf_counter() - start
    if not (replayed_ids := {trace.item_id for trace in replayed}):
        raise NamedError(f"none of {len(batch)} items can be replayed: {reasons[-1]}")
    n_replayed = sum(len(p.ids) + len(responses[p.item_id]) for p in prompts if p.item_id in replayed_ids)
    longest = max(max(map(len, ids)) - 1, 1)
    return Speed(
        n_items=len(batch), prompt_tokens=sum(len(p.ids) for p in prompts) / len(batch),
        image_tokens=float(np.mean([len(c) for c in covered])), prompt_s=seconds["prompt"],
        step_s=max(seconds["whole"] - seconds["prompt"], 0.0) / longest,
        replay_s_per_token=seconds["replay"] / n_replayed,
    )  # fmt: skip


def estimate(
    study: Study, vlm: VLM, speed: Speed, n_items: int, n_tokens: float, n_samples: int = 0
) -> dict[str, float]:
    """Return the hours and gigabytes that `n_items` more items of T = `n_tokens` cost; `limit_` at max_new_tokens.

    Generation: ((items + samples) / batch) (prompt_s + T step_s); samples are not replayed. Replay: items (prompt
    tokens + T) seconds per token. A trace is, before compression, 4 (3 + 8 G) T bytes for entropies and masses,
    4 G M T / 25 for the maps of steps of 25 tokens and 8 L H for the heads; G sets of heads, M image tokens.
    """
    config, n_sets = vlm.model.config.get_text_config(), len(HEAD_SETS)
    n_heads = config.num_hidden_layers * config.num_attention_heads
    maps = n_sets * speed.image_tokens * n_tokens / TOKENS_PER_STEP
    size = 4 * ((3 + len(REGIONS) * n_sets) * n_tokens + maps + 2 * n_heads)
    generate, limit = (
        (n_items + n_samples) / speed.n_items * (speed.prompt_s + n * speed.step_s) / 3600
        for n in (n_tokens, study.settings["max_new_tokens"])
    )
    replay = n_items * (speed.prompt_tokens + n_tokens) * speed.replay_s_per_token / 3600
    return {"generate_h": generate, "limit_generate_h": limit, "replay_h": replay, "disk_gb": n_items * size / 1e9}


def describe_costs(study: Study, load: Callable[[str], VLM]) -> Iterator[str]:
    """Yield a line for each model that has responses to write or to sample; it is loaded for the probe, then freed.

    `load` loads it. A response is expected to be as long as those that are there, else as the parameters say. Where a
    server generates, its speed is unknown here, and the hours of generation are those of this machine.
    """
    for model in study.settings["models"]:
        shards: dict[bool, list[Shard]] = {True: [], False: []}
        unsampled: list[Shard] = []
        for shard in study.shards(model):
            shards[study.response_file(shard).is_file()].append(shard)
            if shard.n_sampled and not study.sample_file(shard).is_file():
                unsampled.append(shard)
        if shards[False] or unsampled:
            lengths = [len(r.response_ids) for shard in shards[True] for r in study.read_responses(shard)]
            n_tokens = float(np.mean(lengths or [study.settings["expected_response_tokens"]]))
            line = probe_model(study, load(model), shards[False], unsampled, n_tokens)
            gc.collect()  # a model may be part of a cycle
            torch.cuda.empty_cache()
            yield line
    yield from describe_needs()


def describe_needs() -> Iterator[str]:
    """Yield the line that says how many items a benchmark the claims need, where their power has been simulated."""
    file = paths.figures("simulation") / "00_simulation.json"
    if file.is_file() and (power := read_json(file, "run `make simulate`").get("power")):
        known = {name: f"{row['n_at_80']:,.0f}" for name, row in power.items() if "n_at_80" in row}
        needed = ", ".join(f"{name} {known.get(name, 'more than was simulated')}" for name in power)
        yield f"items a benchmark at which a claim's smallest effect is found in 80 of 100 studies: {needed}"


def probe_model(
    study: Study, vlm: VLM, missing: Sequence[Shard], unsampled: Sequence[Shard], n_tokens: float
) -> str:  # fmt: skip
    """Return the line of one model: what its missing shards cost, or why that cannot be said."""
    n_items = sum(len(shard.items) for shard in missing)
    n_samples = study.settings["samples_per_item"] * sum(shard.n_sampled for shard in unsampled)
    left = f"{n_items} items{f' and {n_samples} samples' if n_samples else ''} left"
    try:
        first = (*missing, *unsampled)[0]
        speed = measure_speed(study, vlm.limit(study.image_tokens(first.benchmark)), first.items)
        cost = estimate(study, vlm, speed, n_items, n_tokens, n_samples)
    except NamedError as error:
        return f"{vlm.name}: {left}; what they cost is unknown: {error}"
    return (
        f"{vlm.name}: {left}, about {n_tokens:.0f} tokens each ({(n_items + n_samples) * n_tokens / 1e6:.2f} million); "
        f"generate {cost['generate_h']:.2f} h (at most {cost['limit_generate_h']:.2f}), "
        f"replay {cost['replay_h']:.2f} h, {cost['disk_gb']:.3f} GB of traces"
    )
