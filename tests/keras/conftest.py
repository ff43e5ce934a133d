"""The Keras tests run on the backend that KERAS_BACKEND names, one to a process."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

BACKEND = os.environ["KERAS_BACKEND"]
DEVICES = 4
"""So many can train together. Both frameworks make devices only before they do anything else."""

if BACKEND == "jax":
    flags = f"--xla_force_host_platform_device_count={DEVICES}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


@pytest.fixture(scope="session", autouse=True)
def devices() -> None:
    if BACKEND == "tensorflow":
        tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * DEVICES
        )


@pytest.fixture(scope="session")
def mirrored() -> Any:
    """TensorFlow's strategy for two devices. One for all tests: what several of them send would get mixed up."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture
def backend() -> str:
    return BACKEND


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20250122)
