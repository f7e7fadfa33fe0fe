import numpy as np
import pytest

from bptcnn.outer.ledger import Ledger
from bptcnn.outer.partition import uniform
from bptcnn.outer.shards import epoch_order, interleave


def opened(samples: int = 100, nodes: int = 3) -> Ledger:
    ledger = Ledger(samples, nodes, seed=1)
    ledger.open(1)
    ledger.allocate(uniform(samples, nodes))
    return ledger


def test_a_sample_goes_from_pool_to_trained() -> None:
    ledger = opened()
    sent = ledger.send(0, 1, 20)
    assert ledger.outstanding(0) == 20
    assert ledger.commit(0, 8) == [(1, 8)]
    ledger.validate()
    assert ledger.outstanding(0) == 12
    assert np.array_equal(np.flatnonzero(ledger.trained(1)), np.sort(sent[:8]))


def test_a_commit_may_span_epochs_in_the_order_sent() -> None:
    ledger = opened(nodes=1)
    ledger.send(0, 1, 100)
    ledger.open(2)
    ledger.send(0, 2, 10)
    assert ledger.commit(0, 104) == [(1, 100), (2, 4)]
    assert ledger.is_complete(1)
    ledger.close(1)
    ledger.validate()
    with pytest.raises(ValueError, match="not complete"):
        ledger.close(2)


@pytest.mark.parametrize("count", [-1, 21])
def test_impossible_commits_are_refused(count: int) -> None:
    ledger = opened()
    ledger.send(0, 1, 20)
    with pytest.raises(ValueError, match="cannot have committed"):
        ledger.commit(0, count)


def test_a_lost_nodes_samples_go_to_the_others_and_nobody_elses_move() -> None:
    ledger = opened(90, 3)
    for node in range(3):
        ledger.send(node, 1, 20)
    ledger.commit(2, 10)
    before = ledger.owners()
    assert ledger.lose(2, 12, 17) == [(1, 2)]
    assert ledger.images_redone == 5
    ledger.divide(2, [0, 1], [2.0, 1.0])
    ledger.validate()
    after = ledger.owners()
    assert np.array_equal(before[before != 2], after[before != 2])
    assert ledger.shard_sizes().tolist() == [50, 40, 0]
    # the 18 samples not trained in this epoch are dealt in proportion too
    assert [ledger.queued(node, 1) for node in range(3)] == [10 + 12, 10 + 6, 0]


def test_images_redone_never_exceed_what_was_sent() -> None:
    ledger = opened()
    ledger.send(0, 1, 10)
    ledger.lose(0, 0, 1000)
    assert ledger.images_redone == 10


def test_validate_sees_a_sample_in_two_places() -> None:
    ledger = opened()
    ledger.send(0, 1, 20)
    ledger._books[1].queues[1][0] = ledger._books[1].queues[1][1]
    with pytest.raises(AssertionError, match="not in one place"):
        ledger.validate()


def test_validate_sees_a_miscount() -> None:
    ledger = opened()
    ledger.send(0, 1, 20)
    ledger.commit(0, 5)
    ledger._books[1].trained[ledger._streams[0][0].indices[0]] = True
    with pytest.raises(AssertionError):
        ledger.validate()


def test_orders_are_functions_of_seed_epoch_and_node() -> None:
    shard = np.arange(50, dtype=np.int32)
    one = epoch_order(shard, 3, 2, 1)
    assert np.array_equal(one, epoch_order(shard[::-1], 3, 2, 1))
    for other in ((4, 2, 1), (3, 3, 1), (3, 2, 0)):
        assert not np.array_equal(one, epoch_order(shard, *other))
    assert np.array_equal(np.sort(one), shard)


def test_interleave_is_proportional_in_every_stretch() -> None:
    places = interleave(1000, [4.0, 2.0, 1.0, 1.0])
    for start in range(0, 1000, 100):
        counts = np.bincount(places[start : start + 100], minlength=4)
        assert np.all(np.abs(counts - [50, 25, 12.5, 12.5]) <= 2)
    assert interleave(0, [1.0]).size == 0
