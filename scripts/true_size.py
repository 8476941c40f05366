"""A SmolVLA of true size (450 M parameters) with random weights, made without any download."""

from pathlib import Path

from transformers import SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

from scripts.tiny_vlm import make_tokenizer
from zk0.learning.policy import VLM_FOLDER


def write_vlm(folder: Path) -> None:
    """The config of SmolVLM2-500M, which SmolVLA is built on, with a small tokenizer of our own."""
    tokenizer = make_tokenizer(["Pick up the cube."])
    text = {"model_type": "llama", "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32}
    text |= {"num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64, "vocab_size": 49280}
    text |= {"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0}
    text |= {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": 1, "eos_token_id": 2}
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision |= {"image_size": 512, "patch_size": 16}
    config = SmolVLMConfig(  # type: ignore[call-arg]  # see tiny_vlm
        text_config=text,
        vision_config=vision,
        scale_factor=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    config.architectures = ["SmolVLMForConditionalGeneration"]
    config.save_pretrained(folder)
    size = {"longest_edge": 512}
    SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(size=size, max_image_size=size, do_image_splitting=False),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(size=size, max_image_size=size, do_image_splitting=False),
        image_seq_len=64,
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_base(folder: str) -> int:
    """Save a SmolVLA of true size as a base; gives its number of parameters. Runs in a process of its own."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies import make_pre_post_processors
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    base = Path(folder)
    write_vlm(base / VLM_FOLDER)
    image = PolicyFeature(FeatureType.VISUAL, (3, 64, 64))
    config = SmolVLAConfig(
        vlm_model_name=str(base / VLM_FOLDER),
        load_vlm_weights=False,
        device="cpu",
        push_to_hub=False,
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (6,)),
            "observation.images.front": image,
            "observation.images.wrist": image,
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (6,))},
    )
    policy = SmolVLAPolicy(config)
    preprocessor, postprocessor = make_pre_post_processors(config)
    config.vlm_model_name = VLM_FOLDER
    policy.save_pretrained(base)
    preprocessor.save_pretrained(base)
    postprocessor.save_pretrained(base)
    return sum(value.numel() for value in policy.parameters())
