"""Where everything in a weight buffer's memory lies.

    words     what
    header    16 words: the layout itself, so that compiled code needs one pointer only
    segments  one word per segment: version << 21 | slot
    control   32 words per writer: sequences, intent, table entries, two submission records
    pool      segments + writers slots: one word per writer (the last sequence merged in), then float32 [16384]
    staging   per writer a delta: float32 [parameters]; last, so that a writer's needs no memory before it comes

Offsets are in bytes and multiples of 64, those of staging and pool of 4096. A field of the header or of a control
block is named by its index in words.
"""

from dataclasses import dataclass

SEGMENT_FLOATS = 16384  # 64 KiB: long against a swap's microsecond, short against L2
HEADER_WORDS = 16
MAGIC, PARAMETERS, WRITERS, SEGMENTS, CONTROL, STAGING, STAGING_BYTES, POOL, SLOT_BYTES, SLOT_HEADER = range(10)
MAGIC_VALUE = 0x62707463_6E6E0001

SLOT_BITS = 21
SLOT_MASK = (1 << SLOT_BITS) - 1
NO_SEGMENT = SLOT_MASK  # in an intent: nothing under way

CONTROL_WORDS = 32
COMMITTED, MERGED, INTENT, BASE, QUALITY, LIVE = range(6)
RECORDS = 8  # the record of sequence s is at RECORDS + RECORD_WORDS * (s & 1)
RECORD_WORDS = 8
SCALE, SAMPLES, USER = range(3)
USER_WORDS = 4


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


@dataclass(frozen=True)
class Layout:
    """Offsets and sizes, in bytes, of a buffer for `parameters` weights and `writers` writers."""

    parameters: int
    writers: int

    def __post_init__(self) -> None:
        if self.parameters < 1 or self.writers < 1:
            raise ValueError(f"a weight buffer needs weights and writers, got {self.parameters} and {self.writers}")
        if self.slots >= NO_SEGMENT:
            raise ValueError(f"{self.parameters} weights need {self.slots} slots, more than {NO_SEGMENT - 1}")

    @property
    def segments(self) -> int:
        """Number of segments; the last one may be shorter than SEGMENT_FLOATS."""
        return -(-self.parameters // SEGMENT_FLOATS)

    @property
    def slots(self) -> int:
        """Number of pool slots: one per segment and a spare per writer."""
        return self.segments + self.writers

    @property
    def control(self) -> int:
        """Offset of the first control block."""
        return _up(8 * (HEADER_WORDS + self.segments), 64)

    @property
    def staging(self) -> int:
        """Offset of the first staged delta."""
        return _up(self.pool + self.slot_bytes * self.slots, 4096)

    @property
    def staging_bytes(self) -> int:
        """Distance between two writers' staged deltas."""
        return _up(4 * self.parameters, 4096)

    @property
    def pool(self) -> int:
        """Offset of the first slot."""
        return _up(self.control + 8 * CONTROL_WORDS * self.writers, 4096)

    @property
    def slot_header(self) -> int:
        """Bytes of a slot before its weights."""
        return _up(8 * self.writers, 64)

    @property
    def slot_bytes(self) -> int:
        """Distance between two slots."""
        return self.slot_header + 4 * min(SEGMENT_FLOATS, _up(self.parameters, 16))

    @property
    def size(self) -> int:
        """Size of the whole buffer."""
        return self.size_with(self.writers)

    def size_with(self, writers: int) -> int:
        """Size of the part that the first `writers` writers use."""
        return self.staging + self.staging_bytes * writers

    def header(self) -> list[int]:
        """Return the header's words."""
        return [
            MAGIC_VALUE,
            self.parameters,
            self.writers,
            self.segments,
            self.control,
            self.staging,
            self.staging_bytes,
            self.pool,
            self.slot_bytes,
            self.slot_header,
        ]
