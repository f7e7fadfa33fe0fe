"""One core's Winograd kernels against its direct ones and its multiply-add peak, in turn.

    python benchmarks/winograd.py [--size 2|4] [--rounds R] [--cache BYTES] [CHANNELS ...]

Prints, per shape and pass, effective GFLOP/s (operations of the direct algorithm per second) as a multiple of the peak,
in brackets as a multiple of what the direct kernels reach; both go over all images of the batch, from memory to memory.
The limit is what the peak would allow if transforms cost nothing. Medians over alternating rounds, by CPU time.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from bptcnn.kernels import convolution, convolution_gradients, winograd, winograd_gradients
from bptcnn.kernels.compilation import compiled
from bptcnn.kernels.pointers import call_kernel
from bptcnn.kernels.tile import SLACK
from bptcnn.kernels.unit import COLUMNS
from bptcnn.kernels.winograd_sizes import CACHE, BackwardSizes, FilterSumsSizes, WinogradSizes
from bptcnn.profiling.peak import measure_peak

SHAPES = [  # (batch, channels, size)
    (64, 64, 32), (16, 64, 56), (64, 128, 16), (16, 128, 28), (64, 256, 8), (16, 256, 14), (64, 512, 4), (16, 512, 14),
]  # fmt: skip
PASSES = ("forward", "by input", "by filter", "filters")


@compiled("void(int64, int64, int64, int64)")
def _tasks(kernel, operation, last, count):
    for _ in range(count):
        call_kernel(kernel, operation, 0, last, 0, 0)


@compiled("void(int64, int64, int64)")
def _direct_by_input(operation, images, count):
    o = convolution.convolution_at(operation)
    for _ in range(count):
        for image in range(images):
            scratch = o.gradient_scratch + 4 * image * o.gradient_scratch_worker
            convolution_gradients.gradient_by_input(operation, image, scratch, 0)


@compiled("void(int64, int64, int64)")
def _direct_by_filter(operation, images, count):
    o = convolution.convolution_at(operation)
    inside = 4 * (o.halo_top * o.gradient_row + o.halo_left * o.out_channels)
    for _ in range(count):
        for image in range(images):
            gradient = o.gradient_scratch + 4 * image * o.gradient_scratch_worker + inside
            convolution_gradients.gradient_by_weight(operation, image, gradient, o.partials)


class Layer:
    """A 3x3 convolution, padded by 1, as many channels out as in, with the records of all kernels."""

    def __init__(self, batch: int, channels: int, side: int, size: int, cache: int) -> None:
        self.batch, self.channels = batch, channels
        self.work = 2 * 9 * batch * side * side * channels * channels
        self._kept: list[npt.NDArray[np.generic]] = []
        self.sizes = WinogradSizes(size, channels, side, side, channels, cache=cache)
        self._backward = BackwardSizes(self.sizes, side, side, 1, 1)
        random = np.random.default_rng(0)
        padded = np.zeros((batch, side + 2, side + 2, channels), np.float32)
        padded[:, 1:-1, 1:-1] = random.standard_normal((batch, side, side, channels), np.float32)
        self._input = self._keep(padded)
        self._filters = self._keep(random.standard_normal((3, 3, channels, channels), np.float32))
        held = np.zeros((batch, self._backward.rows, self._backward.columns, channels), np.float32)
        held[:, 1 : side + 1, 1 : side + 1] = random.standard_normal((batch, side, side, channels), np.float32)
        self._gradient = self._keep(held)
        self._output = self._keep(np.zeros((batch, side, side, channels), np.float32))
        self._batch = self._words([batch])
        self.forward = self._winograd(self.sizes, False, side)
        self.by_input = self._winograd(self._backward.by_input, True, side)
        self.by_filter = self._sums()
        self.direct = self._direct(side)

    def _keep(self, array: npt.NDArray[np.generic]) -> int:
        """Copy an array with slack behind; return its address, a multiple of a cache line."""
        memory = np.zeros(array.nbytes + SLACK + 64, np.uint8)
        begin = -memory.ctypes.data % 64
        memory[begin : begin + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._kept.append(memory)
        return int(memory.ctypes.data + begin)

    def _words(self, values: npt.ArrayLike) -> int:
        return self._keep(np.asarray(values, np.int64))

    def _zeros(self, elements: int) -> int:
        return self._keep(np.zeros(elements, np.float32))

    def _record(self, dtype: np.dtype[np.void], **values: float) -> int:
        record = np.zeros(1, dtype)
        for name, value in values.items():
            record[0][name] = value
        return self._keep(record)

    def _winograd(self, sizes: WinogradSizes, rotated: bool, side: int) -> int:
        line = side * self.channels
        padded = (side + 2) * self.channels
        backward = self._backward
        return self._record(
            winograd.WINOGRAD,
            batch=self._batch,
            size=sizes.size,
            input=self._gradient if rotated else self._input,
            input_image=backward.image if rotated else (side + 2) * padded,
            input_row=backward.row if rotated else padded,
            channels=self.channels,
            reach_rows=backward.rows if rotated else side + 2,
            reach_columns=backward.columns if rotated else side + 2,
            filters=self._filters,
            rotated=rotated,
            panels=self._zeros(sizes.filters),
            panels_point=sizes.panels_point,
            out_channels=self.channels,
            out_rows=side,
            out_columns=side,
            output=self._output,
            output_image=side * line,
            output_row=line,
            block=sizes.block,
            scratch=self._zeros(sizes.scratch),
            scratch_worker=sizes.scratch,
            inputs_row=sizes.inputs_row,
            inputs_point=sizes.inputs_point,
            products=sizes.products,
            products_point=sizes.products_point,
            edge=sizes.edge,
            floor=-np.inf if rotated else 0.0,
        )

    def _sums(self) -> int:
        sizes = FilterSumsSizes(self.sizes)
        return self._record(
            winograd_gradients.FILTER_SUMS,
            layer=self.forward,
            gradient=self._gradient + 4 * self._backward.inside,
            gradient_image=self._backward.image,
            gradient_row=self._backward.row,
            block=sizes.block,
            scratch=self._zeros(sizes.scratch),
            scratch_worker=sizes.scratch,
            inputs_row=sizes.inputs_row,
            inputs_point=sizes.inputs_point,
            gradients=sizes.gradients,
            gradients_row=sizes.gradients_row,
            gradients_point=sizes.gradients_point,
            sums=sizes.sums,
            sums_point=sizes.sums_point,
            edge=sizes.edge,
            partials=self._zeros(9 * self.channels * self.channels),
            part_size=9 * self.channels * self.channels,
        )

    def _direct(self, side: int) -> int:
        line, padded = side * self.channels, (side + 2) * self.channels
        packed = 9 * self.channels * COLUMNS * self.sizes.panels
        return self._record(
            convolution.CONVOLUTION,
            batch=self._batch,
            input=self._input,
            input_image=(side + 2) * padded,
            input_row=padded,
            channels=self.channels,
            height=side,
            width=side,
            kernel_rows=3,
            kernel_columns=3,
            stride_rows=1,
            stride_columns=1,
            padding_top=1,
            padding_left=1,
            tap_offsets=self._words(np.arange(3)[:, None] * padded + np.arange(3 * self.channels)),
            filters=self._filters,
            forward_panels=self._zeros(packed),
            backward_panels=self._zeros(packed),
            out_channels=self.channels,
            out_rows=side,
            out_columns=side,
            output=self._output,
            output_image=side * line,
            output_row=line,
            input_gradient=self._output,
            gradient_scratch=self._gradient,
            gradient_scratch_worker=self._backward.image,
            halo_top=1,
            halo_left=1,
            gradient_row=self._backward.row,
            partials=self._zeros(9 * self.channels * self.channels),
            floor=0.0,
        )

    def speeds(self) -> list[float]:
        """Return the peak; GFLOP/s of the passes with Winograd's kernels, then with direct ones, filters' included."""
        panels, images = self.sizes.panels, self.batch
        passes: list[Callable[[int], None]] = [
            lambda n: _tasks(winograd.winograd, self.forward, images, n),
            lambda n: _tasks(winograd.winograd, self.by_input, images, n),
            lambda n: _tasks(winograd_gradients.winograd_by_filter, self.by_filter, images, n),
            lambda n: _tasks(winograd.transform_filters, self.by_input, panels, n),
            lambda n: _tasks(convolution.convolve, self.direct, images, n),
            lambda n: _direct_by_input(self.direct, images, n),
            lambda n: _direct_by_filter(self.direct, images, n),
            lambda n: _tasks(convolution_gradients.pack_backward, self.direct, panels, n),
        ]
        return [measure_peak(1), *(self.work / 1e9 / _seconds(run, self.work) for run in passes)]


def _seconds(run: Callable[[int], None], work: float) -> float:
    """Return the CPU time of one run, over about 2e9 operations."""
    count = max(1, round(2e9 / work))
    start = time.thread_time()
    run(count)
    return (time.thread_time() - start) / count


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, choices=(2, 4), default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cache", type=int, default=CACHE)
    parser.add_argument("channels", type=int, nargs="*", help="shapes with these channels only")
    options = parser.parse_args()
    print(f"{'batch channels size':>20} {'peak':>5} {'limit':>5}" + "".join(f"{name:>15}" for name in PASSES))
    for batch, channels, side in SHAPES:
        if options.channels and channels not in options.channels:
            continue
        layer = Layer(batch, channels, side, options.size, options.cache)
        layer.speeds()  # packs and transforms filters, too
        peak, *speeds = np.median([layer.speeds() for _ in range(options.rounds)], axis=0)
        multiplied = 2 * layer.sizes.points * layer.sizes.tile_rows * layer.sizes.tile_columns * batch * channels**2
        cells = [f"{w / peak:5.2f} ({w / d:5.2f})" for w, d in zip(speeds[:4], speeds[4:], strict=True)]
        head = f"{f'{batch} {channels} {side}':>20} {peak:5.0f} {layer.work / multiplied:5.2f}"
        print(head + "".join(f"{cell:>15}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
