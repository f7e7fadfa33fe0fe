"""Denormal numbers are zero within a step, on every thread, and stay numbers for the rest of the program."""

import numpy as np
import pytest

from bptcnn.inner.executor import Executor
from bptcnn.inner.subnetwork import Subnetwork
from bptcnn.networks import Dense, Flatten, Network

TINY = np.float32(1e-40)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_velocity_does_not_stay_denormal(threads: int) -> None:
    executor = Executor(threads)
    try:
        network = Network((40, 40, 4), [Flatten(), Dense(32, bias=False)])  # enough weights for tasks on every thread
        subnetwork = Subnetwork(network, 2, executor)
        subnetwork.velocity[:] = TINY
        samples = np.zeros((2, 40, 40, 4), np.float32)
        subnetwork.step(samples, np.zeros(2, np.int32), rate=0.1, momentum=0.9)
        assert not subnetwork.velocity.any()
        assert not subnetwork.weights.any()
    finally:
        executor.close()


def test_the_caller_keeps_its_denormal_numbers() -> None:
    executor = Executor(2)
    try:
        subnetwork = Subnetwork(Network((2, 2, 1), [Flatten(), Dense(2)]), 2, executor)
        for _ in range(3):
            subnetwork.step(np.ones((2, 2, 2, 1), np.float32), np.zeros(2, np.int32), rate=0.1)
            halves = np.full(64, TINY) * np.float32(0.5)
            assert (halves > 0).all()
    finally:
        executor.close()


def test_infinity_and_nan_stay_visible() -> None:
    executor = Executor(1)
    try:
        subnetwork = Subnetwork(Network((1, 1, 1), [Flatten(), Dense(2)]), 1, executor)
        subnetwork.weights[:] = 1
        for value in (np.inf, np.nan):
            result = subnetwork.step(np.full((1, 1, 1, 1), value, np.float32), np.zeros(1, np.int32))
            assert np.isnan(result.loss)
    finally:
        executor.close()
