"""Builds the configuration, tokenizer and processor (no weights) of the base's tiny vision-language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

LAYERS = 4
IMAGE_SIZE = 64
_HIDDEN, _HEADS, _KV_HEADS, _MLP = 128, 4, 2, 256
_VISION_HIDDEN, _VISION_LAYERS, _VISION_HEADS, _VISION_MLP, _PATCH = 96, 3, 4, 192, 8
_PIXEL_SHUFFLE = 2  # merges 2x2 patches into one token
_VOCABULARY = 384
_SPECIAL_TOKENS = {
    "unk_token": "<|endoftext|>",
    "bos_token": "<|im_start|>",
    "pad_token": "<|im_end|>",
    "eos_token": "<end_of_utterance>",
}
_EXTRA_TOKENS = {
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "image_token": "<image>",
    "end_of_utterance_token": "<end_of_utterance>",
    "video_token": "<video>",
}


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the task texts; the byte alphabet lets it read any other text too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=list(dict.fromkeys([*_SPECIAL_TOKENS.values(), *_EXTRA_TOKENS.values()])),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=8192, extra_special_tokens=_EXTRA_TOKENS, **_SPECIAL_TOKENS
    )


def _make_config(tokenizer: PreTrainedTokenizerFast) -> SmolVLMConfig:
    text = {
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": _MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HIDDEN // _HEADS,
        "vocab_size": _VOCABULARY,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "attention_bias": False,
    }
    vision = {
        "hidden_size": _VISION_HIDDEN,
        "intermediate_size": _VISION_MLP,
        "num_hidden_layers": _VISION_LAYERS,
        "num_attention_heads": _VISION_HEADS,
        "image_size": IMAGE_SIZE,
        "patch_size": _PATCH,
    }
    config = SmolVLMConfig(  # type: ignore[call-arg]  # its arguments are its annotations, by a decorator without types
        text_config=text,
        vision_config=vision,
        scale_factor=_PIXEL_SHUFFLE,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    config.architectures = ["SmolVLMForConditionalGeneration"]
    return config


def build_tiny_vlm(out: Path, texts: Sequence[str]) -> None:
    """Writes the folder that SmolVLA's `vlm_model_name` names; its tokenizer is trained on the texts."""
    out.mkdir(parents=True)
    tokenizer = make_tokenizer(texts)
    _make_config(tokenizer).save_pretrained(out)
    size = {"longest_edge": IMAGE_SIZE}
    SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(size=size, max_image_size=size, do_image_splitting=False),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(size=size, max_image_size=size, do_image_splitting=False),
        image_seq_len=(IMAGE_SIZE // _PATCH) ** 2 // _PIXEL_SHUFFLE**2,
    ).save_pretrained(out)
    tokenizer.save_pretrained(out)
