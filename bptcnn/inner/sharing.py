"""Which gradients share memory, and which of several contributions to a gradient comes first.

Backward tasks are added operation by operation, the last operation first. The first contribution to a value's gradient
writes it, later ones add. Where an operation passes its output's gradient on as it is, or turns it element by element,
both gradients may lie in the same memory: if nothing is written there for one value while another still needs it.
"""

from collections.abc import Sequence

from bptcnn.inner.arena import Turns
from bptcnn.inner.operation import Operation


class GradientSharing:
    """Decides once, for all operations of a step."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = operations
        self._turn = {id(op): turn for turn, op in enumerate(reversed(operations))}
        self._producer = {op.output: op for op in operations}
        self._contributions: dict[int, list[tuple[Operation, int]]] = {}
        for op in reversed(operations):
            for position in op.gradient_order():
                self._contributions.setdefault(op.inputs[position], []).append((op, position))
        self._owner: dict[int, int] = {}
        self._members: dict[int, list[int]] = {}
        for op in reversed(operations):
            self._share(op)

    def owner(self, value: int) -> int:
        """Return the value whose gradient's memory this value's gradient lies in."""
        return self._owner.get(value, value)

    def accumulates(self, op: Operation, position: int) -> bool:
        """Tell whether others have contributed before."""
        first, place = self._contributions[op.inputs[position]][0]
        return first is not op or place != position

    def in_place(self, op: Operation, position: int) -> bool:
        """Tell whether an input's gradient takes the place of the output's."""
        return self.owner(op.inputs[position]) == self.owner(op.output)

    def turned_by_producer(self, op: Operation) -> bool:
        """Tell whether whoever made input 0 turns its gradient on loading: then nothing is written for it."""
        return self.in_place(op, 0) and self._left(op)

    def needed(self, owner: int) -> Turns:
        """Return the turns of the step at which the memory of a gradient is needed, for all that lie in it.

        Forward turns are 0, 1, ... in the order of the operations; then comes the loss, then backward.
        """
        loss = len(self._operations)
        values = self._members.get(owner, [owner])
        firsts = [loss + 1 + self._turn[id(given[0][0])] for v in values if (given := self._contributions.get(v))]
        result = any(v not in self._contributions for v in values)
        return Turns(loss if result else min(firsts), max(loss + 1 + self._needed_until(v) for v in values))

    def value_needed(self, value: int, training: bool) -> Turns:
        """Return the turns at which a value is needed: up to its last reader, forward or, in `training`, backward."""
        loss = len(self._operations)
        producer, readers = self._producer[value], self._contributions[value]
        turns = [loss - 1 - self._turn[id(op)] for op, _ in readers]
        if training:
            reading = [op for op, position in readers if op.reads_back(position)]
            reading += [producer] if producer.reads_output_back else []
            turns += [loss + 1 + self._turn[id(op)] for op in reading]
        return Turns(loss - 1 - self._needed_until(value), max(turns))

    def _share(self, op: Operation) -> None:
        """Let the inputs of `op` have the memory of its output's gradient where that is safe."""
        owner = self.owner(op.output)
        members = self._members.setdefault(owner, [op.output])
        turn = self._turn[id(op)]
        order = sorted(range(len(op.inputs)), key=lambda position: op.gradient_use(position) != "passes")
        for position in order:
            value = op.inputs[position]
            if value == 0 or op.gradient_use(position) == "own" or self.accumulates(op, position):
                continue
            pending = [member for member in members if member != value and self._needed_until(member) > turn]
            turns_now = op.gradient_use(position) == "turns" and not self._left(op)
            writes_now = turns_now or op.inputs.count(value) > 1
            if any(writes_now or self._clash(value, member, turn) for member in pending):
                continue
            self._owner[value] = owner
            members.append(value)

    def _left(self, op: Operation) -> bool:
        """Tell whether turning the gradient of input 0 can be left to whoever made it."""
        value = op.inputs[0]
        alone = op.leaves_turning and len(self._contributions.get(value, ())) == 1
        return alone and self._producer[value].turns_on_loading

    def _needed_until(self, value: int) -> int:
        """The turn at which the operation that made the value reads its gradient."""
        return self._turn[id(self._producer[value])]

    def _writes(self, value: int, after: int) -> list[int]:
        """The turns after `after` at which the value's gradient is written."""
        later = [self._turn[id(op)] for op, _ in self._contributions[value]]
        if self._producer[value].undoes:
            later.append(self._needed_until(value))
        return [turn for turn in later if turn > after]

    def _clash(self, value: int, member: int, turn: int) -> bool:
        """Tell whether one would, after `turn`, overwrite what the other still needs."""
        over_member = any(write <= self._needed_until(member) for write in self._writes(value, turn))
        over_value = any(write <= self._needed_until(value) for write in self._writes(member, turn))
        return over_member or over_value
