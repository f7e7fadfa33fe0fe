"""The lock-free algorithm on a weight buffer's memory, compiled.

    segment word --> slot x (current)      merge: build old + scale * delta in the spare y,
    writer's spare ----> slot y                   swap the word x -> y, x becomes the spare

Guarantees
- No update is lost: a slot is built from the value that the swap replaces, or the swap fails and is redone.
- No torn segment is seen: a copy counts only if the segment's word has not moved meanwhile.
- Nobody waits: a merge or a copy is redone only because another merge has just gone through; readers write nothing.
- A submission is merged into each segment exactly once, even if its writer dies at any instruction: slots carry, per
  writer, the last sequence merged into them, and every later slot of the segment inherits it.
- No slot is lost: before a swap the writer stores its intent (segment, new slot, old slot) in one word. The swap took
  effect exactly if the segment now carries the writer's sequence; then the old slot is the spare, else the new one.

Ordering assumed: that of C11. The word's version grows with every swap, so an unchanged word means an unchanged slot.
- A slot is filled before it is shown: the swap releases, whoever loads the word acquires.
- A slot is overwritten only after it was withdrawn: `fence_release` lies between a swap and the first store into the
  slot that it freed. A reader that saw such a store and then passes `fence_acquire` therefore finds the word moved.
  An acquire load alone would let the copy slide below it. The same pair guards the builder (its swap is the second
  look), and the two submission records, of which the one being written is never the committed one.
- Data may be read while it is overwritten; such values are thrown away and never branched upon.
- A killed process leaves a prefix of its program's stores, which waiting for its end makes visible to the waiter. The
  compiler keeps intent, swap and sequences in order because each is a release store or a swap.

`steps` counts down at every point where a crash makes a difference; at 0 the function returns as if killed there.
With UNLIMITED it never does: the tests stop the very code that runs.
"""

# mypy: disable-error-code="call-arg, var-annotated, no-any-return"
# (an intrinsic's declaration has a typing context that its callers do not pass)

import numpy as np
import numpy.typing as npt

from bptcnn.kernels.atomics import compare_and_swap, fence_acquire, fence_release, load_acquire, store_release
from bptcnn.kernels.compilation import compiled
from bptcnn.kernels.pointers import floats, words
from bptcnn.memory.layout import (
    BASE,
    COMMITTED,
    CONTROL,
    CONTROL_WORDS,
    HEADER_WORDS,
    INTENT,
    LIVE,
    MERGED,
    NO_SEGMENT,
    PARAMETERS,
    POOL,
    QUALITY,
    RECORD_WORDS,
    RECORDS,
    SAMPLES,
    SCALE,
    SEGMENT_FLOATS,
    SEGMENTS,
    SLOT_BITS,
    SLOT_BYTES,
    SLOT_HEADER,
    SLOT_MASK,
    STAGING,
    STAGING_BYTES,
    USER,
    USER_WORDS,
    WRITERS,
)

Words = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
UNLIMITED = -1
NOWHERE: Floats = np.empty(0, np.float32)
"""Where a copy is not wanted."""
TABLE_COLUMNS = (BASE, QUALITY, LIVE, MERGED, COMMITTED)


def table_rows(writers: int) -> Words:
    """Return room for what `read_table` reads."""
    return np.empty((len(TABLE_COLUMNS), writers), np.int64)


@compiled("int64(int64[::1])")
def _base(memory: Words) -> int:
    return np.int64(memory.ctypes.data)  # type: ignore[return-value]  # unsigned would turn sums into floats


@compiled("int64(int64, int64)")
def _word(base: int, segment: int) -> int:
    return base + 8 * (HEADER_WORDS + segment)


@compiled("int64(int64, int64)")
def _slot(base: int, slot: int) -> int:
    header = words(base, HEADER_WORDS)
    return int(base + header[POOL] + slot * header[SLOT_BYTES])


@compiled("int64(int64, int64)")
def _control(base: int, writer: int) -> int:
    return int(base + words(base, HEADER_WORDS)[CONTROL] + 8 * CONTROL_WORDS * writer)


@compiled("int64(int64, int64)")
def _record(control: int, sequence: int) -> int:
    return control + 8 * (RECORDS + RECORD_WORDS * (sequence & 1))


@compiled("int64(int64, int64)")
def _length(base: int, segment: int) -> int:
    return min(SEGMENT_FLOATS, words(base, HEADER_WORDS)[PARAMETERS] - segment * SEGMENT_FLOATS)


@compiled("int64(int64, int64, int64)")
def _intent(segment: int, new: int, old: int) -> int:
    return segment << (2 * SLOT_BITS) | new << SLOT_BITS | old


@compiled("int64(int64, int64, int64, int64)")
def _carries(base: int, segment: int, writer: int, sequence: int) -> int:
    """Tell whether the segment has this writer's submission merged in."""
    while True:
        word = load_acquire(_word(base, segment))
        carried = load_acquire(_slot(base, word & SLOT_MASK) + 8 * writer)
        fence_acquire()
        if load_acquire(_word(base, segment)) == word:
            return int(carried == sequence)


@compiled("int64(int64, int64)")
def _spare(base: int, writer: int) -> int:
    """Return the writer's spare slot, wherever its last merge ended or was cut short; nobody may merge for it now."""
    control = _control(base, writer)
    intent = load_acquire(control + 8 * INTENT)
    segment = intent >> (2 * SLOT_BITS)
    if segment != NO_SEGMENT and _carries(base, segment, writer, load_acquire(control + 8 * COMMITTED)):
        return int(intent & SLOT_MASK)
    return int((intent >> SLOT_BITS) & SLOT_MASK)


@compiled("void(int64, int64, int64, int64, int64, int64, float32)")
def _build(base: int, segment: int, old: int, new: int, writer: int, sequence: int, scale: np.float32) -> None:
    """Fill slot `new` with the segment's next value: old + scale * delta, and whose sequences it carries."""
    header = words(base, HEADER_WORDS)
    source, target = _slot(base, old), _slot(base, new)
    carried, carries = words(source, header[WRITERS]), words(target, header[WRITERS])
    for index in range(header[WRITERS]):
        carries[index] = carried[index]
    carries[writer] = sequence
    length = _length(base, segment)
    staged = base + header[STAGING] + writer * header[STAGING_BYTES] + 4 * SEGMENT_FLOATS * segment
    before, after = floats(source + header[SLOT_HEADER], length), floats(target + header[SLOT_HEADER], length)
    delta = floats(staged, length)
    for index in range(length):
        after[index] = before[index] + scale * delta[index]


@compiled("void(int64, int64, int64, float32[::1], float32[::1])")
def _copy(base: int, segment: int, slot: int, out: Floats, other: Floats) -> None:
    """Copy a slot to a segment's place in `out` and in `other`, unless that is NOWHERE."""
    first, length = segment * SEGMENT_FLOATS, _length(base, segment)
    source = floats(_slot(base, slot) + words(base, HEADER_WORDS)[SLOT_HEADER], length)
    target = out[first : first + length]
    for index in range(length):  # assigning slices is several times slower
        target[index] = source[index]
    if other.size:
        target = other[first : first + length]
        for index in range(length):
            target[index] = source[index]


@compiled("int64(int64[::1], int64, int64, float32[::1], float32[::1])")
def merge_and_copy(memory: Words, writer: int, steps: int, out: Floats, other: Floats) -> int:
    """Merge the writer's committed submission into every segment that lacks it; return the steps that are left.

    What it makes of a segment is copied to `out` and `other` as well, unless that is NOWHERE. A scale of 0 changes no
    weight, whatever the delta holds: such a submission is only counted, and nothing is copied.
    """
    base = _base(memory)
    control = _control(base, writer)
    sequence = load_acquire(control + 8 * COMMITTED)
    if load_acquire(control + 8 * MERGED) == sequence:
        return steps
    scale = np.float32(words(_record(control, sequence), RECORD_WORDS).view(np.float64)[SCALE])
    segments = words(base, HEADER_WORDS)[SEGMENTS]
    first = writer * segments // words(base, HEADER_WORDS)[WRITERS]  # writers start apart, so they rarely collide
    spare = _spare(base, writer)
    turn = 0 if scale != 0 else segments
    while turn < segments:
        segment = (first + turn) % segments
        if _carries(base, segment, writer, sequence):
            turn += 1
            continue
        word = load_acquire(_word(base, segment))
        old = word & SLOT_MASK
        store_release(control + 8 * INTENT, _intent(segment, spare, old))
        steps -= 1
        if steps == 0:
            return 0
        _build(base, segment, old, spare, writer, sequence, scale)
        if out.size:
            _copy(base, segment, spare, out, other)
        steps -= 1
        if steps == 0:
            return 0
        fence_acquire()
        if compare_and_swap(_word(base, segment), word, ((word >> SLOT_BITS) + 1) << SLOT_BITS | spare):
            steps -= 1
            if steps == 0:
                return 0
            fence_release()
            spare = old
            turn += 1
    store_release(control + 8 * INTENT, _intent(NO_SEGMENT, spare, 0))
    steps -= 1
    if steps == 0:
        return 0
    store_release(control + 8 * MERGED, sequence)
    return steps


@compiled("int64(int64[::1], int64, int64)")
def merge(memory: Words, writer: int, steps: int) -> int:
    """`merge_and_copy`, without a copy."""
    nowhere = np.empty(0, np.float32)
    return merge_and_copy(memory, writer, steps, nowhere, nowhere)


@compiled("void(int64[::1], float32[::1])")
def replace(memory: Words, weights: Floats) -> None:
    """Set every segment, through writer 0's spare; no writer may merge meanwhile, readers may read."""
    base = _base(memory)
    header = words(base, HEADER_WORDS)
    control = _control(base, 0)
    spare = _spare(base, 0)
    for segment in range(header[SEGMENTS]):
        word = load_acquire(_word(base, segment))
        old = word & SLOT_MASK
        words(_slot(base, spare), header[WRITERS])[:] = words(_slot(base, old), header[WRITERS])
        length = _length(base, segment)
        first = segment * SEGMENT_FLOATS
        floats(_slot(base, spare) + header[SLOT_HEADER], length)[:] = weights[first : first + length]
        compare_and_swap(_word(base, segment), word, ((word >> SLOT_BITS) + 1) << SLOT_BITS | spare)
        fence_release()
        spare = old
    store_release(control + 8 * INTENT, _intent(NO_SEGMENT, spare, 0))


@compiled("void(int64[::1], float32[::1], float32[::1])")
def snapshot(memory: Words, out: Floats, other: Floats) -> None:
    """Copy the weight set to `out` and to `other`, unless that is NOWHERE.

    Each segment is one that existed, different segments may be of different times.
    """
    base = _base(memory)
    for segment in range(words(base, HEADER_WORDS)[SEGMENTS]):
        while True:
            word = load_acquire(_word(base, segment))
            _copy(base, segment, word & SLOT_MASK, out, other)
            fence_acquire()
            if load_acquire(_word(base, segment)) == word:
                break


@compiled("int64(int64[::1], int64, float64, int64, int64[::1], int64)")
def commit(memory: Words, writer: int, scale: float, samples: int, user: Words, steps: int) -> int:
    """Make the staged delta a submission by one store; return its sequence number, 0 if stopped before that store."""
    control = _control(_base(memory), writer)
    sequence = load_acquire(control + 8 * COMMITTED) + 1
    fence_release()  # readers of the record before the last one see that it is no longer the committed one
    record = words(_record(control, sequence), RECORD_WORDS)
    record.view(np.float64)[SCALE] = scale
    record[SAMPLES] = words(_record(control, sequence - 1), RECORD_WORDS)[SAMPLES] + samples
    for index in range(USER_WORDS):
        record[USER + index] = user[index]
    if steps == 1:
        return 0
    store_release(control + 8 * COMMITTED, sequence)
    return int(sequence)


@compiled("int64(int64[::1], int64, int64)")
def load(memory: Words, writer: int, field: int) -> int:
    """Return one word of the writer's control block."""
    return int(load_acquire(_control(_base(memory), writer) + 8 * field))


@compiled("void(int64[::1], int64, int64, int64)")
def store(memory: Words, writer: int, field: int, value: int) -> None:
    """Set one word of the writer's control block."""
    store_release(_control(_base(memory), writer) + 8 * field, value)


@compiled("int64(int64[::1])")
def merged_updates(memory: Words) -> int:
    """Return how many submissions have been merged by all writers."""
    base = _base(memory)
    total = 0
    for writer in range(words(base, HEADER_WORDS)[WRITERS]):
        total += load_acquire(_control(base, writer) + 8 * MERGED)
    return total


@compiled("boolean(int64[::1], int64)")
def pending(memory: Words, writer: int) -> bool:
    """Tell whether the writer's last submission is committed and not yet merged."""
    # merged first: it follows committed, so an answer of False cannot be a mix of two moments
    merged = load(memory, writer, MERGED)
    return load(memory, writer, COMMITTED) > merged


@compiled("UniTuple(int64, 2)(int64[::1], int64, float64, int64, float32[::1], float32[::1])")
def submit(memory: Words, writer: int, scale: float, samples: int, out: Floats, other: Floats) -> tuple[int, int]:
    """Commit and merge the staged delta, and `refresh`; return its sequence number and the version.

    (0, 0), and nothing is done, if the submission before it is not merged.
    """
    if pending(memory, writer):
        return 0, 0
    version = merged_updates(memory) + 1
    sequence = commit(memory, writer, scale, samples, np.zeros(USER_WORDS, np.int64), UNLIMITED)
    merge_and_copy(memory, writer, UNLIMITED, out, other)
    if scale == 0:
        snapshot(memory, out, other)
    store(memory, writer, BASE, version)
    return int(sequence), int(version)


@compiled("int64(int64[::1], int64, float32[::1], float32[::1])")
def refresh(memory: Words, writer: int, out: Floats, other: Floats) -> int:
    """Copy the weight set, publish and return its version, which is read before the copy."""
    version = merged_updates(memory)
    snapshot(memory, out, other)
    store(memory, writer, BASE, version)
    return int(version)


@compiled("int64(int64[::1], int64, int64[::1])")
def read_submission(memory: Words, writer: int, out: Words) -> int:
    """Copy the record of the writer's last committed submission; return its sequence number, 0 if there is none."""
    control = _control(_base(memory), writer)
    while True:
        sequence = load_acquire(control + 8 * COMMITTED)
        out[:] = words(_record(control, sequence), RECORD_WORDS)
        fence_acquire()
        if load_acquire(control + 8 * COMMITTED) == sequence:
            return int(sequence)


@compiled("void(int64[::1], int64, float64)")
def rescale(memory: Words, writer: int, scale: float) -> None:
    """Give the committed submission another scale; its merge must not have begun."""
    control = _control(_base(memory), writer)
    words(_record(control, load_acquire(control + 8 * COMMITTED)), RECORD_WORDS).view(np.float64)[SCALE] = scale


@compiled("int64(int64[::1], int64)")
def spare_slot(memory: Words, writer: int) -> int:
    """Return the spare slot of a writer that is not merging."""
    return _spare(_base(memory), writer)


@compiled("void(int64[::1], int64[:, ::1])")
def read_table(memory: Words, out: Words) -> None:
    """Copy the words named by TABLE_COLUMNS of every writer into the rows of `out`."""
    base = _base(memory)
    for writer in range(out.shape[1]):
        for column in range(out.shape[0]):
            out[column, writer] = load_acquire(_control(base, writer) + 8 * TABLE_COLUMNS[column])


@compiled("void(int64[::1], int64, float64, int64[:, ::1])")
def publish(memory: Words, writer: int, quality: float, out: Words) -> None:
    """Set the writer's quality, then read the table."""
    store(memory, writer, QUALITY, np.array([quality]).view(np.int64)[0])
    read_table(memory, out)
