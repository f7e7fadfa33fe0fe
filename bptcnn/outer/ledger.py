"""The sample ledger: which node owns which sample, and what has been sent, committed and trained of each epoch.

    pool --allocate--> queue of a node --send--> stream of the node --commit--> trained
                         ^     (unsent, per epoch)      (FIFO over epochs)  |
                         +------------------ lose ------------------------+

Guarantees (`validate` checks them):
- in an open epoch every sample is in exactly one of pool, queue, stream, trained; so it is trained exactly once;
- a node trains in the order sent, so one number, its cumulative samples committed, says exactly which are trained;
- what is in a node's queues and stream belongs to its shard.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bptcnn.outer.messages import Indices
from bptcnn.outer.partition import Counts, Floats
from bptcnn.outer.shards import epoch_order, first_order, interleave

UNOWNED = -1
Owners = npt.NDArray[np.int32]
_NONE: Indices = np.empty(0, np.int32)


@dataclass(slots=True)
class _Book:
    """One open epoch: what is trained, bool (N,), and each node's unsent samples in order."""

    trained: npt.NDArray[np.bool_]
    inherited: int  # trained before this ledger existed
    count: int
    queues: list[Indices]


@dataclass(slots=True)
class _Segment:
    epoch: int
    indices: Indices


class Ledger:
    """Samples 0..N-1 over nodes 0..m-1; ordinary exceptions mean a broken protocol, that is, our fault."""

    def __init__(self, samples: int, nodes: int, seed: int, owners: Owners | None = None) -> None:
        """A new ledger owns nothing yet; with `owners`, int32 (N,), shards are as in a checkpoint (UNOWNED: nobody)."""
        self.samples = samples
        self.nodes = nodes
        self.images_redone = 0
        self._seed = seed
        self._owner: Owners = np.full(samples, UNOWNED, np.int32) if owners is None else owners.astype(np.int32)
        unowned = np.flatnonzero(self._owner == UNOWNED).astype(np.int32)
        self._pool: Indices = first_order(samples, seed) if owners is None else unowned
        self._books: dict[int, _Book] = {}
        self._streams: list[deque[_Segment]] = [deque() for _ in range(nodes)]
        self._sent = [0] * nodes
        self._committed = [0] * nodes
        self._closed = 0
        self._sizes = self._counted()

    # ---- reading -----------------------------------------------------------------------------------------------------

    @property
    def unallocated(self) -> int:
        """Samples that belong to no shard yet."""
        return int(self._pool.size)

    def owners(self) -> Owners:
        """A copy of the owner of each sample, int32 (N,)."""
        return self._owner.copy()

    def shard_sizes(self) -> Counts:
        """Samples owned by each node, int64 (m,)."""
        return self._sizes.copy()

    def is_open(self, epoch: int) -> bool:
        """Whether samples of the epoch can be sent."""
        return epoch in self._books

    def is_complete(self, epoch: int) -> bool:
        """Whether all samples of an open epoch are trained."""
        return self._books[epoch].count == self.samples

    def trained(self, epoch: int) -> npt.NDArray[np.bool_]:
        """A copy of what is trained of the epoch, bool (N,); nothing if it is not open."""
        return self._books[epoch].trained.copy() if epoch in self._books else np.zeros(self.samples, np.bool_)

    def trained_count(self, epoch: int) -> int:
        """How many samples of an open epoch are trained."""
        return self._books[epoch].count

    def queued(self, node: int, epoch: int) -> int:
        """Samples of an open epoch that wait to be sent to the node."""
        return int(self._books[epoch].queues[node].size)

    def outstanding(self, node: int) -> int:
        """Samples sent to the node and not committed yet, over all epochs."""
        return self._sent[node] - self._committed[node]

    def sent(self, node: int) -> int:
        """Samples sent to the node over all epochs; what a lost life had not committed counts no more."""
        return self._sent[node]

    def committed(self, node: int) -> int:
        """Samples the node has committed, over all epochs."""
        return self._committed[node]

    def would_commit(self, node: int, samples_committed: int) -> list[tuple[int, int]]:
        """Return what `commit` would, and raise what it would, and change nothing."""
        left = samples_committed - self._committed[node]
        if not 0 <= left <= self.outstanding(node):
            raise ValueError(
                f"node {node} cannot have committed {samples_committed} samples: "
                f"{self._committed[node]} were known of {self._sent[node]} sent"
            )
        runs: list[tuple[int, int]] = []
        for segment in self._streams[node]:
            done = min(left, segment.indices.size)
            left -= done
            if runs and done and runs[-1][0] == segment.epoch:
                runs[-1] = (segment.epoch, runs[-1][1] + done)
            elif done:
                runs.append((segment.epoch, done))
        return runs

    # ---- the way of a sample -----------------------------------------------------------------------------------------

    def add_node(self) -> None:
        """One more node, which owns nothing yet."""
        self.nodes += 1
        self._streams.append(deque())
        self._sent.append(0)
        self._committed.append(0)
        self._sizes = np.append(self._sizes, 0)
        for book in self._books.values():
            book.queues.append(_NONE)

    def open(self, epoch: int, trained: npt.NDArray[np.bool_] | None = None) -> None:
        """Queue every shard for an epoch in its order, without what is `trained` already."""
        if epoch in self._books:
            raise ValueError(f"epoch {epoch} is open already")
        done = np.zeros(self.samples, np.bool_) if trained is None else trained.copy()
        queues = []
        for node in range(self.nodes):
            order = epoch_order(np.flatnonzero(self._owner == node).astype(np.int32), self._seed, epoch, node)
            queues.append(order[~done[order]])
        count = int(np.count_nonzero(done))
        self._books[epoch] = _Book(done, count, count, queues)

    def close(self, epoch: int) -> None:
        """Forget a complete epoch."""
        if not self.is_complete(epoch):
            raise ValueError(f"epoch {epoch} is not complete")
        book = self._books.pop(epoch)
        self._closed += book.count - book.inherited

    def allocate(self, counts: Sequence[int] | Counts) -> None:
        """Give counts[j] samples of the pool to node j: they are its own from now on, queued in every open epoch."""
        for node, count in enumerate(int(count) for count in counts):
            if not 0 <= count <= self._pool.size:
                raise ValueError(f"cannot take {count} of {self._pool.size} samples")
            given, self._pool = self._pool[:count], self._pool[count:]
            self._owner[given] = node
            self._sizes[node] += count
            for book in self._books.values():
                book.queues[node] = np.concatenate([book.queues[node], given])

    def send(self, node: int, epoch: int, count: int) -> Indices:
        """Take the next `count` samples of the node's queue, int32 (count,), and append them to its stream."""
        queue = self._books[epoch].queues[node]
        if not 0 < count <= queue.size:
            raise ValueError(f"node {node} has {queue.size} samples queued in epoch {epoch}, not {count}")
        self._books[epoch].queues[node] = queue[count:]
        self._streams[node].append(_Segment(epoch, queue[:count]))
        self._sent[node] += count
        return queue[:count].copy()

    def commit(self, node: int, samples_committed: int) -> list[tuple[int, int]]:
        """Mark the node's stream trained up to a cumulative count; returns (epoch, samples) in the order trained."""
        committed = self.would_commit(node, samples_committed)
        left = samples_committed - self._committed[node]
        self._committed[node] = samples_committed
        stream = self._streams[node]
        while left:
            segment = stream[0]
            done = segment.indices[:left]
            segment.indices = segment.indices[done.size :]
            if not segment.indices.size:
                stream.popleft()
            book = self._books[segment.epoch]
            book.trained[done] = True
            book.count += done.size
            left -= done.size
        return committed

    def redo(self, node: int, samples: int) -> None:
        """Count samples of the node's stream as trained in vain; they stay where they are."""
        self.images_redone += min(samples, self.outstanding(node))

    # ---- nodes that die, samples that move ---------------------------------------------------------------------------

    def lose(self, node: int, samples_committed: int, samples_trained: int) -> list[tuple[int, int]]:
        """Commit what a dead node had committed and put the rest of its stream back at the head of its queues.

        What it had trained beyond that is done again, once: `images_redone`. Returns as `commit` does.
        """
        committed = self.commit(node, samples_committed)
        self.redo(node, max(0, samples_trained - samples_committed))
        self._sent[node] = self._committed[node]
        for segment in reversed(self._streams[node]):
            queues = self._books[segment.epoch].queues
            queues[node] = np.concatenate([segment.indices, queues[node]])
        self._streams[node].clear()
        return committed

    def divide(self, node: int, heirs: Sequence[int], weights: Sequence[float] | Floats) -> None:
        """Give the whole shard of a lost node to others in proportion to weights; nobody else's samples move."""
        if self._streams[node] or node in heirs:
            raise ValueError(f"the shard of node {node} cannot be divided over {list(heirs)}: it is not lost")
        queues = [self._books[epoch].queues[node] for epoch in sorted(self._books)]
        shard = np.flatnonzero(self._owner == node).astype(np.int32)
        # in the order of the coming work, so that what is left of this epoch is dealt in proportion as well
        ordered, first = np.unique(np.concatenate([*queues, shard]), return_index=True)
        ordered = ordered[np.argsort(first, kind="stable")]
        self._owner[ordered] = np.asarray(heirs, np.int32)[interleave(ordered.size, weights)]
        self._sizes = self._counted()
        for book in self._books.values():
            orphans, book.queues[node] = book.queues[node], _NONE
            for heir in heirs:
                book.queues[heir] = np.concatenate([book.queues[heir], orphans[self._owner[orphans] == heir]])

    def move(self, epoch: int, giver: int, receiver: int, count: int) -> None:
        """Move the last `count` unsent samples of an epoch from one shard to another, in every open epoch.

        ValueError if one was sent in another epoch: it then belongs to the giver until that one is over.
        """
        if not 0 < count <= self.queued(giver, epoch):
            raise ValueError(f"cannot move {count} samples from node {giver} to {receiver} in epoch {epoch}")
        moved = self._books[epoch].queues[giver][-count:]
        if any(np.isin(segment.indices, moved).any() for segment in self._streams[giver]):
            raise ValueError(f"cannot move samples from node {giver} in epoch {epoch}: they were sent in another one")
        self._owner[moved] = receiver
        self._sizes[[giver, receiver]] += (-count, count)
        for book in self._books.values():
            queues = book.queues
            goes = np.isin(queues[giver], moved)
            going, queues[giver] = queues[giver][goes], queues[giver][~goes]
            queues[receiver] = np.concatenate([queues[receiver], going])

    def _counted(self) -> Counts:
        return np.bincount(self._owner[self._owner >= 0], minlength=self.nodes).astype(np.int64)

    # ---- proof -------------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Check every guarantee of this module, O(N) per open epoch; AssertionError names the broken one."""
        assert np.all(self._owner[self._pool] == UNOWNED), "a sample of the pool has an owner"
        assert np.count_nonzero(self._owner == UNOWNED) == self._pool.size, "an unowned sample is not in the pool"
        for node, stream in enumerate(self._streams):
            in_stream = sum(segment.indices.size for segment in stream)
            assert in_stream == self.outstanding(node), f"node {node}'s stream does not hold what was sent"
            for segment in stream:
                assert segment.epoch in self._books, f"node {node} was sent samples of a closed epoch"
                assert np.all(self._owner[segment.indices] == node), f"node {node} was sent what it does not own"
        assert np.array_equal(self._sizes, self._counted()), "shards are miscounted"
        new = self._closed
        for epoch, book in self._books.items():
            places = [self._pool, *book.queues]
            places += [part.indices for stream in self._streams for part in stream if part.epoch == epoch]
            seen = np.bincount(np.concatenate(places), minlength=self.samples) + book.trained
            assert np.all(seen == 1), f"epoch {epoch}: samples {np.flatnonzero(seen != 1)[:8]} are not in one place"
            assert book.count == np.count_nonzero(book.trained), f"epoch {epoch}: trained samples are miscounted"
            for node, queue in enumerate(book.queues):
                assert np.all(self._owner[queue] == node), f"epoch {epoch}: node {node} queues what it does not own"
            new += book.count - book.inherited
        assert new == sum(self._committed), "trained samples and committed samples differ"
