"""Records: what the kernels of an operation are told, one numpy record each, by address."""

import numpy as np
import numpy.typing as npt

from bptcnn.inner.buffers import gradient_halo
from bptcnn.inner.operations import Convolution, FullyConnected, Operation, Pooling
from bptcnn.inner.step_settings import BYTES, CORRECT, IMAGES, LABELS, LOSS, ORDER, RATE, SAMPLES, StepSettings
from bptcnn.inner.storage import FLOAT, Storage, folding_size, part_size
from bptcnn.kernels import convolution, dense, loading, loss, pooling, update
from bptcnn.kernels.unit import COLUMNS, ROWS


class Records:
    """Fills records and keeps them, and the offset tables that they name, alive."""

    def __init__(self, storage: Storage, settings: StepSettings) -> None:
        self._storage = storage
        self._settings = settings
        self._records: list[npt.NDArray[np.void]] = []
        self._tables: list[npt.NDArray[np.int64]] = []

    def operation(self, index: int, op: Operation) -> int:
        """Return the address of the record of operation `index`."""
        if isinstance(op, Convolution):
            return self._convolution(index, op)
        return self._pooling(index, op) if isinstance(op, Pooling) else self._dense(index, op)

    def loading(self) -> int:
        """Return the address of the record for loading images."""
        target = self._storage.activations[0]
        return self._keep(
            loading.LOADING,
            batch=self._settings.word(IMAGES),
            samples=self._settings.word(SAMPLES),
            bytes=self._settings.word(BYTES),
            order=self._settings.word(ORDER),
            rows=target.shape[0],
            line=target.shape[1] * target.shape[2],
            output=self._storage.inside(0),
            output_image=target.image,
            output_row=target.row,
        )

    def loss(self) -> int:
        """Return the address of the record for loss and logits' gradient."""
        last = len(self._storage.operations)
        return self._keep(
            loss.LOSS,
            batch=self._settings.word(IMAGES),
            labels=self._settings.word(LABELS),
            order=self._settings.word(ORDER),
            logits=self._storage.address("activation", last),
            classes=self._storage.activations[last].elements,
            gradient=self._storage.address("activation gradient", last),
            loss=self._settings.number(LOSS),
            correct=self._settings.word(CORRECT),
        )

    def reduction(self, index: int, op: Convolution) -> int:
        """Return the address of the record for adding up a convolution's partial sums."""
        return self._keep(
            update.REDUCTION,
            partials=self._storage.address("partials", index),
            parts=len(self._storage.parts(op)),
            part_size=part_size(op),
            gradient=self._storage.gradient + FLOAT * op.filter.offset,
        )

    def update(self) -> int:
        """Return the address of the record for the weight update."""
        return self._keep(
            update.UPDATE,
            settings=self._settings.number(RATE),
            weights=self._storage.weights,
            gradient=self._storage.gradient,
            velocity=self._storage.velocity,
        )

    def _keep(self, dtype: np.dtype[np.void], **values: float) -> int:
        """Fill a record; return its address."""
        record = np.zeros(1, dtype)
        for name, value in values.items():
            record[0][name] = value
        self._records.append(record)
        return int(record.ctypes.data)

    def _table(self, offsets: npt.ArrayLike) -> int:
        """Keep a table of row offsets; return its address."""
        table = np.ascontiguousarray(offsets, np.int64).ravel()
        self._tables.append(table)
        return int(table.ctypes.data)

    def _convolution(self, index: int, op: Convolution) -> int:
        store = self._storage
        source, target = store.activations[index], store.activations[index + 1]
        halo = gradient_halo(op)
        gradient_row = halo.columns * op.conv_shape[2]
        window_row = np.arange(op.kernel[1] * op.in_shape[2])
        return self._keep(
            convolution.CONVOLUTION,
            batch=self._settings.word(IMAGES),
            input=store.address("activation", index),
            input_image=source.image,
            input_row=source.row,
            channels=op.in_shape[2],
            height=op.in_shape[0],
            width=op.in_shape[1],
            kernel_rows=op.kernel[0],
            kernel_columns=op.kernel[1],
            stride_rows=op.stride[0],
            stride_columns=op.stride[1],
            padding_top=op.pads[0][0],
            padding_left=op.pads[1][0],
            pixel_offsets=self._table(np.arange(ROWS) * op.stride[1] * op.in_shape[2]),
            gradient_offsets=self._table(np.arange(ROWS) * op.conv_shape[2]),
            tap_offsets=self._table(np.arange(op.kernel[0])[:, None] * source.row + window_row),
            filters=store.weights + FLOAT * op.filter.offset,
            forward_panels=store.address("forward panels", index),
            backward_panels=store.address("backward panels", index),
            bias=store.weights + FLOAT * op.bias.offset if op.bias else 0,
            out_channels=op.conv_shape[2],
            out_rows=op.conv_shape[0],
            out_columns=op.conv_shape[1],
            output=store.inside(index + 1),
            output_image=target.image,
            output_row=target.row,
            pool_rows=op.pool[0] if op.pool else 0,
            pool_columns=op.pool[1] if op.pool else 0,
            pooled_rows=op.out_shape[0],
            pooled_columns=op.out_shape[1],
            choice=store.address("choice", index),
            rectified=op.rectified,
            scratch=store.address("scratch", index),
            scratch_worker=op.pool[0] * op.conv_shape[1] * op.conv_shape[2] if op.pool else 0,
            output_gradient=store.address("activation gradient", index + 1),
            input_gradient=store.address("activation gradient", index),
            folded=store.folded(op),
            folding=store.address("folding", index),
            folding_worker=folding_size(op),
            gradient_scratch=store.address("gradient scratch", index),
            gradient_scratch_worker=halo.rows * gradient_row,
            halo_top=halo.top,
            halo_left=halo.left,
            gradient_row=gradient_row,
            partials=store.address("partials", index),
            part_size=part_size(op),
            floor=0.0 if op.rectified else -np.inf,
        )

    def _pooling(self, index: int, op: Pooling) -> int:
        store = self._storage
        source, target = store.activations[index], store.activations[index + 1]
        return self._keep(
            pooling.POOLING,
            batch=self._settings.word(IMAGES),
            input=store.inside(index),
            input_image=source.image,
            input_row=source.row,
            channels=op.in_shape[2],
            height=op.in_shape[0],
            width=op.in_shape[1],
            window_rows=op.window[0],
            window_columns=op.window[1],
            stride_rows=op.stride[0],
            stride_columns=op.stride[1],
            output=store.inside(index + 1),
            output_image=target.image,
            output_row=target.row,
            out_rows=op.out_shape[0],
            out_columns=op.out_shape[1],
            choice=store.address("choice", index),
            output_gradient=store.address("activation gradient", index + 1),
            input_gradient=store.address("activation gradient", index),
        )

    def _dense(self, index: int, op: FullyConnected) -> int:
        store = self._storage
        gradient = store.gradient
        return self._keep(
            dense.DENSE,
            batch=self._settings.word(IMAGES),
            input=store.inside(index),
            inputs=op.inputs,
            weights=store.weights + FLOAT * op.weights.offset,
            outputs=op.outputs,
            bias=store.weights + FLOAT * op.bias.offset if op.bias else 0,
            output=store.inside(index + 1),
            rectified=op.rectified,
            output_gradient=store.address("activation gradient", index + 1),
            gradient_panels=store.address("gradient panels", index),
            input_gradient=store.address("activation gradient", index),
            weight_gradient=gradient + FLOAT * op.weights.offset,
            bias_gradient=gradient + FLOAT * op.bias.offset if op.bias else 0,
            scratch=store.address("scratch", index),
            image_offsets=self._table(np.arange(ROWS) * op.inputs),
            unit_offsets=self._table(np.arange(ROWS)),
            weight_offsets=self._table(np.arange(ROWS) * op.outputs),
            scratch_worker=dense.BLOCK * COLUMNS,
            floor=0.0 if op.rectified else -np.inf,
        )
