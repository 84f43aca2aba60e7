"""The causal study, shard by shard: responses under conditions, restated words, forced answers.

Why it exists: `attention.conditions` and `attention.sources` change one batch; a study has thousands of responses and
some twenty conditions, on several cores, with a cost known before they start, and none of it twice. In: a finished
extraction, and section `interventions` of the parameters. Out: a file for each shard and condition, named by a hash of
all that it depends on, and the tables of `schema.CAUSAL`. Never: choose a strength by accuracy (what is set is a mass,
on calibration items), or drop a response because it comes to no end under a condition.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dontblink import files, lineage, params, paths, schema, store
from dontblink.attention.conditions import (
    RAISED,
    Case,
    Choices,
    Condition,
    continue_responses,
    find_keys,
    hold_half,
    iterate_forced,
    measure_looks,
    plan_case,
    read_choices,
    replay_cases,
    take_batches,
)  # fmt: skip
from dontblink.attention.grounding import Grounding, select_grounding, weigh_heads
from dontblink.attention.intervention import Block, Intervention
from dontblink.attention.need import measure_need
from dontblink.attention.replay import REGIONS
from dontblink.attention.sources import Restated, find_sources, place_recall, see_sources
from dontblink.attention.traces import HEADS, place_evidence
from dontblink.errors import NamedError
from dontblink.extraction.run import Here, Task, share, start_worker
from dontblink.extraction.study import VERSIONS, Shard, Study, hash_code, read_shard
from dontblink.extraction.tables import read_bins
from dontblink.models.families import find_thinking
from dontblink.models.generate import encode_items, item_generator
from dontblink.models.spans import Spans
from dontblink.models.vlm import VLM, Prompt
from dontblink.questions import registry
from dontblink.questions.items import Item

MADE_BY = ("dontblink.attention.conditions", "dontblink.attention.sources", "dontblink.questions.registry")
BASELINE = Condition("empty", 0.0)
PROBED = 8  # responses that are changed for the estimate
OTHER_JOBS = {
    "recalls": "n_recall_items",
    "swaps": "n_recall_items",
    "forced": "n_forced_items",
    "heads": "n_head_items",
    "need": "n_need_items",
}
TABLES = {
    "recalls": "recalls", "swaps": "swaps", "forced": "forced", "heads": "head_losses", "strength": "strengths",
    "need": "needs",
}  # fmt: skip
MASSES = "evidence_mass", "control_box_mass", "visual_mass"  # of the manipulation check
Rows = list[dict[str, Any]]


class Effects:
    """The causal study of one profile."""

    def __init__(self, profile: str) -> None:
        self.study = Study(profile)
        self.settings = params.read_section(profile, "interventions")
        self.conditions = [Condition.parse(text) for text in self.settings["conditions"]]
        scores = filter(lineage.find_module, [self.study.question_settings["generator"]])  # and alters pictures
        self.code = hash_code((*MADE_BY, *scores), VERSIONS)
        self.budget, self.seed = self.study.settings["replay_batch_tokens"], self.settings["seed"]
        self.load = functools.lru_cache(maxsize=1)(self.study.load_model)
        self._held: dict[tuple[Any, ...], dict[str, Case]] = {}
        self._plain: list[Choices] | None = None  # of the cases that are held
        self._choosing: dict[tuple[str, str], Shard] = {}
        self._grids: dict[tuple[str, str], dict[Any, list[Item]]] = {}

    def vlm(self, shard: Shard) -> VLM:
        """Return a shard's model with the image budget of its benchmark."""
        return self.load(shard.model).limit(self.study.image_tokens(shard.benchmark))

    def jobs(self, shard: Shard) -> dict[str, int]:
        """Return what is to do with a shard, and with how many items of its benchmark and split."""
        if shard.split == "calibration":
            raises = any(condition.name in RAISED for condition in self.conditions)
            own = {"strength": self.settings["n_strength_items"]} if raises else {}
            own |= {"need": self.settings["n_need_items"]} if self.settings["fits_monitor"] else {}
            return own if shard.index == 0 else {}
        conditions = self.settings["conditions"]
        wanted = dict.fromkeys(["baseline", *conditions] if conditions else [], self.settings["n_items"])
        others = {job: self.settings[key] for job, key in OTHER_JOBS.items()}
        for key, job in (("head_counts", "heads"), ("forced_shares", "forced")):
            if not self.settings[key]:
                del others[job]
        if shard.benchmark in registry.REAL or shard.index:
            del others["swaps"]
        if shard.benchmark in registry.REAL:
            del others["recalls"]
        return {job: n_items for job, n_items in (wanted | others).items() if self.choose(shard, n_items)}

    def choose(self, shard: Shard, n_items: int) -> list[Item]:
        """Return the items of a shard that are among the first so many; of calibration shards all of these."""
        first = self.study.items[shard.benchmark, shard.split][:n_items]
        own = {item.id for item in shard.items}
        return first if shard.split == "calibration" else [item for item in first if item.id in own]

    def file(self, shard: Shard, job: str) -> Path:
        """Return where the rows of one job on a shard lie; the name holds all that they depend on."""
        others = ("n_items", "conditions", "fits_monitor", *(key for key in self.settings if key.startswith("n_")))
        others += ("need_share",) * (job != "need")
        own = {key: value for key, value in self.settings.items() if key not in others}
        items = [[item.content_hash, item.boxes_hash] for item in self.choose(shard, self.jobs(shard)[job])]
        grounding = self.study.grounding(shard.model)
        heads = [list(grounding.layers), [list(pair) for pair in grounding.heads]]
        key = store.shard_key(
            self.code, shard.response_key, shard.replay_key, job, items, own, heads, self.list_others(shard, job)
        )
        name = job.replace("@", "-from-").replace("_", "-")
        return paths.effects(self.study.profile) / shard.model / f"{shard.name}-{name}-{key}.parquet"

    def list_others(self, shard: Shard, job: str) -> list[str]:
        """Return what the rows of a job depend on besides the items of its shard: a strength, pictures, looks."""
        name = job.partition("@")[0]
        if name in RAISED:
            return [self.file(self.choosing_shard(shard), "strength").name]
        if name == "need" or name.startswith("other_"):
            return [item.prompt_hash for item in self.study.items[shard.benchmark, shard.split]]
        looks = self.study.choosing_shards(shard.model) if job == "heads" else []
        return [self.study.heads_file(look).name for look in looks]

    def choosing_shard(self, shard: Shard) -> Shard:
        """Return the first calibration shard of a shard's cell, with which the strength of its raises is kept."""
        cell = shard.model, shard.benchmark
        if cell not in self._choosing:
            own = self.study.shards(shard.model)
            self._choosing |= {(s.model, s.benchmark): s for s in own[::-1] if s.split == "calibration"}
        return self._choosing[cell]

    def find_cases(self, shard: Shard, n_items: int) -> dict[str, Case]:
        """Return a case for each response that has a reasoning and whose image tokens can be placed, by item id."""
        key = shard.model, shard.name, n_items
        if key not in self._held:
            self._held, self._plain = {key: self._build_cases(shard, n_items)}, None
        return self._held[key]

    def _build_cases(self, shard: Shard, n_items: int) -> dict[str, Case]:
        vlm, items = self.vlm(shard), {item.id: item for item in self.choose(shard, n_items)}
        same = [s for s in self.study.shards(shard.model) if (s.benchmark, s.split) == (shard.benchmark, shard.split)]
        responses = [
            r for own in (same if shard.split == "calibration" else [shard]) for r in self.study.read_responses(own)
        ]
        ids = {r.item_id: r.response_ids for r in responses if r.item_id in items and r.response_ids}
        found = {}
        for prompt in encode_items(vlm, [items[name] for name in ids], lambda *_: None):  # named by the extraction
            spans, item = vlm.segment(ids[prompt.item_id]), items[prompt.item_id]
            if spans.reasoning[1] > spans.reasoning[0] and not prompt.unplaced:
                placed = place_evidence(vlm, prompt, item, self.study.settings["control_seed"])
                other = self.find_other(vlm, shard, item, prompt)
                found[item.id] = Case(prompt, ids[item.id], spans, placed, other)
        looks = measure_looks(vlm, list(found.values()), self.weigh(shard)[1:2], budget=self.budget)
        return {
            name: replace(case, own=case.prompt.find_image(vlm.image_token_id)[0][hold_half(look.map[0])])
            for (name, case), look in zip(found.items(), looks, strict=True)
        }

    def find_other(self, vlm: VLM, shard: Shard, item: Item, prompt: Prompt) -> Prompt | None:
        """Return the prompt with the pictures of the next item, in a circle, whose pictures have the same grids.

        None where there is no other.
        """
        key = shard.model, f"{shard.benchmark} {shard.split}"
        if key not in self._grids:
            self._grids = {key: {}}
            for other in self.study.items[shard.benchmark, shard.split]:
                for own in encode_items(vlm, [other], lambda *_: None):
                    self._grids[key].setdefault(describe_pictures(vlm, own), []).append(other)
        alike = self._grids[key].get(describe_pictures(vlm, prompt), [])
        own_place = next((place for place, other in enumerate(alike) if other.id == item.id), None)
        if own_place is None or len(alike) < 2:
            return None
        shown = vlm.encode(replace(item, images=alike[(own_place + 1) % len(alike)].images))
        return shown if np.array_equal(shown.ids, prompt.ids) else None

    def weigh(self, shard: Shard) -> Any:
        """Return the weights of the sets of heads, float32 [4, L, H]."""
        config = self.load(shard.model).model.config.get_text_config(decoder=True)
        return weigh_heads(self.study.grounding(shard.model), config.num_hidden_layers, config.num_attention_heads)

    def do(self, shard: Shard, job: str) -> None:
        """Do one job on a shard and keep its rows."""
        n_items = self.jobs(shard)[job]
        own = {
            "recalls": self.trace_recalls, "swaps": self.swap, "forced": self.force, "heads": self.knock_out_heads,
            "need": self.find_needs,
        }  # fmt: skip
        if job == "strength":
            rows = self.find_strength(shard, n_items)
        else:
            rows = own[job](shard, n_items) if job in own else self.change(shard, n_items, job)
        name = TABLES.get(job, "effects")
        columns = pd.DataFrame(rows, columns=list(schema.CAUSAL[name]))
        schema.write_table(name, schema.to_table(name, columns), self.file(shard, job))

    def name(self, shard: Shard, item_id: str) -> dict[str, Any]:
        """Return the keys of a row."""
        return {"model": shard.model, "benchmark": shard.benchmark, "split": shard.split, "item_id": item_id}

    def score(self, shard: Shard, item: Item, ids: Sequence[int], vlm: VLM | None = None) -> dict[str, Any]:
        """Return what the strict scorer says of a response; of the shard's model, unless it was asked otherwise."""
        vlm = vlm or self.vlm(shard)
        spans, spoken = vlm.segment(ids), ids[:-1] if ids and ids[-1] in vlm.eos_ids else ids
        texts, generator = (
            (vlm.decode(spoken), vlm.decode(ids[slice(*spans.answer)])),
            self.study.question_settings["generator"],
        )
        found = registry.score(item, *texts, spans.closed, generator)["strict"]
        return {"correct": found.correct, "parsed": found.parsed, "prediction": found.prediction}

    def change(self, shard: Shard, n_items: int, job: str) -> Rows:
        """Return what becomes of every response under a condition, see `schema.CAUSAL`."""
        condition = BASELINE if job == "baseline" else Condition.parse(job)
        if condition.name == "no_reasoning":
            return self.ask_without_reasoning(shard, n_items)
        vlm, every = self.vlm(shard), self.find_cases(shard, n_items)
        if self._plain is None:
            self._plain = replay_cases(vlm, list(every.values()), BASELINE, budget=self.budget, seed=self.seed)
        kept = [pair for pair in zip(every.values(), self._plain, strict=True) if applies(pair[0], condition)]
        cases, plain = [case for case, _ in kept], [own for _, own in kept]
        how: dict[str, Any] = {"budget": self.budget, "seed": self.seed}
        how["nats"] = self.read_strength(shard) if condition.name in RAISED else 0.0
        most = self.study.settings["max_new_tokens"]
        texts, direct, under = [case.ids for case in cases], plain, plain
        if job != "baseline":
            texts = continue_responses(vlm, cases, condition, most_tokens=most, **how)
            under = replay_cases(vlm, cases, condition, texts=texts, **how)
        if job != "baseline" and condition.name != "other_prompt":
            direct = replay_cases(vlm, cases, condition, **how)
        masses = np.full((len(cases), 3), np.nan)
        if job == "baseline" or condition.name in RAISED:
            plan = functools.partial(plan_case, vlm, condition=condition, seed=self.seed, nats=how["nats"])
            masses = np.array(
                [self.mean_masses(shard, *pair) for pair in zip(cases, self.look(shard, cases, plan), strict=True)]
            )
        items, rows = {item.id: item for item in shard.items}, []
        for case, ids, own, before, after, mass in zip(cases, texts, direct, plain, under, masses, strict=True):
            item, losses = items[case.prompt.item_id], before.log_probability_nats - own.log_probability_nats
            answer, reasoning = slice(*case.spans.answer), slice(*case.spans.reasoning)
            is_direct = condition.name != "other_prompt"
            score, was = self.score(shard, item, ids), self.score(shard, item, case.ids)
            rows.append(self.name(shard, item.id) | score | {
                "condition": "baseline" if job == "baseline" else condition.name, "start_share": condition.start_share,
                "same_prediction": score["prediction"] == was["prediction"], "same_text": ids == case.ids,
                "n_response_tokens": len(ids), "full_entropy_nats": float(after.entropy_nats.mean(dtype=np.float64)),
                "finish_reason": "stop" if ids[-1] in vlm.eos_ids else "length",
                "answer_lost_nats": float(losses[answer].sum()) if is_direct else np.nan,
                "reasoning_lost_nats": float(losses[reasoning].sum()) if is_direct else np.nan,
                "answer_changed": bool(is_direct and (own.best[answer] != np.array(case.ids)[answer]).any()),
                **dict(zip(MASSES, mass, strict=True)),
            })  # fmt: skip
        return rows

    def ask_without_reasoning(self, shard: Shard, n_items: int) -> Rows:
        """Return the answers to the prompt without reasoning, of a model whose chat template has that switch."""
        vlm = self.vlm(shard)
        try:
            thinking = find_thinking(vlm.processor, vlm.family, False)
        except NamedError:  # it thinks whatever it is told
            return []
        if not vlm.thinks:
            return []
        quiet = replace(
            vlm,
            thinks=False,
            prompt_opens_think=thinking.prompt_opens_think,
            template_options=thinking.template_options,
        )
        items = {item.id: item for item in shard.items}
        cases = self.find_cases(shard, n_items)
        nothing = Spans((0, 0), (0, 0), (), True)
        asked = [
            replace(cases[prompt.item_id], prompt=prompt, spans=nothing)
            for prompt in encode_items(quiet, [items[name] for name in cases])
        ]
        most, begun = self.study.settings["max_new_tokens"], [()] * len(asked)
        how: dict[str, Any] = {"budget": self.budget, "seed": self.seed, "most_tokens": most, "begun": begun}
        rows = []
        for case, ids in zip(asked, continue_responses(quiet, asked, BASELINE, **how), strict=True):
            item = items[case.prompt.item_id]
            score, was = self.score(shard, item, ids, quiet), self.score(shard, item, case.ids)
            nan = ("full_entropy", "answer_lost", "reasoning_lost")
            rows.append(self.name(shard, item.id) | score | {
                "condition": "no_reasoning", "start_share": 0.0, "same_text": False, "answer_changed": False,
                "same_prediction": score["prediction"] == was["prediction"], "n_response_tokens": len(ids),
                "finish_reason": "stop" if ids[-1] in vlm.eos_ids else "length",
                **dict.fromkeys((*(f"{name}_nats" for name in nan), *MASSES), np.nan),
            })  # fmt: skip
        return rows

    def find_needs(self, shard: Shard, n_items: int) -> Rows:
        """Return how far the own answer of each response falls behind another picture, or why that is not known."""
        vlm, cases, reasons = self.vlm(shard), self.find_cases(shard, n_items), dict[str, str]()
        items, share = {item.id: item for item in self.choose(shard, n_items)}, self.settings["need_share"]
        for name in items:
            if name not in cases:
                reasons[name] = "no response, no reasoning in it, or no place of its image tokens is known"
            elif not cases[name].spans.closed or cases[name].spans.answer[1] <= cases[name].spans.answer[0]:
                reasons[name] = "no answer"
            elif cases[name].other is None:
                reasons[name] = "no other item has pictures of its grids"
        usable = [case for name, case in cases.items() if name not in reasons]
        how = {"most_tokens": self.study.settings["max_new_tokens"], "budget": self.budget, "seed": self.seed}
        found = dict(zip((c.prompt.item_id for c in usable), measure_need(vlm, usable, share, **how), strict=True))
        generator, rows = self.study.question_settings["generator"], []
        for name, item in items.items():
            need = found.get(name)
            own = self.score(shard, item, cases[name].ids if name in cases else ())
            other = self.score(shard, item, need.ids) if need else own
            rows.append(self.name(shard, name) | {
                "start_share": share, "level": registry.read_level(item, generator), "question": item.question,
                "task_type": item.task_type,
                "correct": own["correct"], "prediction": own["prediction"], "other_prediction": other["prediction"],
                "why_not": reasons.get(name, ""), "own_log_odds_nats": need.own_nats if need else np.nan,
                "other_log_odds_nats": need.other_nats if need else np.nan,
                "need_nats": need.need_nats if need else np.nan,
            })  # fmt: skip
        return rows

    def look(self, shard: Shard, cases: Sequence[Case], plan: Any = None) -> list[Any]:
        """Return the looks of the grounding layers at the own responses, under interventions where some are planned."""
        return measure_looks(self.vlm(shard), cases, self.weigh(shard)[:1], budget=self.budget, planned=plan)

    def mean_masses(self, shard: Shard, case: Case, look: Any) -> tuple[float, float, float]:
        """Return the mean mass on evidence, control box and image over the reasoning; NaN of boxes that lack."""
        mass = look.mass[0, slice(*case.spans.reasoning)].mean(0, dtype=np.float64)
        evidence, elsewhere, control = (
            float(mass[REGIONS.index(name)]) for name in ("evidence", "other_image", "control_box")
        )
        return (
            (evidence, control, evidence + elsewhere)
            if case.placed.coverage.any()
            else (np.nan, np.nan, evidence + elsewhere)
        )

    def find_strength(self, shard: Shard, n_items: int) -> Rows:
        """Return how far each bias lifts the evidence mass of calibration items, and the one that is set on the ratio.

        Between two that were tried by the line through them; the largest where none reaches it.
        """
        vlm, cases = self.vlm(shard), [c for c in self.find_cases(shard, n_items).values() if c.placed.coverage.any()]
        condition = Condition("raise_evidence", 0.0)

        def measure(nats: float) -> float:
            plan = functools.partial(plan_case, vlm, condition=condition, seed=self.seed, nats=nats)
            looks = self.look(shard, cases, plan)
            return sum(self.mean_masses(shard, *pair)[0] for pair in zip(cases, looks, strict=True))

        if not cases:
            return []
        plain, tried = measure(0.0), sorted(self.settings["strengths_nats"])
        ratios = [measure(nats) / plain for nats in tried]
        chosen = float(np.interp(self.settings["mass_ratio"], [1.0, *ratios], [0.0, *tried]))
        pairs = [*zip(tried, ratios, strict=True), (chosen, measure(chosen) / plain)]
        return [
            {"model": shard.model, "benchmark": shard.benchmark, "bias_nats": nats, "mass_ratio": ratio,
             "is_chosen": number == len(tried), "n_items": len(cases)}
            for number, (nats, ratio) in enumerate(pairs)
        ]  # fmt: skip

    def read_strength(self, shard: Shard) -> float:
        """Return the bias of a cell's raises; NamedError where no calibration item with evidence could choose it."""
        file = self.file(self.choosing_shard(shard), "strength")
        for row in store.read_table(file).to_pylist():
            if row["is_chosen"]:
                return float(row["bias_nats"])
        found = f"{shard.model} x {shard.benchmark}: no calibration item with evidence sets the strength of a raise"
        raise NamedError(f"{found}; leave raise_* out of interventions.conditions")

    def find_restated(self, shard: Shard, n_items: int) -> tuple[list[Restated], dict[str, str]]:
        """Return every word of one restatement of each response that is asked for one, and why others have none."""
        vlm, generator = self.vlm(shard), registry.load_generator(self.study.question_settings["generator"])
        items, found, reasons = {item.id: item for item in shard.items}, list[Restated](), dict[str, str]()
        for name, case in self.find_cases(shard, n_items).items():
            rng = item_generator(self.seed, name)
            recalls, reason = generator.find_recalls(
                items[name], vlm.token_texts(case.ids[: case.spans.reasoning[1]]), rng
            )
            placed = [own for recall in recalls if (own := place_recall(vlm, case, recall))]
            found += placed
            if reason or len(placed) < len(recalls):
                reasons[name] = reason or "the altered picture has another number of image tokens"
        return found, reasons

    def trace_recalls(self, shard: Shard, n_items: int) -> Rows:
        """Return where each restated word comes from."""
        vlm, (cases, reasons) = self.vlm(shard), self.find_restated(shard, n_items)
        sources = find_sources(vlm, cases, budget=self.budget)
        sights = see_sources(vlm, cases, self.weigh(shard)[0], budget=self.budget)
        rows = []
        for case, found, sight in zip(cases, sources, sights, strict=True):
            word = {
                "word": case.recall.kind,
                "own_word": case.recall.own_word,
                "altered_word": case.recall.altered_word,
            }
            shared = self.name(shard, case.prompt.item_id) | word | {"is_usable": True, "why_not": ""} | sight._asdict()
            for condition, source in found.items():
                odds, lost = source.altered_nats - source.own_nats, found["none"].own_nats - source.own_nats
                turns = {"turned": source.turned, "kept": source.kept, "log_odds_nats": odds, "lost_nats": lost}
                rows.append(shared | {"condition": condition} | turns)
        nothing = dict.fromkeys(("word", "own_word", "altered_word"), "") | {
            "condition": "none",
            "turned": False,
            "kept": False,
        }
        nothing |= dict.fromkeys(("log_odds_nats", "lost_nats", "cell_mass", "read_mass"), np.nan)
        return rows + [
            self.name(shard, name) | nothing | {"is_usable": False, "why_not": why} for name, why in reasons.items()
        ]

    def swap(self, shard: Shard, n_items: int) -> Rows:
        """Return, word by word, the first response with a restatement behind its own and behind an altered picture."""
        vlm, cases = self.vlm(shard), self.find_restated(shard, n_items)[0][:1]
        rows = []
        for case in cases:
            texts, places = [case.ids], [range(len(case.ids))]
            own, other = (
                read_choices(vlm, [case], texts, places, [[]], shown=[p])[0] for p in (case.prompt, case.altered)
            )
            words = {
                "word": case.recall.kind,
                "own_word": case.recall.own_word,
                "altered_word": case.recall.altered_word,
            }
            token_texts, best = vlm.token_texts(case.ids), vlm.token_texts(other.best.tolist())
            rows += [
                self.name(shard, case.prompt.item_id) | words | {
                    "token_index": t, "token_text": token_texts[t], "altered_text": best[t],
                    "log_probability_nats": own.log_probability_nats[t],
                    "altered_log_probability_nats": other.log_probability_nats[t],
                }
                for t in range(len(case.ids))
            ]  # fmt: skip
        return rows

    def force(self, shard: Shard, n_items: int) -> Rows:
        """Return the answers that are forced after each share of the reasoning."""
        vlm, items = self.vlm(shard), {item.id: item for item in shard.items}
        every = self.find_cases(shard, n_items).values()
        cases = [case for case in every if case.spans.closed and case.spans.answer[1] > case.spans.answer[0]]
        how = {"n_tokens": self.settings["forced_tokens"], "budget": self.budget, "seed": self.seed}
        rows = []
        for part, texts, format_mass in iterate_forced(vlm, cases, self.settings["forced_shares"], **how):
            rows += [
                self.name(shard, case.prompt.item_id) | self.score(shard, items[case.prompt.item_id], ids) | {
                    "reasoning_share": part, "format_mass": mass, "evidence_mass": np.nan,
                    "uniform_evidence_share": np.nan, "n_bins": 0,
                }
                for case, ids, mass in zip(cases, texts, format_mass, strict=True)
            ]  # fmt: skip
        return rows

    def knock_out_heads(self, shard: Shard, n_items: int) -> Rows:
        """Return what a response loses where some heads do not see the evidence: those of largest lift, and others."""
        vlm, cases = self.vlm(shard), [c for c in self.find_cases(shard, n_items).values() if c.placed.coverage.any()]
        n_layers, n_heads = self.weigh(shard).shape[1:]
        chosen: list[tuple[int, str, tuple[tuple[int, int], ...]]] = []
        every = tuple((layer, head) for layer in range(n_layers) for head in range(n_heads))
        for count in (count for count in self.settings["head_counts"] if count < len(every)):
            top = self.rank_heads(shard.model, count)
            rng, drawn = np.random.default_rng([self.seed, count]), list[tuple[int, int]]()
            for layer in sorted({layer for layer, _ in top}):
                rest = [pair for pair in every if pair[0] == layer and pair not in top]
                n_own = sum(pair[0] == layer for pair in top)
                drawn += [rest[place] for place in rng.permutation(len(rest))[:n_own]]
            chosen += [(count, "top", top)] + [(count, "random", tuple(drawn))] * (len(drawn) == count)
        plain = replay_cases(vlm, cases, BASELINE, budget=self.budget, seed=self.seed)
        rows = []
        for count, which, heads in [*chosen, (len(every), "all", every)]:
            losses = self.lose_heads(vlm, cases, plain, heads)
            rows += [
                self.name(shard, case.prompt.item_id) | {"n_heads": count, "chosen": which, "lost_nats": lost}
                for case, lost in zip(cases, losses, strict=True)
            ]
        return rows

    def rank_heads(self, model: str, count: int) -> tuple[tuple[int, int], ...]:
        """Return the heads of largest evidence lift on calibration items."""
        looks = [read_shard(self.study.heads_file(shard), HEADS) for shard in self.study.choosing_shards(model)]
        grounding: Grounding = select_grounding(pa.concat_tables(looks).unify_dictionaries().to_pandas(), 1, count)[
            model
        ]
        return grounding.heads

    def lose_heads(
        self, vlm: VLM, cases: Sequence[Case], plain: Sequence[Choices], heads: Sequence[tuple[int, int]]
    ) -> list[float]:
        """Return log p of reasoning and answer that is lost where these heads do not see the evidence, nats."""
        layers: dict[int, list[int]] = {}
        for layer, head in heads:
            layers.setdefault(layer, []).append(head)

        def read(part: Sequence[Case]) -> list[Choices]:
            planned = [
                [
                    Intervention(keys, Block(), case.row(case.start(0)), None, (layer,), tuple(own))
                    for layer, own in layers.items()
                ]
                for case in part
                for keys in [find_keys(vlm, case, "evidence", self.seed)]
            ]  # fmt: skip
            texts = [case.ids for case in part]
            return read_choices(vlm, part, texts, [range(len(text)) for text in texts], planned)

        found = take_batches(vlm, cases, [len(c.prompt.ids) + len(c.ids) for c in cases], self.budget, read)
        spans = [[slice(*case.spans.reasoning), slice(*case.spans.answer)] for case in cases]
        lost = [a.log_probability_nats - b.log_probability_nats for a, b in zip(plain, found, strict=True)]
        return [float(sum(nats[part].sum() for part in own)) for nats, own in zip(lost, spans, strict=True)]

    def estimate(self, shard: Shard, tasks: Sequence[tuple[Shard, str]], jobs: int) -> str:
        """Return how much is to do with a model and how long it takes, by a probe on the first responses of a shard."""
        vlm, cases = self.vlm(shard), list(self.find_cases(shard, PROBED).values())
        started, condition = time.monotonic(), Condition("image", 0.0)
        how = {"budget": self.budget, "seed": self.seed}
        continue_responses(vlm, cases, condition, most_tokens=self.study.settings["max_new_tokens"], **how)
        spent = (time.monotonic() - started) / max(len(cases), 1)
        sizes = {"forced": 2.0, "recalls": 5.0, "heads": 3.0, "swaps": 0.0, "strength": 4.0, "baseline": 0.5}
        sizes["need"] = 2.0
        n_whole = 0.0  # in responses that are written from the beginning; replays as parts of one
        for own, job in tasks:
            size = sizes[job] if job in sizes else 1.5 - Condition.parse(job).start_share
            n_whole += size * len(self.choose(own, self.jobs(own)[job]))
        self._held = {}
        hours = spent * n_whole / jobs / 3600
        work = f"{len(tasks)} shards of conditions, the work of {n_whole:.0f} responses"
        return f"{shard.model}: {work}, about {hours:.2f} h"

    def run(self, jobs: int) -> None:
        """Do what is not done yet, strengths first, and write the tables."""
        every = {model: self.study.shards(model) for model in self.study.settings["models"]}
        shards = {(shard.model, shard.name): shard for own in every.values() for shard in own}
        self.unpack(list(shards.values()))
        steps: list[list[Task]] = [[], []]
        for own in every.values():
            left = [(s, job) for s in own for job in self.jobs(s) if not self.file(s, job).is_file()]
            if left:
                print(f"estimate: {self.estimate(own[-1], left, jobs)}", flush=True)
            for shard, job in left:
                steps[shard.split != "calibration"].append(Task(job, shard))
        with ExitStack() as stack:
            workers = [stack.enter_context(start_worker() if jobs > 1 else Here()) for _ in range(jobs)]
            for tasks in steps:
                share(tasks, lambda task: (), workers, functools.partial(do_there, self.study.profile))
        self.collect(list(shards.values()))

    def unpack(self, shards: Sequence[Shard]) -> None:
        """Write the files that the tables hold and that are not there: a clone goes on where the tracked ones end."""
        wanted = {self.place(shard, job): self.file(shard, job) for shard in shards for job in self.jobs(shard)}
        for name in schema.CAUSAL:
            held = paths.causal(self.study.profile) / f"{name}.parquet"
            if not held.is_file():
                continue
            table, top = schema.check_table(name, store.read_table(held), held), 0
            for place, n_rows in json.loads(store.read_metadata(held).get("parts", "[]")):
                if place in wanted and not wanted[place].is_file():
                    schema.write_table(name, table.slice(top, n_rows).replace_schema_metadata(), wanted[place])
                top += n_rows

    def place(self, shard: Shard, job: str) -> str:
        """Return the name of a file below its folder, as the tables tell which of their rows are whose."""
        return self.file(shard, job).relative_to(paths.effects(self.study.profile)).as_posix()

    def collect(self, shards: Sequence[Shard]) -> None:
        """Write the tables of all shards, with the names of the files that their rows come from, in order."""
        found: dict[str, dict[str, pa.Table]] = {name: {} for name in schema.CAUSAL if name != "looks"}
        for shard, job in [(own, job) for own in shards for job in self.jobs(own)]:
            name, file = TABLES.get(job, "effects"), self.file(shard, job)
            found[name][self.place(shard, job)] = schema.check_table(name, store.read_table(file), file)
        if self.settings["fits_monitor"]:
            self.keep_looks()
        for name, parts in found.items():
            target = paths.causal(self.study.profile) / f"{name}.parquet"
            if not parts:  # nobody asks for it any more
                target.unlink(missing_ok=True)
                continue
            empty = schema.to_table(name, {column: [] for column in schema.CAUSAL[name]})
            table = pa.concat_tables([empty, *parts.values()]).unify_dictionaries().replace_schema_metadata()
            if name == "forced" and len(table):
                table = schema.to_table(name, self.add_masses(table.to_pandas()))
            made_of = json.dumps([(place, len(part)) for place, part in parts.items()])
            schema.write_table(name, table, target, code=self.code, parts=made_of)
            print(f"{paths.show(target)}: {len(table)} rows", flush=True)

    def keep_looks(self) -> None:
        """Write how sure each token is and how much it looks, mean of all heads, of items whose need is measured."""
        keys = [*schema.KEYS, "token_index"]
        columns = [*keys, "entropy_nats", "visual_mass", "head_set"]
        parts = schema.iterate_parts(self.study.profile, ["tokens", "token_masses"], columns)
        merged = [
            part["tokens"].merge(part["token_masses"].query("head_set == 'all_layers'"), on=keys, validate="1:1")
            for part in parts
        ]
        asked = {item.id for items in self.study.items.values() for item in items[: self.settings["n_need_items"]]}
        kept = [part[part["item_id"].isin(asked)] for part in merged]
        looks = pd.concat(kept).astype(dict.fromkeys(schema.KEYS, "str"))
        target = paths.causal(self.study.profile) / "looks.parquet"
        schema.write_table("looks", schema.to_table("looks", looks), target)
        print(f"{paths.show(target)}: {len(looks)} rows", flush=True)

    def add_masses(self, forced: pd.DataFrame) -> pd.DataFrame:
        """Return forced answers with the evidence mass of the part of the reasoning that ends where it is cut."""
        n_bins, keys = params.read_section(self.study.profile, "collapse")["bins"], [*schema.KEYS]
        masses = ["evidence_mass", "uniform_evidence_share"]
        bins = read_bins(self.study.profile, n_bins, split="test", head_set="grounding_layers")
        bins = bins[[*keys, "bin", *masses]].astype(dict.fromkeys(keys, "str"))
        rows = forced.drop(columns=masses).astype(dict.fromkeys(keys, "str")).assign(n_bins=n_bins)
        rows["bin"] = np.rint(rows["reasoning_share"] * n_bins).astype(int) - 1
        return rows.merge(bins, on=[*keys, "bin"], how="left", validate="m:1").drop(columns="bin")


def describe_pictures(vlm: VLM, prompt: Prompt) -> Any:
    """Return what the pictures of two prompts must have in common to stand for each other."""
    return prompt.shapes, tuple(() if prompt.unplaced else vlm.image_grid(prompt))


def applies(case: Case, condition: Condition) -> bool:
    """Return whether a response can be put under a condition: its evidence is known, another picture fits."""
    if condition.name.startswith("other_"):
        return case.other is not None
    return condition.name in ("empty", "image", "raise_own") or bool(case.placed.coverage.any())


_open = functools.cache(Effects)


def do_there(profile: str, task: Task) -> None:
    """Do one job in a worker, which keeps its model and its cases for the next one."""
    _open(profile).do(task.shard, task.stage)


def main() -> None:
    """Change the responses of a finished extraction, condition by condition, and write the causal tables."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.extraction causal", description=main.__doc__)
    parser.add_argument("--profile", default="testbed", help="which params/<profile>.yaml")
    parser.add_argument("--jobs", type=int, help="shards side by side (default: one per CPU core; 1 on a GPU)")
    arguments = parser.parse_args()
    effects = Effects(arguments.profile)
    on_cpu = effects.study.settings["device"] == "cpu"
    with files.hold(paths.lock(arguments.profile)):
        store.clean_leftovers(paths.effects(arguments.profile), older_than_s=0)
        store.recompute_damaged(lambda: effects.run(arguments.jobs or ((os.cpu_count() or 1) if on_cpu else 1)))
