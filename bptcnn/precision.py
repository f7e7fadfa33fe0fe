"""Which numbers convolutions multiply."""

from typing import Literal

Precision = Literal["float32", "bf16"]
"""Of the products in convolutions; weights and sums are float32 always."""
