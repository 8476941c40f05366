"""zk0.memory.gpu where there is none."""


def test_a_sampler_without_a_gpu_is_harmless():
    from zk0.memory.gpu import read_gpus

    assert all(0 <= gpu.used_bytes <= gpu.total_bytes for gpu in read_gpus())
