"""Where a restated word comes from: the picture, the model's own text, or what its earlier rows have seen.

Why it exists: a knockout understates a use that has a backup: a word that survives may come from either source. Here
the sources are made to disagree. In: responses that say a word twice, where they read a thing and where they restate
it, and a picture in which this one word is another. Out: for each of the eight combinations of three factors,
teacher-forced, whether the restated word turns into the altered one,

- T, text: the own reading says the altered word,
- M, memory: the rows before the restatement have seen the altered picture,
- P, picture: the rows from the restatement on see it (its image tokens; question and text stay those of M),

and whether it is kept under each of `KNOCKOUTS` from the restatement on. Never: alter two words at once, or judge the
model's answer by this (the restated word alone is read).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dontblink.attention.capture import Sample, plan_recording, record
from dontblink.attention.conditions import Case, Keys, Planned, read_choices, take_batches
from dontblink.attention.intervention import Block, Donor, Intervention, Replace
from dontblink.attention.replay import Floats, read_tokens
from dontblink.models.vlm import VLM, Prompt
from dontblink.questions.items import Recall

FACTORS = ("none", "T", "M", "P", "TM", "TP", "MP", "TMP")
KNOCKOUTS = (
    "block_cell", "block_read", "block_both", "block_other_cell", "block_other_statement", "block_image",
)  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Restated(Case):
    """A response that restates a word: `recall`, and by place in the sequence what it may come from.

    `altered` is the prompt with the altered picture, `altered_id` the altered word; `image`, `cell`, `other_cell` are
    image tokens, `read` and `other_read` statements of the response, the latter empty where there is none.
    """

    recall: Recall
    altered: Prompt
    altered_id: int
    image: Keys
    cell: Keys
    other_cell: Keys
    read: Keys
    other_read: Keys

    @property
    def first(self) -> int:
        """The row that predicts the first token of the restatement."""
        return self.row(self.recall.recall[0])

    @property
    def edited(self) -> tuple[int, ...]:
        """The response with the altered word in its own reading."""
        place = self.recall.read_token
        return (*self.ids[:place], self.altered_id, *self.ids[place + 1 :])

    def knock_out(self, name: str) -> Keys:
        """Return what one of `KNOCKOUTS` hides."""
        return {
            "block_cell": self.cell, "block_read": self.read, "block_both": np.concatenate([self.cell, self.read]),
            "block_other_cell": self.other_cell, "block_other_statement": self.other_read, "block_image": self.image,
        }[name]  # fmt: skip


class Source(NamedTuple):
    """What becomes of the restated word: log p of the own and of the altered word, nats, and which is most probable."""

    own_nats: float
    altered_nats: float
    turned: bool
    kept: bool


class Sight(NamedTuple):
    """What the row that predicts the restated word looks at, by a set of heads: the cell, and the own reading."""

    cell_mass: float
    read_mass: float


def place_recall(vlm: VLM, case: Case, recall: Recall) -> Restated | None:
    """Return a case with a recall; None where the altered picture or word has another number of tokens."""
    altered, image = vlm.encode(recall.item), case.prompt.find_image(vlm.image_token_id)[0]
    word = vlm.tokenizer(recall.altered_word, add_special_tokens=False)["input_ids"]
    if not np.array_equal(altered.ids, case.prompt.ids) or len(word) != 1:
        return None
    cell, other_cell = (image[vlm.cover(case.prompt, [box]) > 0] for box in (recall.box, recall.other_box))
    read, other_read = (len(case.prompt.ids) + np.arange(*span) for span in (recall.read, recall.other or (0, 0)))
    return Restated(
        **vars(case), recall=recall, altered=altered, altered_id=word[0], image=image, cell=cell, other_cell=other_cell,
        read=read, other_read=other_read,
    )  # fmt: skip


def find_sources(vlm: VLM, cases: Sequence[Restated], *, budget: int) -> list[dict[str, Source]]:
    """Return what becomes of the restated word in each of `FACTORS`, and of `KNOCKOUTS` that hide something."""

    def read(part: Sequence[Restated]) -> list[dict[str, Source]]:
        found: list[dict[str, Source]] = [{} for _ in part]
        pictures = [case.prompt for case in part], [case.altered for case in part]
        for text, edits in (("", False), ("T", True)):
            texts = [case.edited if edits else case.ids for case in part]
            donors = Donor(), Donor()
            for shown, donor, name in zip(pictures, donors, (text, f"{text}MP"), strict=True):
                note(found, name or "none", read_words(vlm, part, texts, shown=shown, donor=donor))
            for shown, donor, name in zip(pictures, donors[::-1], (f"{text}P", f"{text}M"), strict=True):
                planned = [[Intervention(case.image, Replace(donor), case.first)] for case in part]
                note(found, name, read_words(vlm, part, texts, planned, shown=shown))
        for name in KNOCKOUTS:
            planned = [[Intervention(case.knock_out(name), Block(), case.first)] for case in part]
            hidden = [own if len(case.knock_out(name)) else {} for own, case in zip(found, part, strict=True)]
            note(hidden, name, read_words(vlm, part, [case.ids for case in part], planned))
        return found

    return take_batches(vlm, cases, [len(case.prompt.ids) + len(case.ids) for case in cases], budget, read)


def note(found: Sequence[dict[str, Source]], name: str, sources: Sequence[Source]) -> None:
    """Put down what became of each word under one name."""
    for own, source in zip(found, sources, strict=True):
        own[name] = source


def read_words(
    vlm: VLM, part: Sequence[Restated], texts: Sequence[Sequence[int]], planned: Sequence[Planned] | None = None, *,
    shown: Sequence[Prompt] | None = None, donor: Donor | None = None,
) -> list[Source]:  # fmt: skip
    """Return what becomes of the restated word of each case of a batch."""
    places, words = [[case.recall.recall_token] for case in part], [[case.altered_id] for case in part]
    nothing: list[Planned] = [[] for _ in part]
    choices = read_choices(vlm, part, texts, places, planned or nothing, words, shown=shown, donor=donor)
    return [
        Source(
            float(choice.log_probability_nats[0]), float(choice.others_nats[0, 0]),
            int(choice.best[0]) == case.altered_id, int(choice.best[0]) == case.ids[case.recall.recall_token],
        )
        for case, choice in zip(part, choices, strict=True)
    ]  # fmt: skip


def see_sources(vlm: VLM, cases: Sequence[Restated], head_set: Floats, *, budget: int) -> list[Sight]:
    """Return what the row that predicts each restated word looks at; weights of heads float32 [L, H]."""

    def look(part: Sequence[Restated]) -> list[Sight]:
        samples = []
        for case in part:
            weights = np.zeros((len(case.prompt.ids) + len(case.ids), 3), np.float32)  # the last: what no key gets
            weights[case.cell, 0], weights[case.read, 1] = 1, 1
            samples.append(Sample(weights, case.row(case.recall.recall_token), 1, case.cell, ((0, 1),)))
        longest = max(len(sample.weights) for sample in samples)
        with record(vlm.model, plan_recording(samples, longest, head_set[None])) as recording:
            read_tokens(vlm, [case.prompt for case in part], [case.ids for case in part])
        masses = (np.einsum("lh,lhr->r", head_set, recording.read(place)[0][:, :, 0]) for place in range(len(part)))
        return [Sight(float(mass[0]), float(mass[1])) for mass in masses]

    return take_batches(vlm, cases, [len(case.prompt.ids) + len(case.ids) for case in cases], budget, look)
