"""The testbed's word-level vocabulary and the tokenizer, processor settings and chat template of each family.

In: nothing. Out: tokenizers with the special tokens and the conversation format of the real model families (Qwen3-VL
opens `<think>` in the prompt; GLM writes it itself and boxes its answer), small enough to train on a CPU. Training
and measurement must use this one definition, so that a checkpoint never sees a prompt that it was not trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dontblink_testbed.questions import OPERATORS, OPTION_LETTERS
from dontblink_testbed.scenes import ARROWS, CELLS, COLOURS, DIGITS, SHAPES
from dontblink_testbed.stand_in import SPECIAL_TOKENS, wrap_tokens

WORDS = (
    *DIGITS, *OPERATORS, *OPTION_LETTERS, *CELLS, *COLOURS, *SHAPES, *ARROWS,
    "empty", "is", "was", "match", "differ", "yes", "no", "done", "compute", "follow", "there", "at", "and",
    "recall", "describe", "look", "walk", "scan", ".", "?", ";", "user", "assistant", "unknown",
)  # fmt: skip


@dataclass(frozen=True)
class Format:
    """The conversation format of one model family, in whitespace-separated tokens."""

    before_image: str
    after_image: str
    before_response: str
    opens_thinking: str
    before_answer: str
    after_answer: str
    chat_template: str


_QWEN_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
<think>
{%- endif -%}"""

_GLM_TEMPLATE = """\
[gMASK]<sop>
{%- for message in messages -%}
<|{{ message['role'] }}|>
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<|begin_of_image|><|image|><|end_of_image|>{%- else -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>
{% endif -%}"""

FORMATS = {
    "qwen3_vl": Format(
        before_image="<|im_start|> user <|vision_start|>", after_image="<|vision_end|>",
        before_response="<|im_end|> <|im_start|> assistant <think>", opens_thinking="",
        before_answer="", after_answer="<|im_end|>", chat_template=_QWEN_TEMPLATE,
    ),
    "glm4v": Format(
        before_image="[gMASK] <sop> <|user|> <|begin_of_image|>", after_image="<|end_of_image|>",
        before_response="<|assistant|>", opens_thinking="<think>",
        before_answer="<|begin_of_box|>", after_answer="<|end_of_box|> <|endoftext|>", chat_template=_GLM_TEMPLATE,
    ),
}  # fmt: skip


@lru_cache(maxsize=2)
def token_ids(family: str) -> dict[str, int]:
    """Return the id of every token of a family: special tokens first, then the shared words."""
    return {token: index for index, token in enumerate((*SPECIAL_TOKENS[family].all, *WORDS))}


def encode_words(family: str, text: str) -> list[int]:
    """Return the ids of whitespace-separated words; KeyError names a word outside the vocabulary."""
    ids = token_ids(family)
    return [ids[word] for word in text.split()]


def prompt_words(family: str, question: str, n_image_tokens: int) -> str:
    """Return the prompt as words; without an image (0 tokens) the image markers are left out too."""
    form = FORMATS[family]
    image = " ".join([SPECIAL_TOKENS[family].image] * n_image_tokens)
    if n_image_tokens:
        return f"{form.before_image} {image} {form.after_image} {question} {form.before_response}"
    before = " ".join(form.before_image.split()[:-1])
    return f"{before} {question} {form.before_response}"


def response_words(family: str, reasoning: str, answer: str) -> str:
    """Return the full response as words: the chain of thought, the answer, and the family's markers."""
    form = FORMATS[family]
    return f"{form.opens_thinking} {reasoning} </think> {form.before_answer} {answer} {form.after_answer}"


def build_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Build the family's tokenizer: words split at white space, special tokens never split or normalised."""
    words = Tokenizer(models.WordLevel(token_ids(family), unk_token="unknown"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return wrap_tokens(words, family, FORMATS[family].chat_template, unk_token="unknown")
