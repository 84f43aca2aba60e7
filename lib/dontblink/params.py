"""Parameters: what each may hold and means, and params/<profile>.yaml read strictly into one JSON a section.

Why it exists: a reviewer may change any number in params/, and a wrong one must stop before anything runs. YAML
forgives too much for that: a misspelt key would be ignored, and to PyYAML `010` is 8, `1:30` is 90, `1e-3` is text and
`no` a truth value; each would change a result in silence. In: a YAML file, and values of the command line (`make all
SET=...`), which pass the same checks; `read_yaml` reads the paper's rules as strictly. Out: one JSON a section under
results/<profile>/params, written only if its content changed, so that make reruns what depends on an edited key and
nothing else. Never: a value or a default here, they stand in the YAML files.

To add a key: one line in its section's model and one in params/testbed.yaml; a file that says `based_on: testbed` holds
only what differs from it.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dontblink import paths
from dontblink.errors import NamedError
from dontblink.files import read_json, write_text

SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxlong = SHORT.maxother = 80
SHORT.maxlist = SHORT.maxdict = 20
PLAIN = {  # unquoted values of YAML 1.2, less whole numbers that begin with a nought: octal in 1.1
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
Sections = dict[str, dict[str, Any]]
Entry = TypeVar("Entry")


def refuse_repetition(entries: list[Entry]) -> list[Entry]:
    """Return a list of different entries."""
    if len({str(entry) for entry in entries}) < len(entries):
        raise ValueError("remove the repetition")
    return entries


def refuse_disorder(entries: list[Any]) -> list[Any]:
    """Return an inclusive range [low, high]."""
    if len(entries) != 2 or entries[0] > entries[1]:
        raise ValueError("give two entries, the smaller first")
    return entries


# no seed and no count needs more than 64 bits, and a whole number of 400 digits is no float either
Whole = Annotated[int, Field(lt=2**63)]  # its lower bound stands with the key: an own one would win over that
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(ge=1, lt=2**63)]
Real = Annotated[float, Field(lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Coverage = Annotated[float, Field(ge=0.01, le=1)]
ChainLength = Annotated[int, Field(ge=1, le=12)]
Line = Annotated[str, Field(pattern=r"^.*$")]
Source = Annotated[str, Field(pattern=r"^.+$")]
Word = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]  # a folder's or a file's, never a way out of one
Several = Annotated[list[Entry], Field(min_length=1), AfterValidator(refuse_repetition)]
Span = Annotated[list[Entry], AfterValidator(refuse_disorder)]
Module = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")]
Device = Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]+)?|mps|auto)$")]
TaskRule = Annotated[str, Field(pattern=r"^[a-z_]+\..+:[a-z_]+$")]
Budget = Annotated[str, Field(pattern=r"^[a-z0-9_]+:[1-9][0-9]{0,5}$")]
Cause = Annotated[str, Field(pattern=r"^[a-z_]+@(0(\.[0-9]+)?|1)$")]
Interval = Literal["t", "bca", "percentile"]


class Section(BaseModel):
    """Parameters that belong together: every key is required, no other is known, no type is converted."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Testbed(Section):
    """00: the procedural question sets, regenerated from the seed."""

    item_seed: Seed = Field(description="seed of every picture and question")
    n_test_items: Count = Field(description="per benchmark; the items behind every result")
    n_calibration_items: Count = Field(description="disjoint: chooses heads and thresholds, fits the rules of 03")
    n_example_items: Count = Field(description="per benchmark, shown as pictures")
    symbolic_chain_length: Span[ChainLength] = Field(description="compound steps")
    symbolic_noise_level: Span[Share] = Field(description="0 clean, 1 heavy")
    symbolic_operators_per_step: Span[Annotated[int, Field(ge=1, le=4)]] = Field(description="joined in one step")
    visual_reference_chain_length: Span[ChainLength] = Field(description="hops")
    visual_reference_noise_level: Span[Share] = Field(description="0 clean, 1 heavy")
    hallucination_chain_length: Span[ChainLength] = Field(description="conjuncts")
    hallucination_noise_level: Span[Share] = Field(description="0 clean, 1 heavy")
    hallucination_typical_share: Share = Field(description="decisive shapes in their typical colour (0.9 in training)")


class Extraction(Section):
    """`make extract` and 01: responses, then one replay that measures attention and entropy."""

    models: Several[Name] = Field(description="a folder of checkpoints_folder each")
    checkpoints_folder: Source = Field(description="one folder a model, as downloaded")
    benchmarks: Several[Word] = Field(description="question sets that every model answers")
    engine: Literal["local", "server"] = Field(description="who writes the responses; server: see that section")
    attention: Literal["sdpa", "flash_attention_2"] = Field(description="implementation of attention in generation")
    thinking: Literal["enabled", "disabled"] = Field(description="where the chat template has the switch")
    max_image_tokens: Count = Field(description="picture size: at most so many image tokens")
    image_budgets: Annotated[list[Budget], AfterValidator(refuse_repetition)] = Field(
        description="benchmark:tokens, in place of max_image_tokens"
    )
    retokenised: Literal["refuse", "leave_out", "keep"] = Field(description="text without token ids; left out: marked")
    expected_response_tokens: Count = Field(description="until responses are there: for the cost estimate")
    max_new_tokens: Count = Field(description="length at which a response is cut off")
    batch_size: Count = Field(description="items generated together")
    temperature: Real = Field(ge=0, description="of sampling; 0 is greedy")
    top_p: float = Field(gt=0, le=1, description="of sampling; 1 keeps every token")
    top_k: Whole = Field(ge=0, description="of sampling; 0 keeps every token")
    generation_seed: Seed = Field(description="draws sampled responses, and all where temperature > 0")
    n_sampled_items: Whole = Field(ge=0, description="first test items of a benchmark that are asked again; 0: none")
    samples_per_item: Count = Field(description="responses sampled at temperature 1 for each of them")
    device: Device = Field(description="auto spreads one model over several GPUs")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(description="of the weights")
    replay_implementation: Literal["split", "generic"] = Field(
        description="generic is the family's own eager attention: slower, and the independent cross-check"
    )
    replay_batch_tokens: Count = Field(description="prompt + response tokens replayed together")
    shard_items: Count = Field(description="items a file; what a crash can lose")
    control_seed: Seed = Field(description="draws the equal-area control boxes")
    grounding_source: Word = Field(description="whose calibration items choose the grounding; all: of the tested")
    grounding_layers: Count = Field(description="layers with the largest evidence lift on the calibration split")
    grounding_heads: Count = Field(description="heads with the largest evidence lift on the calibration split")
    sink_rule: Literal["first", "border"] = Field(description="image tokens that the sink-masked variant drops")
    n_cross_checked_items: Count = Field(description="per model, replayed again with the other implementation")


class Questions(Section):
    """The questions of the real benchmarks; the testbed makes its own (section testbed)."""

    generator: Module = Field(description="makes the benchmarks without a source")
    mathvista_source: Source = Field(description="hub id, or a local folder or file")
    mathvista_revision: Source = Field(description="commit of the hub; the manifest says which one main was")
    mathvista_config: Line = Field(description="configuration of the data set")
    mmmu_pro_source: Source = Field(description="hub id, or a local folder or file")
    mmmu_pro_revision: Source = Field(description="commit of the hub; the manifest says which one main was")
    mmmu_pro_config: Line = Field(description="configuration of the data set")
    hallusionbench_source: Source = Field(description="hub id, or a local folder or file")
    hallusionbench_revision: Source = Field(description="commit of the hub; the manifest says which one main was")
    hallusionbench_config: Line = Field(description="configuration of the data set")
    treebench_source: Source = Field(description="hub id, or a local folder or file")
    treebench_revision: Source = Field(description="commit of the hub; the manifest says which one main was")
    treebench_config: Line = Field(description="configuration of the data set")
    gqa_source: Source = Field(description="hub id, or a local folder or file")
    gqa_revision: Source = Field(description="commit of the hub; the manifest says which one main was")
    gqa_config: Line = Field(description="where val_sceneGraphs.json lies")
    refchartqa_source: Source = Field(description="hub id, or a local folder or file")
    refchartqa_revision: Source = Field(description="commit of the hub; the manifest says which one main was")
    refchartqa_config: Line = Field(description="configuration of the data set")
    vstar_source: Source = Field(description="hub id, or a local folder or file")
    vstar_revision: Source = Field(description="commit of the hub; the manifest says which one main was")
    vstar_config: Line = Field(description="configuration of the data set")
    mathvista_annotated_source: Source = Field(description="hub id, or a local folder or file")
    mathvista_annotated_revision: Source = Field(description="commit of the hub; the manifest says which one main was")
    mathvista_annotated_config: Line = Field(description="where annot_testmini.json lies")
    visual_cot_source: Source = Field(description="hub id, or a local folder or file")
    visual_cot_revision: Source = Field(description="commit of the hub; the manifest says which one main was")
    visual_cot_config: Line = Field(description="one subset, or default: all")
    n_test_items: Count = Field(description="per benchmark, balanced over its strata")
    n_calibration_items: Count = Field(description="per benchmark, sharing no picture with the test")
    subset_seed: Seed = Field(description="draws the items")
    task_types: Several[TaskRule] = Field(description="benchmark.field=value:task_type; first match wins; *: all")
    evidence_folder: Source = Field(description="<benchmark>.jsonl of evidence boxes, see its README")


class Server(Section):
    """An OpenAI-compatible server that returns token ids (extraction.engine: server)."""

    url: Annotated[str, Field(pattern=r"^https?://\S+$")] = Field(description="base address, with its version")
    fingerprints_folder: Source = Field(description="<model>.json, written where the server runs")
    verification: Literal["required", "skip"] = Field(description="skip: its weights are not known; responses say so")
    concurrent_requests: Count = Field(description="requests under way at a time")
    requests_per_minute: Count = Field(description="requests begun within a minute")
    timeout_s: Real = Field(ge=1, description="of one response, in seconds")
    retries: Whole = Field(ge=0, description="after a refused connection, a time-out, 429 or 5xx")


class Measures(Section):
    """03 to 05: which definition of a measure, and which items, the studies take; one place, so that they agree."""

    entropy_support: Literal["full", "top20"] = Field(
        description="of a token's entropy: the whole vocabulary (exact), or its 20 most probable tokens renormalised"
    )
    items: Literal["all", "boxed"] = Field(
        description="that are judged: all (without the oracles where an item has no boxes), or those with boxes alone"
    )


class Occlusion(Section):
    """`make evidence`: which image tokens correct responses of annotator models were read from."""

    annotators: Several[Name] = Field(description="models of this study; each is left out where it is studied itself")
    n_items: Count = Field(description="the first so many test items of each benchmark; the correct ones are read")
    regions_across: Several[Count] = Field(description="the longer side of a picture; the first size makes proposals")
    most_refined: Count = Field(description="image tokens that are covered alone after the regions")
    held_share: Share = Field(description="of the sum of drops, that the evidence holds")
    least_drop_nats: Real = Field(ge=0, description="of each image token of the evidence")
    needed_share: Share = Field(description="of the whole picture's drop, that the evidence covered costs at least")
    enough_share: Share = Field(description="of it, that all but the evidence covered costs at most")
    seed: Seed = Field(description="places the random control")
    least_auc: Share = Field(description="acceptance: of the drops against known boxes, in every cell")
    least_iou: Share = Field(description="acceptance: of the evidence and known boxes")
    most_difference: Share = Field(description="acceptance: holds the interval of recovered less true collapse")


class Interventions(Section):
    """`make causal`: responses whose looks are taken away, replaced and kept up."""

    n_items: Count = Field(description="the first so many test items of each benchmark")
    conditions: Annotated[list[Cause], AfterValidator(refuse_repetition)] = Field(
        description="name@share: what is changed, from which share of the own reasoning on; 1 is the answer"
    )
    mass_ratio: float = Field(gt=1, le=4, description="to which a raise lifts the evidence mass of calibration items")
    strengths_nats: Several[Real] = Field(description="biases that are tried for it")
    n_strength_items: Count = Field(description="calibration items of each benchmark that choose the bias")
    n_recall_items: Whole = Field(ge=0, description="test items whose restated words are traced; 0: none")
    head_counts: Annotated[list[Count], AfterValidator(refuse_repetition)] = Field(
        description="heads in which the evidence is blocked, those of largest lift and random ones"
    )
    n_head_items: Count = Field(description="test items for these")
    forced_shares: Annotated[list[Share], AfterValidator(refuse_repetition)] = Field(
        description="shares of the own reasoning behind which an answer is forced"
    )
    n_forced_items: Count = Field(description="test items for these")
    forced_tokens: Count = Field(description="tokens that a forced answer may take")
    need_share: Share = Field(description="of the own reasoning, from which on another picture tells an answer's need")
    n_need_items: Count = Field(description="test items whose need for the picture is measured")
    fits_monitor: bool = Field(description="and calibration items; the signals of every token are kept beside")
    seed: Seed = Field(description="draws random regions, heads and altered words")


class Collapse(Section):
    """02: does attention to the evidence collapse while the model reasons?"""

    bins: Whole = Field(ge=2, description="equal parts of the reasoning span")
    bootstrap_replicates: Count = Field(description="of the collapse table")
    band_replicates: Count = Field(description="of the bands of curves, and of strata")
    interval: Interval = Field(description="of the tables; t is the symmetric bootstrap-t, see `make simulate`")
    confidence_level: OpenShare = Field(description="of every interval")
    bootstrap_seed: Seed = Field(description="draws items with replacement")
    min_items: Whole = Field(ge=10, description="a smaller cell or stratum keeps its counts and gets no estimate")
    shuffled_deals: Count = Field(description="permutations of the boxes between items (negative control)")
    picture_model: Name = Field(description="whose look is drawn")
    picture_benchmark: Word = Field(description="whose items are drawn")
    picture_quantiles: Span[Share] = Field(description="of the per-item collapse: one sustained, one collapsing item")


class Entropy(Section):
    """03: does entropy separate correct from wrong answers, and does a rule carry over to another benchmark?"""

    bootstrap_replicates: Count = Field(description="of items drawn with replacement")
    transfer_replicates: Count = Field(description="test items resampled, the fit held")
    refit_replicates: Count = Field(description="both benchmarks resampled, the rule fitted again")
    confidence_level: OpenShare = Field(description="of every interval")
    bootstrap_seed: Seed = Field(description="draws items with replacement")
    min_items: Whole = Field(ge=10, description="a smaller cell keeps its counts and gets no estimate")
    min_class_items: Whole = Field(ge=2, description="the same for fewer correct or fewer wrong answers")
    covariates: Several[Word] = Field(description="taken out in the adjusted tables")
    reliability_bins: Whole = Field(ge=2, description="of the reliability curves and calibration errors")
    shuffled_deals: Whole = Field(
        ge=2, description="permutations of the labels within a cell; draws of calibrated labels (negative controls)"
    )
    excess_replicates: Count = Field(description="both benchmarks resampled, rule and dealt rules fitted again")
    vision_deals: Whole = Field(ge=2, description="permutations of vision within a cell, each refitted")


class Interaction(Section):
    """04: does low vision change what low entropy means?"""

    bootstrap_replicates: Count = Field(description="of items drawn with replacement")
    light_replicates: Count = Field(description="of hazards by scope, and of the link within responses")
    interval: Interval = Field(description="of the tables; t is the symmetric bootstrap-t, see `make simulate`")
    confidence_level: OpenShare = Field(description="of every interval")
    bootstrap_seed: Seed = Field(description="draws items with replacement")
    min_items: Whole = Field(ge=10, description="a smaller cell keeps its counts and gets no estimate")
    covariates: Several[Word] = Field(description="taken out in the adjusted tables")
    visual_type: Word = Field(description="task type of which the claim says that low vision is a hazard")
    symbolic_type: Word = Field(description="task type of which it says that vision hardly matters")
    equivalence_margin: float = Field(gt=0, lt=5, description="log-odds: a smaller b_EV is called near zero")
    effect_at: float = Field(gt=0, lt=4, description="standard deviations, of entropy and of vision")
    quadrant_share: float = Field(ge=0.01, le=0.5, description="share of a cell that is called low; the rest is high")
    extreme_share: float = Field(ge=0.01, le=0.5, description="the same for the extreme quadrants")
    surface_reach: float = Field(gt=0, lt=4, description="standard deviations that the surface shows")
    surface_min_rows: Count = Field(description="answers within a quarter of a standard deviation; fewer: hatched")
    shuffled_deals: Whole = Field(
        ge=20, description="permutations of labels, and of vision, within a cell (negative controls)"
    )
    specification_deals: Whole = Field(ge=20, description="permutations of vision of every kind, whole curves each")


class Veto(Section):
    """05: does withholding confident but blind answers make the rest safer?"""

    coverage: Coverage = Field(description="share of the answers that a rule accepts")
    curve_coverages: Several[Coverage] = Field(description="shares at which the curves are drawn")
    targets: Several[Word] = Field(description="task types that the veto is for, declared beforehand")
    vision: Literal["image", "cumulative image"] = Field(description="the declared one; a monitor has no boxes")
    splits: Count = Field(description="repeated divisions by item: fit on one part, judge on the other")
    fit_share: OpenShare = Field(description="share of the items that a split fits on")
    veto_shares: Count = Field(description="candidate vetoes: so many equal parts of the withheld answers")
    jackknife_blocks: Whole = Field(ge=2, description="blocks of items left out in turn, for the interval")
    permutations: Count = Field(description="deals of the declared vision within a cell, every fit repeated")
    other_permutations: Count = Field(description="of other visions, placebos and the other base")
    bootstrap_replicates: Count = Field(description="of the risk-coverage table, where nothing is fitted")
    confidence_level: OpenShare = Field(description="of every interval")
    split_seed: Seed = Field(description="draws splits, blocks, deals and replicates")
    planted_share: OpenShare = Field(description="of the targets' blindest answers, made wrong (control)")
    min_items: Whole = Field(ge=10, description="a smaller cell keeps its counts: see `make simulate`")
    covariates: Several[Word] = Field(description="taken out in the adjusted tables")
    max_risk: OpenShare = Field(description="of an accepted answer, learn then test")
    delta: OpenShare = Field(description="chance that its guarantee may fail")
    repair_items: Whole = Field(ge=20, description="labelled answers of a target that certify a threshold again")
    guarantee_draws: Count = Field(description="divisions of the items by thirds: fit, certify, check")


class Causal(Section):
    """06: is the look needed, where does a restated word come from, does keeping the look up help?"""

    equivalence_margin: OpenShare = Field(description="share of the answers that counts as none; controls stay within")
    rewritten_share: OpenShare = Field(description="of the texts: more of them change where a model reads and ignores")
    bootstrap_replicates: Count = Field(description="of items drawn with replacement")
    order_deals: Whole = Field(ge=20, description="permutations of the shares of the reasoning within items")
    confidence_level: OpenShare = Field(description="of every interval")
    bootstrap_seed: Seed = Field(description="draws items with replacement")
    min_items: Whole = Field(ge=10, description="a smaller cell keeps its counts and gets no estimate")
    min_usable: Whole = Field(ge=10, description="restated words of a cell; fewer: no estimate of where they come from")


class Monitor(Section):
    """07: which answers need the picture to the end, can that be told early, what is a flag worth?"""

    second_profile: Word = Field(description="whose causal tables fit and judge the monitor: levels of need inside")
    targets: Several[Word] = Field(description="declared task types that need the picture, as in veto")
    needed_nats: float = Field(gt=0, le=30, description="log-odds that an answer loses at least where it needs to look")
    stages: Several[Annotated[int, Field(ge=2)]] = Field(description="first tokens that need is predicted from")
    window_tokens: Count = Field(description="last tokens whose mass on the image is the look")
    confident_share: OpenShare = Field(description="of the calibration responses, lowest entropy: they are confident")
    away_share: OpenShare = Field(description="of the calibration responses, lowest mass: they do not look")
    least_need: OpenShare = Field(description="probability of need from which on looking is needed")
    decided: float = Field(ge=0.5, lt=1, description="a prediction between 1 - this and this abstains")
    least_accuracy: Share = Field(description="of a model's answers to a level of items; fewer: it cannot answer them")
    calibration_bins: Whole = Field(ge=2, description="of equal counts, for the calibration error")
    coverage: Coverage = Field(description="share of the answers that a rule accepts")
    splits: Count = Field(description="repeated halves by item: fit on one, judge on the other")
    fit_share: OpenShare = Field(description="of the items, that a split fits on")
    veto_shares: Count = Field(description="candidate floors")
    jackknife_blocks: Whole = Field(ge=2, description="blocks of items left out in turn, for the interval")
    permutations: Count = Field(description="deals of the look within a cell, every fit repeated")
    max_risk: OpenShare = Field(description="of an accepted answer, learn then test")
    delta: OpenShare = Field(description="chance that its guarantee may fail")
    repair_items: Count = Field(description="labelled answers of a target that certify a threshold again")
    guarantee_draws: Count = Field(description="divisions of the items by thirds: fit, certify, check")
    power: OpenShare = Field(description="chance to show a gain, of the number of items that is asked for it")
    bootstrap_replicates: Count = Field(description="of items drawn with replacement")
    confidence_level: OpenShare = Field(description="of every interval")
    seed: Seed = Field(description="draws items, splits, deals")
    min_items: Whole = Field(ge=10, description="a smaller cell gets no rule and no certificate")


class Claims(Section):
    """08: arithmetic of the reported numbers (the verdict rules stand in paper/claims.yaml)."""

    reported_points: float = Field(ge=0, le=100, description="risk saved, percentage points, as the paper reports it")
    reported_decimals: Whole = Field(ge=0, le=6, description="to which it is rounded")
    coverage: Coverage = Field(description="at which it is reported")
    item_counts: Span[Count] = Field(description="answered items of a cell that are tried")
    reported_falls: Span[OpenShare] = Field(description="of the evidence mass, smallest and largest")
    reasoning_parts: Whole = Field(ge=2, description="between whose first and last it falls")
    small_counts: Several[Count] = Field(description="samples of the extreme quadrants, fewest and most")
    reported_cells: Count = Field(description="that all fall")
    confidence_level: OpenShare = Field(description="of every interval")


class Pages(Section):
    """`make pages`: the items of the trace viewer."""

    item_quantiles: Several[Share] = Field(description="of the collapse, in a cell's correct and wrong answers")


class Arithmetic(Section):
    """How everything is computed."""

    portable: bool = Field(description="the same bytes on every x86-64 processor with AVX2; a quarter slower on CPU")


class Reproduction(Section):
    """When a number of another run agrees with the recorded one; nothing is recomputed when these change."""

    tolerance: OpenShare = Field(description="of half the interval of a number, of its value where it has none")
    floor: OpenShare = Field(description="in any unit but nats: a smaller move is none")
    floor_nats: OpenShare = Field(description="in nats: a smaller move is none")
    difference_bar: OpenShare = Field(description="of two implementations: both below it agree")
    pixels: OpenShare = Field(description="root mean square difference of two figures, of full scale")


class Parameters(Section):
    """All sections of a profile, in the order of the file."""

    arithmetic: Arithmetic
    testbed: Testbed
    extraction: Extraction
    questions: Questions
    server: Server
    measures: Measures
    occlusion: Occlusion
    interventions: Interventions
    collapse: Collapse
    entropy: Entropy
    interaction: Interaction
    veto: Veto
    causal: Causal
    monitor: Monitor
    claims: Claims
    pages: Pages
    reproduction: Reproduction


SECTIONS = list(Parameters.model_fields)


def describe(section: str) -> dict[str, str]:
    """Return what each key of a section means."""
    model: Any = Parameters.model_fields[section].annotation
    return {key: field.description or "" for key, field in model.model_fields.items()}


class Node(dict[Any, Any]):
    """A YAML mapping that remembers where each key stands (file and line)."""

    places: dict[Any, str]


class Loader(yaml.SafeLoader):
    """SafeLoader that keeps lines and refuses what may be a mistake.

    That is a key that stands twice, a tag, and an unquoted value that PyYAML and people, or readers of YAML 1.2, take
    for different things.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node; a tag would give its text another meaning."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None):
            raise NamedError(f"{locate(self, event)}: found the tag {SHORT.repr(event.tag)}; remove it")
        return super().compose_node(parent, index)

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """Return the tag of a node, "unsure" for an unquoted value that is read differently."""
        tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        is_sure = kind is not yaml.ScalarNode or not implicit[0] or tag.endswith((":null", f":{name_kind(value)}"))
        return tag if is_sure else "unsure"


def locate(loader: Loader, at: Any) -> str:
    """Return the place of a node or event, as messages call it."""
    return f"{loader.name}:{at.start_mark.line + 1}"


def name_kind(value: str) -> str:
    """Return what an unquoted value is to people: digits are decimal (but for 0x10), `yes` and 1:30 are texts."""
    for name, read in (("int", lambda text: int(text, 0)), ("float", float)):
        with suppress(ValueError):
            read(value)
            return name
    return "bool" if value.lower() in ("true", "false") else "str"


def refuse_scalar(loader: Loader, node: Any) -> NoReturn:
    """Raise NamedError that says how to write a value for every reader."""
    digits = node.value.lstrip("0_")
    how = digits if digits.isdecimal() else "a number as 10 or 1.0e-3, true or false"
    line = node.start_mark.buffer.split("\n")[node.start_mark.line].strip(" \0")
    found = f"{SHORT.repr(line)}: readers of YAML differ in {SHORT.repr(node.value)}"
    raise NamedError(f"{locate(loader, node)}: {found}; write {how}, or quote it")


def build_node(loader: Loader, node: yaml.MappingNode) -> Node:
    """Return the mapping of a YAML node; raise NamedError at a key that is no text or stands twice."""
    mapping = Node()
    mapping.places = {}
    for key_node, value_node in node.value:
        key, place = loader.construct_object(key_node, deep=True), locate(loader, key_node)
        if not isinstance(key, str):
            raise NamedError(f"{place}: a key is {show_value(key)}; expected text; correct or remove it")
        if key in mapping:
            earlier = mapping.places[key].rpartition(":")[2]
            raise NamedError(f"{place}: {key}: stands here and in line {earlier}; remove one")
        mapping[key], mapping.places[key] = loader.construct_object(value_node, deep=True), place
    return mapping


Loader.add_constructor("tag:yaml.org,2002:map", build_node)
Loader.add_constructor("unsure", refuse_scalar)


def parse(text: str, name: str) -> Any:
    """Return what a YAML text holds, or raise NamedError; `name` is what messages call it."""
    if hidden := re.search("[\x85\u2028\u2029]", text):  # line breaks of YAML 1.1 alone
        raise NamedError(f"{name}: found the letter {hidden[0]!a}, which ends a line unseen; remove it")
    try:
        loader = Loader(text)
        loader.name = name
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the last two of its numbers and its depth
        mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        raise NamedError(f"{name}{f':{mark.line + 1}' if mark else ''}: not YAML: {what}; correct it") from error


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds; raise NamedError where it cannot be read, or differently by another reader."""
    name = paths.show(path.absolute())
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NamedError(f"{name}: cannot be read ({error}); give a file that is there, in UTF-8") from error
    return parse(text, name)


def show_value(value: object) -> str:
    """Return a value and its YAML type in words, for messages."""
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", list: "list", Node: "mapping"}
    # a whole repr of ten short lines of aliases may be larger than the memory
    return "nothing" if value is None else f"{SHORT.repr(value)} ({names.get(type(value), type(value).__name__)})"


def check(values: Mapping[str, Any], name: str, places: Mapping[tuple[Any, ...], str]) -> Sections:
    """Return the values of all sections with the types of the models, or raise NamedError for the first that is wrong.

    `name` is what messages call the source of the values; `places` are file and line of a section, and of a section's
    key, where they are known. The message has both, the key, what was found, what was expected and what to do.
    """
    try:
        return Parameters.model_validate(values).model_dump()
    except ValidationError as error:
        # an unknown key first: it is the reason why a known one is missing
        first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    where = first["loc"][:2]
    dotted, kind, value, section = ".".join(map(str, where)), first["type"], first["input"], where[0]
    place = places.get(where, name)
    if kind == "extra_forbidden":
        known = SECTIONS if len(where) == 1 else list(describe(str(section)))
        raise NamedError(f"{place}: {dotted}: unknown key; expected one of {', '.join(known)}; correct or remove it")
    if kind == "missing":
        raise NamedError(f"{place}: {dotted}: missing; add it (params/testbed.yaml shows how)")
    if len(where) == 1:
        raise NamedError(f"{place}: {dotted}: found {show_value(value)}, expected keys with values; correct it")
    expected, remedy = str(first["msg"]), "correct it"
    if kind == "value_error":  # of the rules for lists above, which say what to do
        expected, remedy = "entries do not fit", expected.removeprefix("Value error, ")
    if kind in ("string_type", "literal_error") and isinstance(value, bool | int | float):
        remedy = "quote it"
    meaning = describe(str(section))[str(where[1])]
    raise NamedError(f"{place}: {dotted}: found {show_value(value)}; {expected} ({meaning}); {remedy}")


def read_document(path: Path) -> Node:
    """Return what a YAML file holds; raise NamedError unless it is a mapping that names its profile."""
    name, document = paths.show(path.absolute()), read_yaml(path)
    if not isinstance(document, Node):
        raise NamedError(f"{name}: found {show_value(document)}, expected the keys profile, {', '.join(SECTIONS)}")
    if "profile" not in document:
        raise NamedError(f"{name}: profile: missing; add `profile: {path.stem}`")
    if document["profile"] != path.stem:
        found = f"found {show_value(document['profile'])}, expected the file's name"
        raise NamedError(f"{document.places['profile']}: profile: {found}; write {path.stem}")
    return document


def load(path: Path) -> tuple[str, Sections]:
    """Return a parameters file's profile and checked sections, on top of the file that it is based on; see `check`."""
    document = read_document(path)
    layers = [document]
    if "based_on" in document:
        base = document["based_on"]
        if not isinstance(base, str) or not re.fullmatch(r"[a-z0-9_]+", base) or base == path.stem:
            found = f"found {show_value(base)}, expected another profile of the same folder"
            raise NamedError(f"{document.places['based_on']}: based_on: {found}; correct it")
        layers.insert(0, read_document(path.with_name(f"{base}.yaml")))
        if "based_on" in layers[0]:
            raise NamedError(f"{layers[0].places['based_on']}: based_on: {path.stem} is based on {base}; remove one")
    values: dict[str, Any] = {}
    places: dict[tuple[Any, ...], str] = {}
    for layer in layers:
        for section in layer.keys() - {"profile", "based_on"}:
            own, place = layer[section], layer.places[section]
            places[section,] = place
            if isinstance(own, Node):
                places |= {(section, key): own.places[key] for key in own}
                below = values.get(section)
                own = {**below, **own} if isinstance(below, dict) else own
            values[section] = own
    return path.stem, check(values, paths.show(path.absolute()), places)


def override(sections: Sections, overrides: str) -> None:
    """Put the values of `section.key=value`, several of them separated by spaces, in place of those of the file.

    A value is read as YAML and checked like one of the file; it ends where the next `name=` begins. Where one is wrong,
    none is put in place.
    """
    new: dict[str, dict[str, Any]] = {}
    for word in re.split(r"""\s+(?=[^][\s='",]+=)""", overrides.strip()) if overrides.strip() else ():
        name, equals, value = word.partition("=")
        section, _, key = name.partition(".")
        if not equals or not re.fullmatch(r"\S+", key):
            raise NamedError(f"SET: found {word!r}, expected section.key=value, a list as [a,b]; correct it")
        if key in new.get(section, {}):
            raise NamedError(f"SET: {name}: given twice; remove one")
        new.setdefault(section, {})[key] = parse(value, f"SET: {name}")
    sections |= check(sections | {name: {**sections.get(name, {}), **own} for name, own in new.items()}, "SET", {})


def write_sections(sections: Sections, folder: Path) -> None:
    """Write <section>.json each; one that did not change keeps its age."""
    for section, values in sections.items():
        write_text(folder / f"{section}.json", json.dumps(values, indent=2, sort_keys=True) + "\n")


def read_values(file: Path) -> dict[str, Any]:
    """Return the values of a section's JSON as `write_sections` left it."""
    values: dict[str, Any] = read_json(file.resolve(), "run `make params`")
    if not isinstance(values, dict):
        raise NamedError(f"{paths.show(file.resolve())}: holds {show_value(values)}; delete it and run `make params`")
    return values


def read_section(profile: str, section: str) -> dict[str, Any]:
    """Return one section's values, for commands that run outside a notebook."""
    return read_values(paths.section_file(profile, section))
