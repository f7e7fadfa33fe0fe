"""Gradients that are turned on loading: whoever made the input of a batch normalisation computes the gradient behind
its second backward sweep while loading it, so that the sweep is left out."""

from bptcnn.inner.arena import Span
from bptcnn.inner.normalisation import Normalisation
from bptcnn.inner.plan import Plan


def turning_fields(plan: Plan, value: int) -> dict[str, float]:
    """Return what a record says of the batch normalisation behind `value`; zeros where there is nothing to turn."""
    behind = plan.to_turn(value) if plan.training else None
    return {
        "forward_terms": plan.arena.address((behind.name, "forward terms")) if behind else 0,
        "backward_terms": plan.arena.address((behind.name, "backward terms")) if behind else 0,
        "rectifies": isinstance(behind, Normalisation) and behind.rectified and not behind.undoes,
    }


def turning_reads(plan: Plan, value: int) -> list[Span]:
    """Return what turning the gradient of `value` reads beside value and gradient."""
    behind = plan.to_turn(value)
    return [plan.arena.whole((behind.name, f"{what} terms")) for what in ("forward", "backward")] if behind else []
