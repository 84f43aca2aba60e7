"""One rank of a tensor-parallel run: what it measures of a tiny checkpoint, written by rank 0 for test_split_models.

Called by torchrun with a checkpoint folder, a plan ("auto" or JSON), and a file for the result: the masses, maps and
entropies that every rank has gathered, or the first line of the refusal.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from tiny_models import draw_prompt, draw_response
from transformers import AutoModelForImageTextToText
from transformers.distributed import DistributedConfig

from dontblink.attention.replay import replay_responses
from dontblink.attention.watching import watch_generation
from dontblink.errors import NamedError
from dontblink.models.checkpoints import load_processor
from dontblink.models.vlm import VLM, describe_model

N_TOKENS = 6


def measure(vlm: VLM) -> dict[str, Any]:
    """Return what replay and watch find on one prompt, whole arrays."""
    rng = np.random.default_rng(0)
    prompt, response = draw_prompt(rng, "item"), draw_response(rng, N_TOKENS)
    covered = [np.linspace(0, 1, 12, dtype=np.float32)]
    steps = [[(0, 2), (2, N_TOKENS)]]
    (replayed,) = replay_responses(vlm, [prompt], [response], coverage=covered, control=covered, steps=steps)
    inputs = vlm.collate([prompt], side="left")
    n_prompt = len(prompt.ids)
    weights = torch.eye(n_prompt + 1)[None]  # each key a region
    options = {"max_new_tokens": N_TOKENS, "min_new_tokens": N_TOKENS, "do_sample": False}
    with watch_generation(vlm.model, weights) as watching:
        output = vlm.model.generate(**inputs, **options, suppress_tokens=[*vlm.suppressed_ids])
    watching.take_tokens(output[:, -1])
    watched = watching.read(0, N_TOKENS, np.arange(n_prompt))
    found = {f"replay_{name}": getattr(replayed, name) for name in ("mass", "step_map", "entropy_nats")}
    found |= {f"watch_{name}": array for name, array in watched.items()}
    return {name: np.ascontiguousarray(array) for name, array in found.items()} | {"ids": output.numpy()}


def main() -> None:
    """Load the checkpoint over all ranks and measure."""
    folder, plan, target = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    config = DistributedConfig(tp_size=2, tp_plan=plan if plan == "auto" else json.loads(plan))
    try:
        model = AutoModelForImageTextToText.from_pretrained(folder, distributed_config=config).eval()
        save_file(measure(describe_model(model, load_processor(folder))), target.with_suffix(f".{rank}"))
    except (NamedError, ValueError) as error:
        target.with_suffix(f".{rank}").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
