"""Every image-text model type of transformers as a tiny random model with its real processor, one row of data each.

Why: "any model" is a claim about a list. The list is `MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES`; each type in it is
measured (`TYPES`), refused by name (`REFUSED`) or cannot be built here, with the reason (`NOT_BUILT`). In: a model
type. Out: a `Tiny`. Weights are drawn anew after the build, all of them, because models initialise some layers to zero
(pictures would be invisible) and most so narrowly that attention is flat. Never measure accuracy with these models.
"""

from __future__ import annotations

import copy
import importlib
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers import PreTrainedConfig as Config
from transformers.utils import ModelOutput

PICTURE = (56, 40)  # width and height in px
QUESTION = "what digit is"
EOS, IMAGE, VIDEO, OPEN, CLOSE, FIRST, N_VOCABULARY = 3, 4, 5, 6, 7, 64, 160  # ordinary words start at FIRST
NAMED = {  # attribute of the tokenizer -> token: processors ask for them by these names
    "image_token": "<image>", "video_token": "<video>", "boi_token": "<boi>", "eoi_token": "<eoi>",
    "audio_token": "<audio>", "boa_token": "<boa>", "eoa_token": "<eoa>", "img_line_break_token": "<break>",
    "video_start_token": "<|begin_of_video|>", "video_end_token": "<|end_of_video|>", "image_wrapper_token": "<wrap>",
    "eof_token": "<eof>", "slice_start_token": "<slice>", "slice_end_token": "</slice>",
    "image_id_start_token": "<id>", "image_id_end_token": "</id>",
}  # fmt: skip
ALIASES = {
    "image_token": ("context_image_token",), "img_line_break_token": ("image_break_token", "image_boundary_token"),
    "boi_token": ("image_start_token", "start_image_token", "vision_start_token"),
    "eoi_token": ("image_end_token", "end_image_token", "vision_end_token"),
}  # fmt: skip
OTHERS = (  # tokens that processors spell out
    "<row_1_col_1> <row_1_col_2> <row_2_col_1> <row_2_col_2> <global-img> <fake_token_around_image> <end_of_utterance>"
    " <|START_OF_IMG|> <|END_OF_IMG|> TILE TILE_GLOBAL TILE_1 TILE_2 <|im_start|> <|im_end|> <img> </img> |NEWLINE|"
    " <|image_start|> <|image_end|> <|image|> <|tile_x_separator|> <|tile_y_separator|> <|VISION_START|> <|VISION_END|>"
    " [IMG_BREAK] [IMG_END] <IMG_START> <IMG_END> <IMG_GRID> <IMG_COL> <IMG_ROW> <|imgpad|>"
)
WORDS = f"user assistant {QUESTION} the a of 1 2 3 4 5 6 7 8 9 + = . ?"
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}SHOWN {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)
IDS = {  # fields of configs
    "image_token_id": IMAGE, "image_token_index": IMAGE, "video_token_id": VIDEO, "video_token_index": VIDEO,
    "vision_start_token_id": OPEN, "image_start_token_id": OPEN, "boi_token_id": OPEN, "boi_token_index": OPEN,
    "video_start_token_id": 9, "vision_end_token_id": CLOSE, "image_end_token_id": CLOSE, "eoi_token_id": CLOSE,
    "eoi_token_index": CLOSE, "video_end_token_id": 10, "audio_token_id": 8, "audio_token_index": 8,
}  # fmt: skip


def text(kind: str | None = None, **changes: Any) -> dict[str, Any]:
    """Return a text config: 2 layers, 4 heads of 16, 2 of keys and values."""
    common = {
        "vocab_size": N_VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": EOS,
    }  # fmt: skip
    return ({"model_type": kind} if kind else {}) | common | changes


def vision(kind: str | None = None, **changes: Any) -> dict[str, Any]:
    """Return a vision config: pictures of 32 x 32 px, patches of 8 x 8 px, 2 layers, 2 heads."""
    common = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    return ({"model_type": kind} if kind else {}) | common | changes


def grid(**changes: Any) -> dict[str, Any]:
    """Return the vision config of the models that take any picture size: patches of 8 x 8 px, merged 2 x 2."""
    common = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 64,
    }  # fmt: skip
    return common | changes


def rotary(*sections: int, **changes: Any) -> dict[str, Any]:
    """Return rotary parameters, in time, height and width where sections are given."""
    parts = {"mrope_section": list(sections)} if sections else {}
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, **parts, **changes}}


@dataclass(frozen=True)
class Row:
    """How one type is built: its config, its processor and that one's image processor; or inputs made by hand."""

    vision: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)  # fields of the config besides these two
    processor: str = ""  # its class; none where its image processor needs torchvision or it takes no messages
    settings: dict[str, Any] = field(default_factory=dict)
    images: str = ""  # the class of its image processor
    sizes: dict[str, Any] = field(default_factory=dict)  # and the settings of that
    shown: str = "<image>"  # what the chat template writes for a picture
    word: str = "<image>"  # the token that stands for one image token
    says: dict[str, Any] = field(default_factory=dict)  # attributes of the processor
    own: dict[str, Any] = field(default_factory=dict)  # attributes of the image processor
    video: dict[str, Any] = field(default_factory=dict)  # what the processor asks its video half for
    n_image: int = 0  # without a processor: how many image tokens
    inputs: dict[str, Any] = field(default_factory=dict)  # tensors, or the shapes of random ones
    types: bool = False  # whether token types are among them
    refused: str = ""  # why the package must not measure it


# pictures and what becomes of them
SQUARE = {"size": {"height": 32, "width": 32}}
CROPPED = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
ANY_SIZE = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 25600}}
PIXTRAL = {"size": {"longest_edge": 64}, "patch_size": {"height": 16, "width": 16}}
SPLIT = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
PINPOINTS = [[32, 64], [64, 32], [64, 64]]
FREE: dict[str, Any] = {"sizes": ANY_SIZE, "shown": "<boi><image><eoi>"}
QWEN: dict[str, Any] = {"images": "Qwen2VLImageProcessorPil", **FREE}
GLM: dict[str, Any] = {"images": "Glm46VImageProcessorPil", **FREE}
CLIPPED: dict[str, Any] = {"images": "CLIPImageProcessorPil", "sizes": CROPPED}
TILES: dict[str, Any] = {"images": "GotOcr2ImageProcessorPil", "sizes": {"min_patches": 1, "max_patches": 4, **SQUARE}}
PINS: dict[str, Any] = {
    "images": "LlavaNextImageProcessorPil", "sizes": {"image_grid_pinpoints": PINPOINTS, **CROPPED},
}  # fmt: skip
MERGED = {"patch_size": 8, "spatial_merge_size": 2}
MISTRAL: dict[str, Any] = {
    "processor": "PixtralProcessor", "settings": MERGED, "images": "PixtralImageProcessorPil", "sizes": PIXTRAL,
    "shown": "[IMG]", "word": "[IMG]",
}  # fmt: skip
MINICPM: dict[str, Any] = {
    "images": "MiniCPMV4_6ImageProcessorPil", "video": {"slice_mode": False, "downsample_mode": "16x"},
    "sizes": {"patch_size": 8, "scale_resolution": 64, "use_image_id": False},
}  # fmt: skip
LLAVA = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
PIXELS, LARGE_PIXELS = {"pixel_values": (1, 3, 32, 32)}, {"pixel_values": (1, 3, 64, 64)}
FOUR: dict[str, Any] = {"n_image": 4, "inputs": PIXELS}
SIXTEEN: dict[str, Any] = {"n_image": 16, "inputs": PIXELS}
GRID = torch.tensor([[1, 4, 8]])
EIGHT: dict[str, Any] = {"n_image": 8, "inputs": {"pixel_values": (32, 384), "image_grid_thw": GRID}}
PLACES = torch.cartesian_prod(torch.arange(4), torch.arange(4))
FLATTENED = torch.cat([PLACES + 1.0, torch.arange(16 * 192.0).view(16, 192).sin()], dim=1)[None]
ONE = torch.ones(1, 1, dtype=torch.long)
PLACED = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]])

# towers
CLIP, SIGLIP = vision("clip_vision_model"), vision("siglip_vision_model", vision_use_head=False)
PIXTRAL_TOWER, GLM_TOWER = vision("pixtral", head_dim=16), grid(image_size=96)
PLAIN = grid(num_position_embeddings=144)
DEEP = {**PLAIN, "deepstack_visual_indexes": [0]}
WINDOWED = grid(window_size=32, fullatt_block_indexes=[1])
SAM = vision(output_channels=16, window_size=2, global_attn_indexes=[1], mlp_dim=48, image_size=64, patch_size=16)
CONVOLUTIONS = {  # in place of a tower of the package timm, which is absent
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
    "hidden_size": 16,
}  # fmt: skip
CODES = {  # a picture as words of a vocabulary of its own
    "embed_dim": 4, "num_embeddings": 8, "latent_channels": 8, "base_channels": 32, "channel_multiplier": [1, 1, 1],
    "num_res_blocks": 1,
}  # fmt: skip
CHAMELEON_WORDS = {"<image>": IMAGE} | {f"IMGIMG{letter}Z": 100 + code for code, letter in enumerate("ABCDEFGH")}
EMU_WORDS = {"<image>": IMAGE, "<|extra_200|>": 99} | {f"<|visual token {code:06}|>": 100 + code for code in range(8)}
SOUND = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 32, "output_dim": 64}
QFORMER = {
    "vocab_size": N_VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 48, "encoder_hidden_size": 32, "cross_attention_frequency": 1,
}  # fmt: skip

# text layers
WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
SHARED = {  # the last two layers attend to the keys of the first two; scores are not scaled, so heads are narrow
    "num_hidden_layers": 4, "num_kv_shared_layers": 2, "sliding_window": 8, "head_dim": 4, "global_head_dim": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
AXES, WOVEN = rotary(4, 2, 2), rotary(4, 2, 2, mrope_interleaved=True)
WHOLE = rotary(4, 2, 2, mrope_interleaved=True, partial_rotary_factor=1.0)
HALF = rotary(2, 1, 1, partial_rotary_factor=0.5)
EXPERTS = {
    "moe_intermediate_size": 32, "num_experts_per_tok": 2, "num_experts": 4, "num_local_experts": 4,
    "n_routed_experts": 4, "n_shared_experts": 1,
}  # fmt: skip
DENSE_FIRST = {"mlp_layer_types": ["dense", "sparse"]}
LINEAR = {  # Gated DeltaNet in the first layer
    "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
LATENT = {  # multi-head latent attention with an index of keys, whose many heads are to leave no tie at a score of 0
    "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "head_dim": 8, "v_head_dim": 12, "index_topk": 8, "index_head_dim": 16, "index_n_heads": 8,
}  # fmt: skip
OPT = {
    "model_type": "opt", "vocab_size": N_VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "ffn_dim": 96,
    "num_attention_heads": 4, "word_embed_proj_dim": 64, "max_position_embeddings": 512, "pad_token_id": 0,
    "bos_token_id": 2, "eos_token_id": EOS,
}  # fmt: skip
KOSMOS = {
    "vocab_size": N_VOCABULARY, "embed_dim": 64, "layers": 2, "ffn_dim": 96, "attention_heads": 4, "dropout": 0.0,
    "max_position_embeddings": 128,
}  # fmt: skip

# why a type is refused
CROSS = "shows the picture by cross attention, not as keys among those of the prompt"
TWO = "has an encoder: its decoder attends to it by cross attention"
SPARSE = "chooses its keys only where the attention function is named eager or sdpa"
RAGGED = "its sliding layers have more heads than the others, as the real ones: masses are one array of all layers"
UNNAMED = "names no token that stands for a picture"

ROWS = {
    "llava": Row(CLIP, text("llama"), processor="LlavaProcessor", settings=LLAVA, **CLIPPED),
    "vipllava": Row(CLIP, text("llama"), {"vision_feature_layers": [-1, -2]}, processor="LlavaProcessor",
        settings=LLAVA, **CLIPPED),
    "llava_next": Row(CLIP, text("mistral", sliding_window=8), {"image_grid_pinpoints": PINPOINTS},
        processor="LlavaNextProcessor", settings=LLAVA, **PINS),
    "llava_onevision": Row(SIGLIP, text("qwen2"), {"image_grid_pinpoints": PINPOINTS},
        processor="LlavaOnevisionProcessor", settings={"num_image_tokens": 16,
        "vision_feature_select_strategy": "full"}, images="LlavaOnevisionImageProcessorPil",
        sizes={"image_grid_pinpoints": PINPOINTS, **SQUARE}),
    "internvl": Row(vision(image_size=[32, 32], patch_size=[8, 8]), text("qwen2"), {"image_seq_length": 4},
        processor="InternVLProcessor", settings={"image_seq_length": 4}, **TILES),
    "aya_vision": Row(SIGLIP, text("cohere2", **WINDOW), processor="AyaVisionProcessor", settings={"patch_size": 8,
        "img_size": 32, "downsample_factor": 2}, **TILES, word="<|IMG_PATCH|>"),
    "qwen2_vl": Row(grid(embed_dim=32, hidden_size=64), text(**AXES), processor="Qwen2VLProcessor", **QWEN),
    "qwen2_5_vl": Row(WINDOWED, text(**AXES), processor="Qwen2_5_VLProcessor", **QWEN),
    "qwen3_vl": Row(DEEP, text(**WOVEN), processor="Qwen3VLProcessor", **QWEN),
    "glm4v": Row(GLM_TOWER, text(**HALF), processor="Glm4vProcessor", **GLM),
    "gemma3": Row(SIGLIP, text("gemma3_text", **WINDOW, query_pre_attn_scalar=16), {"mm_tokens_per_image": 4},
        processor="Gemma3Processor", settings={"image_seq_length": 4}, images="Gemma3ImageProcessorPil", sizes=SQUARE,
        shown="<boi>"),
    "paligemma": Row(SIGLIP, text("gemma", num_image_tokens=16), {"projection_dim": 64, "hidden_size": 64},
        processor="PaliGemmaProcessor", images="SiglipImageProcessorPil", sizes=SQUARE, own={"image_seq_length": 16}),
    "idefics3": Row(vision(), text("llama"), {"scale_factor": 2}, processor="Idefics3Processor",
        settings={"image_seq_len": 4}, images="Idefics3ImageProcessorPil", sizes=SPLIT),
    "smolvlm": Row(vision(), text("llama"), {"scale_factor": 2}, processor="SmolVLMProcessor",
        settings={"image_seq_len": 4}, images="SmolVLMImageProcessorPil", sizes=SPLIT, video={"num_frames": 1,
        "fps": 1}),
    "idefics2": Row(vision(), text("mistral", sliding_window=8), {"perceiver_config": {"hidden_size": 64,
        "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 16,
        "num_key_value_heads": 1}}, processor="Idefics2Processor", settings={"image_seq_len": 4},
        images="Idefics2ImageProcessorPil", sizes={"size": {"shortest_edge": 32, "longest_edge": 64},
        "do_image_splitting": False}),
    "mistral3": Row(PIXTRAL_TOWER, text("mistral", sliding_window=8), **MISTRAL),
    "qwen3_vl_moe": Row(DEEP, text(**WOVEN, **EXPERTS), processor="Qwen3VLProcessor", **QWEN),
    "qwen3_5": Row(PLAIN, text(**WHOLE, **LINEAR), processor="Qwen3VLProcessor", **QWEN),
    "qwen3_5_moe": Row(PLAIN, text(**WHOLE, **LINEAR, **EXPERTS, shared_expert_intermediate_size=32),
        processor="Qwen3VLProcessor", **QWEN),
    "qwen4_exp": Row(PLAIN, text(**WOVEN, **LINEAR, **EXPERTS, shared_expert_intermediate_size=32, hc_lowrank=16,
        indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=16, indexer_budget=8, indexer_compress_ratio=2),
        processor="Qwen3VLProcessor", **QWEN),
    "cosmos3_omni": Row(DEEP, text(**WOVEN), processor="Qwen3VLProcessor", **QWEN),
    "cosmos3_edge": Row(vision(num_patches=16), text(**AXES), {"projector_hidden_size": 48},
        processor="Cosmos3EdgeProcessor", images="Cosmos3EdgeImageProcessorPil", **FREE,
        says={"return_mm_token_type_ids": True}),
    "cohere_compass": Row(DEEP, text(rope_parameters={"sliding_attention": rotary(4, 2, 2)["rope_parameters"],
        "full_attention": None}, **WINDOW), processor="CohereCompassProcessor", images="CohereCompassImageProcessorPil",
        sizes=ANY_SIZE, shown="<boi><|IMAGE_PAD|><eoi>", word="<|IMAGE_PAD|>"),
    "exaone4_5": Row(grid(window_size=32, fullatt_block_indexes=[1], num_key_value_heads=1), text("exaone4", **WINDOW),
        processor="Exaone4_5_Processor", **QWEN),
    "hyperclovax_vision_v2": Row(WINDOWED, text("hyperclovax"), processor="HyperCLOVAXVisionV2Processor", **QWEN),
    "glm46v": Row(GLM_TOWER, text(**HALF), processor="Glm46VProcessor", **GLM),
    "glmga": Row(GLM_TOWER, text(**HALF), processor="Glm46VProcessor", images="GlmgaImageProcessorPil", **FREE),
    "glm_ocr": Row(GLM_TOWER, text(**AXES), processor="Glm46VProcessor", **GLM),
    "glm4v_moe": Row(GLM_TOWER, text(**HALF, **EXPERTS), processor="Glm4vProcessor", **GLM),
    "glm5_next": Row(grid(image_size=96, projection_intermediate_size=48), text(**EXPERTS,
        **LATENT | {"qk_rope_head_dim": 0}, layer_types=["linear_attention", "indexed_attention"], linear_head_dim=16,
        linear_num_heads=2, **DENSE_FIRST, index_kpool=2, hc_mult=2), processor="Glm5NextProcessor",
        images="Glm5NextImageProcessorPil", **FREE),
    "gemma4": Row(vision(head_dim=16, num_key_value_heads=2, pooling_kernel_size=3, position_embedding_size=64),
        text(**SHARED, final_logit_softcapping=3.0, vocab_size_per_layer_input=N_VOCABULARY,
        hidden_size_per_layer_input=8), processor="Gemma4Processor", settings={"image_seq_length": 70},
        images="Gemma4ImageProcessorPil", sizes={"patch_size": 8, "max_soft_tokens": 70, "pooling_kernel_size": 3}),
    "shieldgemma2": Row(SIGLIP, text("gemma3_text", **WINDOW, query_pre_attn_scalar=16), {"mm_tokens_per_image": 4},
        processor="ShieldGemma2Processor", settings={"image_seq_length": 4, "policy_definitions": {"digit": QUESTION}},
        images="Gemma3ImageProcessorPil", sizes=SQUARE, shown="<boi>"),
    "cohere2_vision": Row(SIGLIP, text("cohere2", **WINDOW), {"alignment_intermediate_size": 48}, **FOUR),
    "got_ocr2": Row(SAM, text("qwen2"), {"image_seq_length": 1}, n_image=1, inputs=LARGE_PIXELS),
    "lfm2_vl": Row(vision("siglip2_vision_model", num_patches=16, vision_use_head=False), text("lfm2",
        layer_types=["conv", "full_attention"]), {"projector_hidden_size": 48}, n_image=4,
        inputs={"pixel_values": (1, 16, 192), "spatial_shapes": torch.tensor([[4, 4]]),
        "pixel_attention_mask": torch.ones(1, 16, dtype=torch.long)}),
    "lfm3_vl": Row(grid(num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2, layer_types=["conv",
        "full_attention"]), text("lfm3", layer_types=["conv", "full_attention"]), {"projector_hidden_size": 48},
        processor="Lfm3VlProcessor", **QWEN),
    "llama4": Row(vision(intermediate_size=128, vision_output_dim=32, projector_input_dim=32, projector_output_dim=32),
        text(**EXPERTS, attention_chunk_size=8, layer_types=["chunked_attention", "full_attention"],
        no_rope_layers=[1, 0], intermediate_size_mlp=64), **FOUR),
    "ovis2": Row(vision(vocab_size=20), text("qwen2"), {"hidden_size": 64, "vocab_size": N_VOCABULARY,
        "visual_indicator_token_ids": [10, 11, 12, 13, 14]}, processor="Ovis2Processor",
        settings={"image_seq_length": 16}, images="Ovis2ImageProcessorPil", sizes=SQUARE, word="<IMG_ATOM>"),
    "fast_vlm": Row(CONVOLUTIONS, text("qwen2"), **SIXTEEN),
    "perception_lm": Row(SIGLIP | {"model_args": {"embed_dim": 32}}, text("llama"), {"vision_use_cls_token": False},
        n_image=16, inputs={"pixel_values": (1, 1, 3, 32, 32)}),
    "janus": Row(vision(projection_dim=64, num_image_tokens=16), text("llama"), {"vq_config": CODES | {"num_patches": 4,
        "projection_dim": 16, "image_token_embed_dim": 16}}, processor="JanusProcessor",
        settings={"num_image_tokens": 16}, images="JanusImageProcessorPil", sizes={"image_size": 32, "min_size": 8,
        **SQUARE}),
    "deepseek_vl": Row(SIGLIP, text("llama"), processor="DeepseekVLProcessor", settings={"num_image_tokens": 16},
        images="DeepseekVLImageProcessorPil", sizes={"min_size": 8, **SQUARE}),
    "deepseek_vl_hybrid": Row(SIGLIP, text("llama"), {"high_res_vision_config": {**vision(), "output_channels": 16,
        "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 48, "image_size": 64}},
        processor="DeepseekVLHybridProcessor", settings={"num_image_tokens": 16},
        images="DeepseekVLHybridImageProcessorPil", sizes={"min_size": 8, **SQUARE, "high_res_size": {"height": 64,
        "width": 64}}),
    "video_llama_3": Row(vision(), text("qwen2"), processor="VideoLlama3Processor",
        images="VideoLlama3ImageProcessorPil", sizes=ANY_SIZE),
    "ernie4_5_vl_moe": Row(grid(temporal_merge_size=2), text(**rotary(2, 2, 4),
        **EXPERTS | {"moe_intermediate_size": [32, 16]}, moe_k=2, moe_num_experts=4, **DENSE_FIRST),
        processor="Ernie4_5_VLMoeProcessor", images="Ernie4_5_VLMoeImageProcessorPil", **FREE),
    "paddleocr_vl": Row(vision(spatial_merge_size=2), text(**AXES), processor="PaddleOCRVLProcessor",
        images="PaddleOCRVLImageProcessorPil", **FREE),
    "lighton_ocr": Row(PIXTRAL_TOWER, text("qwen3"), processor="LightOnOcrProcessor", settings=MERGED,
        images="PixtralImageProcessorPil", sizes=PIXTRAL),
    "mistral_large4": Row(PIXTRAL_TOWER, text(**EXPERTS, **LATENT), **MISTRAL, refused=SPARSE),
    "qianfan_ocr": Row(vision(image_size=[32, 32], patch_size=[8, 8]), text("qwen3"), {"image_seq_length": 4},
        processor="QianfanOCRProcessor", settings={"image_seq_length": 4}, **TILES),
    "granite4_vision": Row(vision("clip_vision_model", hidden_size=64),
        text(attention_multiplier=0.25, logits_scaling=2.0), {"image_grid_pinpoints": PINPOINTS,
        "downsample_rate": "1/2", "deepstack_layer_map": [[0, 0], [-1, 1]], "spatial_target_layers": [0, 1],
        "qformer_config": {"intermediate_size": 48, "num_hidden_layers": 1}}, processor="Granite4VisionProcessor",
        settings=LLAVA | {"downsample_rate": "1/2"}, **PINS),
    "granite_docling": Row(vision(out_hidden_size=64, scale_factor=2, deepstack_visual_indexes=[0]),
        text(attention_multiplier=0.25, logits_scaling=1.0, residual_multiplier=1.0, embedding_multiplier=1.0),
        processor="GraniteDoclingProcessor", settings={"image_seq_len": 4}, images="GraniteDoclingImageProcessorPil",
        sizes={**SQUARE, "max_patches": 4}),
    "hunyuan_vl": Row(vision(out_hidden_size=64, text_hidden_size=64, num_key_value_heads=2),
        text(**rotary(2, 2, 2, 2)), processor="HunYuanVLProcessor", images="HunYuanVLImageProcessorPil", **FREE),
    "aria": Row(vision("idefics3_vision", image_size=980, patch_size=140), text(moe_num_experts=4, moe_topk=2,
        moe_num_shared_experts=1), {"projector_patch_to_query_dict": {49: 4}}, processor="AriaProcessor",
        settings={"size_conversion": {980: 4}}, images="AriaImageProcessorPil"),
    "chameleon": Row(None, None, {**text(), "vq_config": CODES | {"resolution": 32}, "vocabulary_map": CHAMELEON_WORDS},
        processor="ChameleonProcessor", settings={"image_seq_length": 64}, images="ChameleonImageProcessorPil",
        sizes=CROPPED),
    "emu3": Row(None, text(), {"vq_config": CODES | {"codebook_size": 8, "attn_resolutions": [], "hidden_size": 32,
        "channel_multiplier": [1, 1, 1, 1]}, "vocabulary_map": EMU_WORDS}, processor="Emu3Processor",
        images="Emu3ImageProcessor", sizes={"min_pixels": 256, "max_pixels": 4096, "spatial_factor": 8}),
    "fuyu": Row(None, text("persimmon"), {"patch_size": 8, "image_size": 32}, n_image=16,
        inputs={"pixel_values": (1, 16, 192)}),
    "llava_next_video": Row(CLIP, text("llama"), {"image_grid_pinpoints": PINPOINTS},
        processor="LlavaNextVideoProcessor", settings=LLAVA, **PINS),
    "video_llava": Row(CLIP, text("llama"), processor="VideoLlavaProcessor", settings={"patch_size": 8},
        images="VideoLlavaImageProcessor", sizes=CROPPED),
    "pp_chart2table": Row(SAM, text("qwen2"), {"image_seq_length": 1}, n_image=1, inputs=LARGE_PIXELS),
    "gemma4_unified": Row({"patch_size": 4, "pooling_kernel_size": 2, "mm_embed_dim": 32, "mm_posemb_size": 16,
        "output_proj_dims": 32}, text(**SHARED), n_image=16, inputs={"pixel_values": (1, 16, 192),
        "image_position_ids": PLACES[None]}, types=True),
    "dots3_note": Row(vision(adapter_in_dim=32, adapter_out_dim=64, pyramid_num_routed=[-1, -1]),
        text(**LATENT | EXPERTS, sliding_window=8, layer_types=["indexed_attention", "sliding_attention"],
        **DENSE_FIRST, shared_experts_intermediate_size=32, swa_num_attention_heads=4, swa_num_key_value_heads=4,
        swa_q_lora_rank=16, swa_kv_lora_rank=16, swa_head_dim=16, swa_qk_nope_head_dim=8, swa_v_head_dim=16),
        {"audio_config": {"adapter_out_dim": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "adapter_input_size": 32}}, processor="Dots3NoteProcessor",
        images="Qwen2VLImageProcessorPil", sizes=ANY_SIZE | {"temporal_patch_size": 1}, shown="<|imgpad|>",
        word="<|imgpad|>", refused=SPARSE),
    "minimax_m3_vl": Row(vision(spatial_merge_size=2, temporal_patch_size=2), text(**EXPERTS, index_n_heads=2,
        index_head_dim=16, index_block_size=4, index_topk_blocks=2, layer_types=["full_attention", "minimax_m3_sparse"],
        dense_intermediate_size=48, shared_intermediate_size=48, rotary_dim=8), {"projector_hidden_size": 64}, **EIGHT,
        refused=SPARSE),
    "kimi_k25": Row(vision(pos_emb_height=8, pos_emb_width=8), text("deepseek_v3", **EXPERTS, **LATENT, n_group=1,
        topk_group=1, first_k_dense_replace=1), {"projection_hidden_size": 32}, n_image=8,
        inputs={"pixel_values": (32, 3, 8, 8), "image_grid_thw": GRID}),
    "step3p7": Row(vision(image_size=64), text(**EXPERTS, share_expert_dim=32, **WINDOW, num_sliding_attention_heads=8,
        query_pre_attn_scalar=16, **DENSE_FIRST,
        rope_parameters={name: rotary()["rope_parameters"] for name in ("sliding_attention", "full_attention")}),
        n_image=4, inputs=LARGE_PIXELS, refused=RAGGED),
    "muse_glimmer": Row(vision(pos_emb_height=8, pos_emb_width=8, layer_types=["window_attention", "full_attention"]),
        text(**WINDOW, output_multiplier=1.0, qk_scale_factor=1.5, layer_rope_theta=[1e4, 0]), {"out_hidden_size": 128,
        "projector_hidden_size": 48}, **EIGHT),
    "muse_spark": Row(vision(pos_emb_height=8, pos_emb_width=8, layer_types=["window_attention", "full_attention"]),
        text(**EXPERTS, **WINDOW, output_multiplier=1.0, qk_scale_factor=1.5, layer_rope_theta=[1e4, 0],
        moe_hidden_size=32, **DENSE_FIRST),
        {"out_hidden_size": 128, "projector_hidden_size": 48, "audio_config": {"hidden_sizes": [8, 8, 8, 8],
        "depths": [1, 1, 1, 1], "out_hidden_size": 64}}, **EIGHT),
    "inkling_mm_model": Row({"text_hidden_size": 64, "patch_size": 8, "hidden_size": 32, "n_layers": 1,
        "num_attention_heads": 2}, text(**EXPERTS, logits_mup_width_multiplier=1.0, swa_num_attention_heads=4,
        swa_num_key_value_heads=2, swa_head_dim=16, sliding_window_size=8, d_rel=4, rel_extent=16,
        layer_types=["hybrid_sliding", "hybrid"], **DENSE_FIRST), {"audio_config": {"text_hidden_size": 64}}, n_image=4,
        inputs={"pixel_values": (4, 2, 8, 8, 3)}),
    "inkling2": Row(vision(text_hidden_size=64, posemb_grid_size=8, projection_hidden_dim=48), text(**EXPERTS,
        swa_num_attention_heads=4, swa_num_key_value_heads=2, swa_head_dim=16, sliding_window_size=8, d_rel=4,
        rel_extent=16, layer_types=["hybrid_sliding", "hybrid"], n_layers_per_attn_res_block=1), n_image=8,
        inputs={"pixel_values": (8, 16, 16, 3), "image_grid_thw": torch.tensor([[1, 2, 4]])}),
    "nemotron_h_omni": Row(vision("radio", max_img_size=64, video_temporal_patch_size=2), text("nemotron_h", **EXPERTS,
        layers_block_type=["linear_attention", "full_attention", "moe"], num_hidden_layers=3, ssm_state_size=8,
        mamba_num_heads=4, mamba_head_dim=16, n_groups=2, chunk_size=8, time_step_min=1e-09,
        moe_shared_expert_intermediate_size=32), {"projector_hidden_size": 48, "vision_hidden_size": 32}, n_image=8,
        inputs={"pixel_values": (32, 192), "image_grid_hw": torch.tensor([[4, 8]])}),
    "deepseek_ocr2": Row({"sam_config": SAM | {"downsample_channels": [16, 32]}, "encoder_config": text(hidden_size=32,
        head_dim=8)}, text(**EXPERTS, **DENSE_FIRST), n_image=145, inputs=LARGE_PIXELS),
    "unlimited_ocr": Row({"sam_config": SAM | {"downsample_channels": [16, 32]},
        "encoder_config": vision(num_attention_heads=4)}, text(**EXPERTS, num_key_value_heads=4, **DENSE_FIRST),
        n_image=3, inputs=LARGE_PIXELS),
    "minicpmv4_6": Row(vision(insert_layer_id=0), text(**WHOLE, **LINEAR), {"insert_layer_id": 0, "image_size": 32,
        "patch_size": 8}, processor="MiniCPMV4_6Processor", **MINICPM),
    "minicpmv4_7": Row(vision(insert_layer_id=0), text(**WHOLE, **LINEAR), {"insert_layer_id": 0, "image_size": 32,
        "patch_size": 8}, processor="MiniCPMV4_7Processor", **MINICPM),
    "minicpm_ocr": Row(vision(insert_layer_id=0), text(**WHOLE, **LINEAR), {"insert_layer_id": 0, "patch_size": 8},
        n_image=8, inputs={"pixel_values": (1, 3, 8, 256), "target_sizes": torch.tensor([[4, 8]])}),
    "qwen2_5_omni_thinker": Row(WINDOWED, text(**AXES), {"audio_config": SOUND, "vision_start_token_id": OPEN},
        **EIGHT),
    "qwen3_omni_moe_thinker": Row(DEEP, text(**WOVEN, **EXPERTS), {"audio_config": SOUND,
        "vision_start_token_id": OPEN}, **EIGHT),
    "blip-2": Row(vision(), OPT, {"qformer_config": QFORMER, "num_query_tokens": 4}, **FOUR,
        refused="calls the parts of its language model itself: its head cannot be told from its body"),
    "instructblip": Row(vision(), OPT, {"qformer_config": QFORMER, "num_query_tokens": 4}, n_image=4,
        inputs={"pixel_values": (1, 3, 32, 32), "qformer_input_ids": torch.arange(100, 105)[None]}),
    "instructblipvideo": Row(vision(), OPT, {"qformer_config": QFORMER, "num_query_tokens": 4,
        "video_token_index": IMAGE}, n_image=4, inputs={"pixel_values": (1, 1, 3, 32, 32),
        "qformer_input_ids": torch.arange(100, 105)[None]}, refused=UNNAMED),
    "molmo2": Row(vision(image_size=[32, 32], head_dim=16, num_key_value_heads=2, num_position_embeddings=16),
        text(additional_vocab_size=4, rope_scaling_layers=[]), {"adapter_config": {"vision_feature_layer": [1, 0],
        "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 48,
        "text_hidden_size": 64}, "image_patch_id": IMAGE}, n_image=4, inputs={"pixel_values": (1, 16, 192),
        "image_token_pooling": torch.arange(16).view(4, 4), "image_grids": torch.tensor([[2, 2, 0, 0]]),
        "image_num_crops": torch.tensor([1])}, types=True),
    "blip": Row(vision(), {"vocab_size": N_VOCABULARY, "hidden_size": 32, "encoder_hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "bos_token_id": 2,
        "sep_token_id": EOS, "eos_token_id": EOS}, {"image_text_hidden_size": 32}, inputs=PIXELS, refused=CROSS),
    "git": Row(None, None, text(num_key_value_heads=4) | {"vision_config": vision()}, inputs=PIXELS,
        refused="attends by modules of its own: no other attention function takes their place"),
    "idefics": Row(None, None, text() | {"vision_config": {"embed_dim": 32, "image_size": 32, "patch_size": 8,
        "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}},
        inputs={"pixel_values": (1, 1, 3, 32, 32), "image_attention_mask": torch.ones(1, 8, 1, dtype=torch.long)},
        refused=CROSS),
    # the prompt has as many tokens as the picture has keys: a recording must not take one for the other
    "mllama": Row({"hidden_size": 32, "num_hidden_layers": 1, "num_global_layers": 1, "attention_heads": 2,
        "intermediate_size": 48, "vision_output_dim": 64, "image_size": 32, "patch_size": 8, "max_num_tiles": 1,
        "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]]}, text(cross_attention_layers=[1]),
        n_image=9, inputs={"pixel_values": (1, 1, 1, 3, 32, 32), "aspect_ratio_ids": ONE,
        "aspect_ratio_mask": ONE[None], "cross_attention_mask": ONE[None, None].expand(1, 17, 1, 1)}, refused=CROSS),
    "kosmos-2": Row(vision(), KOSMOS, {"latent_query_num": 4}, n_image=4, inputs={"pixel_values": (1, 3, 32, 32),
        "image_embeds_position_mask": PLACED}, refused=UNNAMED),
    "kosmos-2.5": Row(vision(patch_embed_hidden_size=192, head_dim=16, max_num_patches=32), KOSMOS,
        {"latent_query_num": 4}, n_image=4, inputs={"flattened_patches": FLATTENED,
        "image_embeds_position_mask": PLACED}, refused=UNNAMED),
    "florence2": Row({"depths": [1], "patch_size": [7], "patch_stride": [8], "patch_padding": [3],
        "patch_prenorm": [False], "embed_dim": [32], "num_heads": [2], "num_groups": [2], "window_size": 4,
        "projection_dim": 32, "max_position_embeddings": 8}, {"vocab_size": N_VOCABULARY, "d_model": 32,
        "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 128}, n_image=17,
        inputs=PIXELS, refused=TWO),
    "pix2struct": Row({"hidden_size": 32, "patch_embed_hidden_size": 192, "d_ff": 48, "d_kv": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "seq_len": 32}, {"vocab_size": N_VOCABULARY,
        "hidden_size": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1, "num_heads": 2},
        inputs={"flattened_patches": FLATTENED}, refused=TWO),
    "pp_formulanet": Row(SAM | {"post_conv_in_channels": 16, "post_conv_mid_channels": 16, "post_conv_out_channels": 32,
        "decoder_hidden_size": 32}, {"vocab_size": N_VOCABULARY, "d_model": 32, "encoder_layers": 1,
        "decoder_layers": 1, "decoder_ffn_dim": 48, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "max_position_embeddings": 128}, inputs=LARGE_PIXELS,
        refused=TWO),
    "t5gemma2": Row(None, None, {"encoder": {"vision_config": SIGLIP, "mm_tokens_per_image": 4,
        "text_config": text(**WINDOW, query_pre_attn_scalar=16)}, "decoder": text(**WINDOW, query_pre_attn_scalar=16)},
        n_image=4, inputs=PIXELS, refused=TWO),
    "udop": Row(None, None, {"vocab_size": N_VOCABULARY, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 1,
        "num_decoder_layers": 1, "num_heads": 2, "image_size": 32, "patch_size": 8, "max_2d_position_embeddings": 64},
        inputs={"pixel_values": (1, 3, 32, 32), "bbox": torch.zeros(1, 8, 4)},
        refused=TWO),
    "vision-encoder-decoder": Row(None, None, {"encoder": vision("vit"), "decoder": {"model_type": "gpt2",
        "vocab_size": N_VOCABULARY, "n_embd": 32, "n_layer": 1, "n_head": 2, "is_decoder": True,
        "add_cross_attention": True}}, inputs=PIXELS,
        refused=TWO),
    "diffusion_gemma": Row(vision("gemma4_vision", head_dim=16, num_key_value_heads=2, pooling_kernel_size=2,
        position_embedding_size=64), text(num_experts=4, top_k_experts=2, moe_intermediate_size=32, **WINDOW,
        global_head_dim=32), {"canvas_length": 8}, n_image=4, inputs={"pixel_values": (1, 16, 192),
        "image_position_ids": PLACES[None]},
        refused="writes blocks by diffusion: no token is predicted from those before it"),
}  # fmt: skip
TYPES = tuple(name for name, row in ROWS.items() if not row.refused)
REFUSED = {name: row.refused for name, row in ROWS.items() if row.refused}
NOT_BUILT = {
    "gemma3n": "its vision tower needs the package timm",
    "evolla": "reads proteins, no pictures",
    "mistral4": "the text model of another type: it takes no picture",
    "pi0": "returns the movements of a robot, no text",
}


@dataclass
class Tiny:
    """A random model with its processor (None where it has none here) and what that gives for one picture."""

    model: Any
    processor: Any
    inputs: dict[str, Any]
    image_token_id: int = IMAGE
    image_size: tuple[int, int] = PICTURE


def build(model_type: str, *, seed: int = 0) -> Tiny:
    """Return a random model of the type in float32 and eval mode, its processor, and inputs of one picture."""
    row = ROWS[model_type]
    kind = CONFIG_MAPPING[model_type]
    ids = {name: value for name, value in IDS.items() if hasattr(kind, name)}
    parts = {name: part for name in ("vision", "text") if (part := getattr(row, name)) is not None}
    fields = row.more | {f"{name}_config": part for name, part in parts.items()}
    config = kind(**(ids | copy.deepcopy(fields)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # for what is drawn besides the weights: some buffers
        model = AutoModelForImageTextToText.from_config(config).eval().requires_grad_(False)
    draw_weights(model, torch.Generator().manual_seed(seed))
    processor = build_processor(row)
    inputs = process(processor, draw_picture(seed)) if processor else make_inputs(row, seed)
    return Tiny(model, processor, inputs)


def draw_weights(model: Any, generator: torch.Generator) -> None:
    """Draw every weight anew: matrices keep the size of what passes, vectors move a little from what they are."""
    done: set[int] = set()
    for module in model.modules():
        is_convolution = isinstance(module, torch.nn.modules.conv._ConvNd)
        for weight in module.parameters(recurse=False):
            if id(weight) in done or not weight.is_floating_point():
                continue
            done.add(id(weight))
            noise = torch.randn(weight.shape, generator=generator)
            if weight.dim() < 2 or "Norm" in type(module).__name__:
                weight.data += 0.1 * noise
            else:
                weight.data = noise * 1.25 * (weight[0].numel() if is_convolution else weight.shape[-1]) ** -0.5


def draw_picture(seed: int = 0) -> Image.Image:
    """Return a picture of random colours in squares of 4 px."""
    width, height = PICTURE
    colours = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(colours.repeat(4, axis=0).repeat(4, axis=1))


def build_tokenizer(token: str) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer, `token` for one image token."""
    named = NAMED | {"image_token": token}
    special = ["<pad>", "<unk>", "<bos>", "<eos>"]
    special += [named[name] for name in ("image_token", "video_token", "boi_token", "eoi_token", "audio_token")]
    special += ["<|begin_of_video|>", "<|end_of_video|>"]
    special = list(dict.fromkeys([*special, *named.values(), *OTHERS.split(), "<image>"]))
    unused = [f"<unused{place}>" for place in range(len(special), FIRST)]
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys([*special, *unused, *WORDS.split()]))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>",
        extra_special_tokens=special[4:], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    for name, value in named.items():
        for alias in (name, *ALIASES.get(name, ())):
            setattr(tokenizer, alias, value)
            setattr(tokenizer, f"{alias}_id", vocabulary[value])
    return tokenizer


def find_class(name: str) -> Any:
    """Return a processor class; one that transformers hides without torchvision, for a function that PIL has too."""
    found = getattr(transformers, name)
    if not getattr(found, "is_dummy", False):
        return found
    stem = "transformers.models.pixtral"
    own = importlib.import_module(f"{stem}.image_processing_pil_pixtral")
    with patch.dict(sys.modules, {f"{stem}.image_processing_pixtral": own}):
        return getattr(importlib.import_module(f"{stem}.processing_pixtral"), name)


def build_processor(row: Row) -> Any:
    """Return the type's real processor, without its video and sound halves, which need packages that are absent."""
    if not row.processor:
        return None
    kind = find_class(row.processor)
    if row.processor == "SmolVLMProcessor":  # it spells out the times of a video's frames
        sys.modules[kind.__module__].num2words = str
    images = getattr(transformers, row.images)(**row.sizes)
    images.__dict__.update(row.own)
    halves: dict[str, Any] = dict.fromkeys(kind.get_attributes())
    halves |= {"tokenizer": build_tokenizer(row.word), "image_processor": images}
    if row.video:
        halves["video_processor"] = SimpleNamespace(**row.video)
    checked = {"check_argument_for_proper_class": lambda *_: None}
    processor = type(row.processor, (kind,), checked)(**halves, **row.settings)
    processor.__dict__.update(row.says)
    processor.chat_template = TEMPLATE.replace("SHOWN", row.shown)
    return processor


def make_inputs(row: Row, seed: int) -> dict[str, Any]:
    """Return what the processor would make of one picture and a question, with random pixels."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.arange(FIRST, FIRST + 5)
    ids = torch.cat([words[:1], torch.tensor([OPEN]), torch.full((row.n_image,), IMAGE), torch.tensor([CLOSE]), words])
    made = {"input_ids": ids[None], "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    for name, given in row.inputs.items():
        made[name] = given if isinstance(given, torch.Tensor) else torch.randn(given, generator=generator)
    if row.refused == TWO:  # as long as the prompt: a recording must not take the decoder's keys for the prompt's
        made["decoder_input_ids"] = torch.arange(FIRST, FIRST + len(ids))[None]
    if row.types:
        made["mm_token_type_ids"] = (made["input_ids"] == IMAGE).long()
    return made


def process(processor: Any, picture: Image.Image) -> dict[str, Any]:
    """Return what a processor makes of one picture and a question."""
    content = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
    return dict(processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True, return_dict=True,
        return_tensors="pt",
    ))  # fmt: skip


@dataclass
class Reference:
    """What eager attention gives for T response rows: by layer float32 [H, T, keys], and logits float32 [T, V]."""

    attention: list[torch.Tensor]
    logits: torch.Tensor


def extend(model: Any, inputs: dict[str, Any], response: list[int]) -> dict[str, Any]:
    """Return the inputs of one pass over prompt and response, from those of the prompt, as `generate` extends them."""
    # the processor of PaliGemma returns labels, all of them ignored: a loss over the prompt alone does not fit
    extended = {name: value for name, value in inputs.items() if name not in ("input_ids", "labels")}
    for _ in response:
        extended = model._update_model_kwargs_for_generation(
            ModelOutput(), extended, is_encoder_decoder=False, num_new_tokens=1
        )
    n_prompt, n_keys = inputs["input_ids"].shape[1], inputs["input_ids"].shape[1] + len(response)
    for name, value in extended.items():  # the kinds of tokens of Ernie's experts: what is left short is text
        if name.endswith("token_type_ids") and value.shape[1] == n_prompt:
            extended[name] = torch.nn.functional.pad(value, (0, n_keys - n_prompt))
    ids = torch.cat([inputs["input_ids"], torch.tensor([response], dtype=torch.long)], dim=1)
    return extended | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def read_eager(model: Any, inputs: dict[str, Any], response: list[int]) -> Reference:
    """Run prompt and response through eager attention, without a cache; the model is left as it was found."""
    configs = {id(part): part for module in model.modules() if isinstance(part := getattr(module, "config", 0), Config)}
    before = [(part, part._attn_implementation) for part in configs.values()]
    start = inputs["input_ids"].shape[1] - 1
    try:
        model.set_attn_implementation("eager")
        with torch.no_grad():
            found = model(**extend(model, inputs, response), use_cache=False, output_attentions=True)
    finally:
        for part, name in before:
            part._attn_implementation = name
    rows = slice(start, start + len(response))
    layers = getattr(found, "language_model_outputs", found).attentions  # InstructBLIP keeps them one level down
    attention = [layer[0, :, rows].float() for layer in layers if layer is not None]
    return Reference(attention, found.logits[0, rows].float())
