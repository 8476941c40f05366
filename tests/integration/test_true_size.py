"""One real step at SmolVLA's true dimensions (450 M parameters, random weights), through the client's own code."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

from scripts.tiny_vlm import make_tokenizer
from zk0.config import RunConfig
from zk0.executors.process import ProcessExecutor
from zk0.policy import VLM_FOLDER
from zk0.records import RoundState
from zk0.run_store import RunStore

PARAMETERS = 450_000_000


def write_vlm(folder: Path) -> None:
    """The config of SmolVLM2-500M, which SmolVLA is built on, with a small tokenizer of our own."""
    tokenizer = make_tokenizer(["Pick up the cube."])
    text = {"model_type": "llama", "hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 32}
    text |= {"num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64, "vocab_size": 49280}
    text |= {"max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0}
    text |= {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": 1, "eos_token_id": 2}
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    vision |= {"image_size": 512, "patch_size": 16}
    config = SmolVLMConfig(
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


@pytest.mark.slow
def test_one_step_at_true_size(small_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    base = tmp_path / "base"
    changes = {"policy__path": str(base), "data__normalization": "federated", "peft__r": 16, "peft__lora_alpha": 32}
    config = small_config(**changes, training__steps=1, training__batch_size=1, training__num_threads=2)
    executor = ProcessExecutor(config.executor)
    parameters = executor.call(write_base, str(base))
    assert parameters == pytest.approx(PARAMETERS, rel=0.02)

    store = RunStore.create_or_open(config, "true-size")
    statistics = executor.run(store.task("statistics", 0, "kitchen"))
    initial = executor.run(store.task("init", 0, "server"))
    assert initial.tensors is not None
    state = RoundState(server_round=0, arrays=initial.tensors, stats=statistics.tensors)
    result = executor.run(store.task("train", 1, "kitchen", state))
    assert result.tensors is not None
    assert result.tensors.sha256 != initial.tensors.sha256
    assert result.metrics["loss"] > 0
    assert result.tensors.size < parameters * 4 / 100, "more than a hundredth of the model travels"
