"""Training time, and which epoch it belongs to.

    start ── nodes train: a images of epoch e, b of epoch e + 1 ── stop, cut: epoch e is recorded ── start ── ...

Nodes run ahead, so between two cuts images of two epochs are trained; an epoch may even be complete before the one
before it has ended. The time between two cuts is divided over the two by images. So the epochs' seconds add up to the
training time, those of each times its images/s are its images, and none lasts no time.
"""

from dataclasses import dataclass
from math import inf

from bptcnn.rates import rate

_LEAST_SHOWN_SECONDS = 0.25  # a speed over less says more about when reports came


@dataclass(frozen=True)
class Stretch:
    """Images, and the training time that they took."""

    images: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be: it may come from a file."""
        if not (self.images >= 0 and 0.0 <= self.seconds < inf):
            raise ValueError(f"{self.images} images in {self.seconds} s")

    @property
    def images_per_second(self) -> float:
        """Speed; 0.0 where it is not known."""
        return rate(self.images, self.seconds)


NOTHING = Stretch()


class EpochClock:
    """Runs while nodes train; times are monotonic seconds, `images` counts all that the run has trained.

    `ahead`: what of the coming epoch was trained before, as far as its time is known.
    """

    def __init__(self, images: int, ahead: Stretch) -> None:
        self.ahead = ahead
        self.total = 0.0  # seconds that it ran
        self._images = images  # at the last cut
        self._since_cut = 0.0
        self._began: float | None = None

    @property
    def runs(self) -> bool:
        """Whether nodes train."""
        return self._began is not None

    def start(self, now: float) -> None:
        """Training begins, or goes on."""
        self._began = now

    def stop(self, now: float) -> None:
        """Training stands still; safe to call again."""
        if self._began is not None:
            self.total += now - self._began
            self._since_cut += now - self._began
            self._began = None

    def cut(self, images: int, ahead: int) -> Stretch:
        """An epoch is over and `ahead` images of the next one are trained; return what the epoch took."""
        trained = images - self._images
        ahead = min(ahead, trained)
        of_next = self._since_cut * ahead / trained if trained else 0.0
        epoch = Stretch(self.ahead.images + trained - ahead, self.ahead.seconds + self._since_cut - of_next)
        self.ahead = Stretch(ahead, of_next)
        self._images, self._since_cut = images, 0.0
        return epoch

    def speed(self, now: float, images: int) -> float:
        """Images/s since the last cut and in what was trained ahead then; 0.0 while that is too short to tell."""
        seconds = self.ahead.seconds + self._since_cut + (0.0 if self._began is None else now - self._began)
        so_far = Stretch(self.ahead.images + images - self._images, seconds)
        return so_far.images_per_second if seconds >= _LEAST_SHOWN_SECONDS else 0.0
