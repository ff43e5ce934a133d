"""The Keras tests run on the backend that KERAS_BACKEND names, one to a process."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

BACKEND = os.environ["KERAS_BACKEND"]


@pytest.fixture(scope="session", autouse=True)
def two_devices() -> None:
    """Replicas need devices, which TensorFlow makes only before it does anything else."""
    if BACKEND == "tensorflow":
        tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )


@pytest.fixture
def backend() -> str:
    return BACKEND


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20250122)
