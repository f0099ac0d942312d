"""common/data.py: every sample comes exactly as often as it should, in an order that the seed and the epoch fix."""

import pytest
import torch
from torch.utils.data import Dataset

from common.data import EvalBatches, TrainBatches, loader
from nu_deeplabv3plus.dataset import split


def of_process(batches, rank, world_size):
    batches.rank, batches.world_size = rank, world_size
    return batches


def flat(batches):
    return [i for batch in batches for i in batch]


# ---- Split ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, n_val", [(10, 2), (798, 160), (4000, 800), (3, 1)])
def test_the_split_has_the_sizes_and_every_index_once(n, n_val):
    train, val = split(n, seed=0)
    assert len(val) == n_val
    assert sorted(train + val) == list(range(n))
    assert train == sorted(train) and val == sorted(val)
    assert all(type(i) is int for i in train + val)


def test_the_split_depends_on_the_seed_alone():
    assert split(100, seed=1) == split(100, seed=1)
    assert split(100, seed=1) != split(100, seed=2)
    assert split(100, seed=0)[1] != list(range(80, 100))  # at random, not the tail


def test_the_split_leaves_the_global_generators_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    split(100, seed=1)
    list(TrainBatches(10, 4, seed=0))
    assert torch.equal(torch.rand(3), expected)


# ---- Training batches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, sizes", [
    (8, [4, 4]), (10, [4, 4, 2]), (9, [4, 5]), (5, [5]), (4, [4]), (3, [3]), (2, [2]), (6, [4, 2]), (13, [4, 4, 5]),
])  # fmt: skip
def test_training_batches_cover_everything_once_and_never_end_with_one(n, sizes):
    batches = TrainBatches(n, 4, seed=0)
    assert [len(batch) for batch in batches] == sizes
    assert len(batches) == len(sizes)
    assert sorted(flat(batches)) == list(range(n))
    assert all(type(i) is int for i in flat(batches))


def test_every_epoch_has_an_order_of_its_own():
    batches = TrainBatches(50, 4, seed=3)
    orders = []
    for epoch in range(4):
        batches.epoch = epoch
        orders.append(flat(batches))
        assert flat(batches) == orders[-1]  # looking twice changes nothing
    assert len({tuple(order) for order in orders}) == 4
    assert list(range(50)) not in orders


def test_seed_and_epoch_fix_the_order():
    first, again, other = TrainBatches(50, 4, seed=3), TrainBatches(50, 4, seed=3), TrainBatches(50, 4, seed=4)
    list(first)  # an epoch more than `again`
    for batches in (first, again, other):
        batches.epoch = 7
    assert list(first) == list(again)
    assert list(first) != list(other)
    first.seed, first.epoch, other.seed, other.epoch = 1, 2, 2, 1
    assert list(first) != list(other)  # not a function of the sum


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("n", [16, 17, 19, 23, 8])
def test_under_torchrun_each_process_has_its_share_of_each_batch(n, world_size):
    shares = [list(of_process(TrainBatches(n, 8, seed=5), rank, world_size)) for rank in range(world_size)]
    steps = -(-n // 8)
    for rank, share in enumerate(shares):
        assert len(share) == steps == len(of_process(TrainBatches(n, 8, seed=5), rank, world_size))
        assert all(len(batch) == 8 // world_size for batch in share)
    for step in range(steps):
        together = flat(share[step] for share in shares)
        assert len(set(together)) == 8  # no image twice in a global batch
    times = [flat(flat(shares)).count(i) for i in range(n)]
    assert min(times) == 1 and sum(times) == steps * 8 and max(times) <= 2


def test_under_torchrun_the_full_batches_are_those_of_one_process():
    one = list(TrainBatches(19, 8, seed=5))
    two = [list(of_process(TrainBatches(19, 8, seed=5), rank, 2)) for rank in range(2)]
    for step in range(2):
        assert sorted(two[0][step] + two[1][step]) == sorted(one[step])
    assert set(one[2]) <= set(two[0][2] + two[1][2])


def test_under_torchrun_a_process_has_another_share_in_every_epoch():
    batches = TrainBatches(40, 8, seed=5)
    shares = []
    for batches.epoch in range(4):
        shares.append(frozenset(flat(of_process(batches, 0, 2))))
        assert len(shares[-1]) == 20 and not shares[-1] & set(flat(of_process(batches, 1, 2)))
    assert len(set(shares)) == 4


def test_under_torchrun_a_set_smaller_than_the_batch_is_repeated():
    shares = [list(of_process(TrainBatches(3, 8, seed=0), rank, 2)) for rank in range(2)]
    assert [len(share) for share in shares] == [1, 1]
    assert all(len(share[0]) == 4 for share in shares)
    assert set(shares[0][0] + shares[1][0]) == {0, 1, 2}


# ---- Evaluation batches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, sizes", [(8, [4, 4]), (9, [4, 4, 1]), (3, [3]), (0, [])])
def test_evaluation_batches_are_in_order(n, sizes):
    batches = EvalBatches(n, 4)
    assert [len(batch) for batch in batches] == sizes
    assert len(batches) == len(sizes)
    assert flat(batches) == list(range(n))


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 8, 9, 12, 13, 17, 24])
def test_under_torchrun_each_sample_is_evaluated_once(n, world_size):
    shares = [of_process(EvalBatches(n, 4), rank, world_size) for rank in range(world_size)]
    assert sorted(flat(flat(shares))) == list(range(n))
    assert all(len(list(share)) == len(share) for share in shares)
    single = [tuple(batch) for batch in EvalBatches(n, 4)]
    assert sorted(tuple(batch) for share in shares for batch in share) == single  # the same batches, so the same means


# ---- Loader --------------------------------------------------------------------------------------------------------


class Squares(Dataset):
    """dataset[[i, j]] -> a batch at a time."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, batch):
        assert isinstance(batch, list)
        batch = torch.tensor(batch)
        return batch, (batch**2).float()[:, None].expand(-1, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_batches_of_the_sampler(workers):
    batches = TrainBatches(10, 4, seed=1)
    steps = loader(Squares(10), batches, workers)
    assert len(steps) == 3
    for epoch in range(2):
        batches.epoch = epoch
        loaded = list(steps)
        assert [indices.tolist() for indices, _ in loaded] == list(batches)
        for indices, squares in loaded:
            assert squares.shape == (len(indices), 3)
            assert squares[:, 0].tolist() == [i**2 for i in indices.tolist()]
