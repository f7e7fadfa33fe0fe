"""Where a run stands: the states of the coordinator's machine, see `coordinator`."""

from enum import Enum


class Phase(Enum):
    """Where the run stands."""

    STARTING = "starting"
    TRAINING = "training"
    PAUSING = "pausing"
    RECORDING = "recording"
    FINISHED = "finished"
