"""A 3x3 convolution in buffers as the inner layer lays them out, run by Winograd's task kernels, called by address.

What no kernel may read as a number, slack and images beyond the batch, is NaN; what none may write holds a guard.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import reference_arithmetic as reference

from bptcnn.kernels.compilation import compiled
from bptcnn.kernels.convolution import CONVOLUTION
from bptcnn.kernels.pointers import call_kernel
from bptcnn.kernels.tile import SLACK
from bptcnn.kernels.winograd import WINOGRAD
from bptcnn.kernels.winograd_gradients import BACKWARD, FILTER_SUMS
from bptcnn.kernels.winograd_sizes import BackwardSizes, WinogradSizes

GUARD = np.float32(7)
WORKERS = 2
Floats = npt.NDArray[np.float32]
Pads = tuple[tuple[int, int], tuple[int, int]]


@compiled("int64(int64, int64, int64, int64, int64, int64)")
def _run(kernel, operation, first, last, part, worker):
    return call_kernel(kernel, operation, first, last, part, worker)


def run(kernel: int, record: npt.NDArray[np.void], first: int, last: int, part: int = 0, worker: int = 1) -> None:
    """Call a task kernel as the executor does."""
    assert _run(kernel, record.ctypes.data, first, last, part, worker) == 0


class Memory:
    """Buffers with NaN behind them, and the addresses of what is in them."""

    def __init__(self) -> None:
        self._kept: list[npt.NDArray[Any]] = []

    def floats(self, shape: tuple[int, ...], value: float = np.nan) -> Floats:
        """Return an array, aligned to a cache line, with slack behind."""
        size = int(np.prod(shape))
        memory = np.full(size + SLACK // 4 + 16, np.nan, np.float32)
        begin = -(memory.ctypes.data // 4) % 16
        memory[begin : begin + size] = value
        self._kept.append(memory)
        return memory[begin : begin + size].reshape(shape)

    def copy(self, values: npt.ArrayLike) -> Floats:
        """Return a copy with slack behind."""
        array = np.asarray(values, np.float32)
        copied = self.floats(array.shape)
        copied[...] = array
        return copied

    def words(self, values: npt.ArrayLike) -> int:
        """Keep int64 numbers; return their address."""
        self._kept.append(np.ascontiguousarray(values, np.int64))
        return int(self._kept[-1].ctypes.data)

    def record(self, dtype: np.dtype[np.void], **values: float) -> npt.NDArray[np.void]:
        """Return a filled record."""
        record = np.zeros(1, dtype)
        for name, value in values.items():
            record[0][name] = value
        self._kept.append(record)
        return record


@dataclass(frozen=True)
class Shape:
    """What is convolved: `images` of a batch whose buffers hold `capacity`."""

    images: int
    height: int
    width: int
    channels: int
    out_channels: int
    pads: Pads = ((1, 1), (1, 1))
    capacity: int = 0

    @property
    def out_rows(self) -> int:
        return self.height + sum(self.pads[0]) - 2

    @property
    def out_columns(self) -> int:
        return self.width + sum(self.pads[1]) - 2

    @property
    def held(self) -> int:
        return max(self.images, self.capacity)


class Layer:
    """Random inputs, filters and bias of unit size."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        self.shape = s = shape
        self.memory = Memory()
        random = np.random.default_rng(seed)
        self.x = random.standard_normal((s.images, s.height, s.width, s.channels), np.float32)
        self.filters = self.memory.copy(random.standard_normal((3, 3, s.channels, s.out_channels), np.float32))
        self.bias = self.memory.copy(random.standard_normal(s.out_channels, np.float32))
        padded = reference.pad(self.x, s.pads)
        self.input = self.memory.floats((s.held, *padded.shape[1:]))
        self.input[: s.images] = padded

    @cached_property
    def convolved(self) -> reference.Array:
        """The convolution in float64, without bias."""
        return reference.convolve(self.x.astype(float), self.filters.astype(float), (1, 1), self.shape.pads)

    def forward_record(
        self, size: int, *, bias: bool = False, relu: bool = False, pool: tuple[int, int] | None = None,
        choices: bool = True, cache: int = 1 << 18, halo: int = 0, blocked: bool = False,
    ) -> "Forward":  # fmt: skip
        """Return the record of the forward pass; the output's buffer has a halo of `halo` pixels."""
        s = self.shape
        sizes = WinogradSizes(
            size, s.channels, s.out_rows, s.out_columns, s.out_channels, pool[0] if pool else 0, cache, blocked
        )
        rows, columns = (s.out_rows // pool[0], s.out_columns // pool[1]) if pool else (s.out_rows, s.out_columns)
        buffer = self.memory.floats((s.held, rows + 2 * halo, columns + 2 * halo, s.out_channels), GUARD)
        output = buffer[:, halo : halo + rows, halo : halo + columns]
        choice = np.full((s.held, rows, columns, s.out_channels), 77, np.uint8)
        record = self.memory.record(
            WINOGRAD,
            batch=self.memory.words([s.images]),
            size=size,
            input=self.input.ctypes.data,
            input_image=self.input[0].size,
            input_row=self.input[0, 0].size,
            channels=s.channels,
            reach_rows=self.input.shape[1],
            reach_columns=self.input.shape[2],
            filters=self.filters.ctypes.data,
            channel_block=sizes.channel_block,
            out_block=sizes.out_block,
            panels=0 if sizes.blocked else self.memory.floats((sizes.filters,)).ctypes.data,
            panels_point=sizes.panels_point,
            bias=self.bias.ctypes.data if bias else 0,
            out_channels=s.out_channels,
            out_rows=s.out_rows,
            out_columns=s.out_columns,
            output=output.ctypes.data,
            output_image=buffer[0].size,
            output_row=buffer[0, 0].size,
            pool_rows=pool[0] if pool else 0,
            pool_columns=pool[1] if pool else 0,
            pooled_rows=rows,
            pooled_columns=columns,
            choice=choice.ctypes.data if pool and choices else 0,
            rectified=relu,
            block=sizes.block,
            scratch=self.memory.floats((WORKERS * sizes.scratch,)).ctypes.data,
            scratch_worker=sizes.scratch,
            inputs_row=sizes.inputs_row,
            inputs_point=sizes.inputs_point,
            products=sizes.products,
            products_point=sizes.products_point,
            edge=sizes.edge,
            band=sizes.band,
            own_panels=sizes.own_panels,
            floor=0.0 if relu else -np.inf,
        )
        return Forward(record, sizes, buffer, output, choice)

    def rotated_record(self, backward: BackwardSizes, accumulate: bool) -> "Forward":
        """Return the record of the gradient by input; its tasks find the output gradients where they are told."""
        sizes = backward.by_input
        s = self.shape
        buffer = self.memory.floats((s.held, s.height, s.width, s.channels), GUARD)
        record = self.memory.record(
            WINOGRAD,
            batch=self.memory.words([s.images]),
            size=sizes.size,
            input_image=backward.image,
            input_row=backward.row,
            channels=s.out_channels,
            reach_rows=backward.rows - max(0, s.pads[0][0] - 2),
            reach_columns=backward.columns - max(0, s.pads[1][0] - 2),
            filters=self.filters.ctypes.data,
            rotated=1,
            channel_block=sizes.channel_block,
            out_block=sizes.out_block,
            panels=0 if sizes.blocked else self.memory.floats((sizes.filters,)).ctypes.data,
            panels_point=sizes.panels_point,
            out_channels=s.channels,
            out_rows=s.height,
            out_columns=s.width,
            output=buffer.ctypes.data,
            output_image=buffer[0].size,
            output_row=buffer[0, 0].size,
            accumulate=accumulate,
            block=sizes.block,
            scratch=self.memory.floats((WORKERS * sizes.scratch,)).ctypes.data,
            scratch_worker=sizes.scratch,
            inputs_row=sizes.inputs_row,
            inputs_point=sizes.inputs_point,
            products=sizes.products,
            products_point=sizes.products_point,
            edge=sizes.edge,
            own_panels=sizes.own_panels,
            floor=-np.inf,
        )
        return Forward(record, sizes, buffer, buffer, np.zeros(0, np.uint8))

    def sums_record(self, forward: "Forward", backward: BackwardSizes, parts: int) -> "Sums":
        """Return the record of the gradient by filter: `parts` partial sums, or one gradient by blocks of channels."""
        s, sizes = self.shape, backward.by_filter
        size = 9 * s.channels * s.out_channels
        target = self.memory.floats((1, size) if sizes.blocked else (parts, size + s.out_channels))
        record = self.memory.record(
            FILTER_SUMS,
            layer=forward.record.ctypes.data,
            gradient_image=backward.image,
            gradient_row=backward.row,
            block=sizes.block,
            channel_block=sizes.channel_block,
            out_block=sizes.out_block,
            inputs_row=sizes.inputs_row,
            inputs_point=sizes.inputs_point,
            gradients=sizes.gradients,
            gradients_row=sizes.gradients_row,
            gradients_point=sizes.gradients_point,
            scratch=self.memory.floats((WORKERS * sizes.scratch,)).ctypes.data,
            scratch_worker=sizes.scratch,
            sums=sizes.sums,
            sums_point=sizes.sums_point,
            target=target.ctypes.data,
            part_size=0 if sizes.blocked else target.shape[1],
        )
        bias = self.memory.floats((parts, s.out_channels)) if sizes.blocked else target[:, size:]
        return Sums(record, target[:, :size], bias)

    def backward_record(
        self, forward: "Forward", gradient: Floats, sums: "Sums", by_input: "Forward | None", sizes: BackwardSizes
    ) -> npt.NDArray[np.void]:
        """Return the record of the backward pass from `gradient`, that of the layer's output, pooled where it pools.

        Tasks over channels are told where the output gradients are.
        """
        given = forward.record[0]
        names = ("batch", "out_channels", "out_rows", "out_columns", "output", "output_image", "output_row",
                 "pool_rows", "pool_columns", "pooled_rows", "pooled_columns", "choice", "rectified")  # fmt: skip
        convolution = self.memory.record(
            CONVOLUTION,
            **{name: given[name] for name in names},
            output_gradient=gradient.ctypes.data,
            gradient_row=sizes.row,
        )
        shape = (self.shape.held, sizes.image) if sizes.sums_blocked else (WORKERS, sizes.scratch)
        held = self.memory.floats(shape, 0)
        sums.record["gradient"] = held.ctypes.data + 4 * sizes.inside
        if by_input and sizes.layer.blocked:
            by_input.record["input"] = held.ctypes.data + 4 * sizes.window
        return self.memory.record(
            BACKWARD,
            convolution=convolution.ctypes.data,
            by_input=by_input.record.ctypes.data if by_input and not sizes.layer.blocked else 0,
            by_filter=sums.record.ctypes.data,
            group=sizes.group,
            held=held.ctypes.data,
            held_worker=0 if sizes.sums_blocked else sizes.scratch,
            held_image=sizes.image,
            inside=sizes.inside,
            window=sizes.window,
            bias_sums=sums.bias.ctypes.data,
            bias_sums_step=sums.bias.strides[0] // 4,
        )


@dataclass(frozen=True)
class Sums:
    """The record of a gradient by filter, and the partial sums: filters' (one, where they are complete) and bias's."""

    record: npt.NDArray[np.void]
    filters: Floats
    bias: Floats


@dataclass(frozen=True)
class Forward:
    """A record, and what its kernels write."""

    record: npt.NDArray[np.void]
    sizes: WinogradSizes
    buffer: Floats
    output: Floats
    choice: npt.NDArray[np.uint8]

    def guarded(self) -> bool:
        """Tell whether nothing but the output of images was written: the halo holds the guard."""
        halo = self.buffer.copy()
        top = (self.buffer.shape[1] - self.output.shape[1]) // 2
        halo[:, top : top + self.output.shape[1], top : top + self.output.shape[2]] = GUARD
        return bool((halo == GUARD).all())
