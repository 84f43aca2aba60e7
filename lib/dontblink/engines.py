"""Who writes the responses: the local engine, or a server elsewhere.

In: a study's settings and items. Out: loaded models and the responses of a shard. Never: measure anything.
"""

from __future__ import annotations

from collections.abc import Callable

from dontblink import params, paths
from dontblink.generate import Response, generate_responses
from dontblink.loading import load_vlm
from dontblink.server import generate_on_server
from dontblink.study import Shard, Study
from dontblink.vlm import VLM


def load_model(study: Study, model: str, *, weights: bool = True) -> VLM:
    """Return a model of the study as its parameters say; without weights it still prompts, decodes and cuts spans."""
    s = study.settings
    return load_vlm(
        study.checkpoint(model), name=model, device=s["device"], dtype=s["dtype"], attention=s["attention"],
        thinking=s["thinking"] == "enabled", max_image_tokens=s["max_image_tokens"], weights=weights,
    )  # fmt: skip


def generate_shard(study: Study, vlm: VLM, shard: Shard, quarantine: Callable[[str, str], None]) -> list[Response]:
    """Return the responses of one shard; `quarantine` gets (item id, reason) for an item that has none."""
    s = study.settings
    sampling = {key: s[key] for key in ("max_new_tokens", "temperature", "top_p", "top_k")}
    if s["engine"] == "local":
        found = generate_responses(
            vlm, shard.items, **sampling, batch_size=s["batch_size"], seed=s["generation_seed"], progress=False,
            quarantine=quarantine,
        )  # fmt: skip
    else:
        server = params.read_section(study.profile, "server")
        stated = paths.ROOT / server.pop("fingerprints_folder") / f"{shard.model}.json"
        is_unverified = server.pop("verification") == "skip"
        found = generate_on_server(
            vlm, shard.items, **sampling, **server, seed=s["generation_seed"], progress=False, quarantine=quarantine,
            retokenise=s["retokenised"] != "refuse", checkpoint=study.checkpoint(shard.model), unverified=is_unverified,
            server_fingerprint=None if is_unverified else stated,
        )  # fmt: skip
    return list(found)
