"""What an executor counts in its steps."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepCounts:
    """Steps that were run, the nanoseconds from their beginnings to their ends, and what each worker did in them.

    `idle`: nanoseconds without a task, waking up for the step included; `steals`: tasks taken from other workers.
    """

    steps: int
    nanoseconds: int
    idle: tuple[int, ...]
    steals: tuple[int, ...]

    def since(self, earlier: "StepCounts") -> "StepCounts":
        """Return what was counted after `earlier`."""
        idle = tuple(now - before for now, before in zip(self.idle, earlier.idle, strict=True))
        steals = tuple(now - before for now, before in zip(self.steals, earlier.steals, strict=True))
        return StepCounts(self.steps - earlier.steps, self.nanoseconds - earlier.nanoseconds, idle, steals)

    @property
    def idle_share(self) -> float:
        """The share of the workers' time within steps that they had no task; 0 before the first step."""
        return sum(self.idle) / (len(self.idle) * self.nanoseconds) if self.nanoseconds else 0.0

    @property
    def steals_per_step(self) -> float:
        """Tasks of a step that a worker took from another one; 0 before the first step."""
        return sum(self.steals) / self.steps if self.steps else 0.0
