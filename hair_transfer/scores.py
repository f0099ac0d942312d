"""How good a hair mask is: AUROC in one pass over a set of any size, edges within a band, and what a pass counts."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from common.device import sum_over_processes
from common.metrics import multilabel_counts, scores_from_counts

THRESHOLDS = (0.1, 0.5)  # 0.1: the template's (NOTES.md); 0.5: everybody else's
RANK_BITS = 20  # the AUROC sorts logits into 2^20 bins of equal width in float32's own (logarithmic) steps
BAND = 3  # pixels by which an edge may be off (ours)


def rank_histogram(scores: Tensor, truth: Tensor) -> Tensor:
    """Scores (float32) and 0/1 truth of one shape -> 2 x 2^20 int64: how many of the 0s and of the 1s fall in each bin.

    A bin is the leading 20 bits of a score. All pixels of a set do not fit into memory to be sorted; histograms do, and
    those of several processes add up.
    """
    bits = scores.detach().float().contiguous().view(torch.int32).flatten()
    ordered = torch.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))  # integers in the order of the floats
    bins = 2**RANK_BITS
    index = (ordered >> (32 - RANK_BITS)) + bins // 2 + bins * truth.flatten().int()
    counts = torch.zeros(2 * bins, dtype=torch.int32, device=scores.device)
    return counts.scatter_add_(0, index.long(), torch.ones_like(index)).view(2, bins).long()


def rank_sums(histogram: Tensor) -> Tensor:
    """2 x bins -> 4 of the same type: twice the pairs (0, 1) in the right order, those within a bin, the 1s, the 0s."""
    zeros, ones = histogram
    below = zeros.cumsum(0) - zeros
    return torch.stack([(ones * (2 * below + zeros)).sum(), (ones * zeros).sum(), ones.sum(), zeros.sum()])


def auroc_from_sums(sums: list[int]) -> tuple[float, float]:
    """AUROC, and how far off it can be: pairs within a bin count half, as ties do; nan if there is one class."""
    twice_right, same_bin, ones, zeros = sums
    if not ones or not zeros:
        return math.nan, math.nan
    return twice_right / (2 * ones * zeros), same_bin / (2 * ones * zeros)


def edge(mask: Tensor) -> Tensor:
    """B x 1 x H x W bool -> the same: pixels of the mask with a neighbour beside, above or below that is not; the
    picture's frame is no edge."""
    outside = (~mask).float()
    beside, above = F.max_pool2d(outside, (1, 3), 1, (0, 1)), F.max_pool2d(outside, (3, 1), 1, (1, 0))
    return mask & (beside + above > 0)


def dilate(mask: Tensor) -> Tensor:
    """B x 1 x H x W bool -> the same: all pixels that lie at most BAND pixels from one of the mask."""
    steps = torch.arange(-BAND, BAND + 1, device=mask.device)
    disc = (steps[:, None] ** 2 + steps**2 <= BAND**2).float()
    return F.conv2d(mask.float(), disc[None, None], padding=BAND) > 0.5


def edge_counts(prediction: Tensor, truth: Tensor) -> Tensor:
    """Two B x 1 x H x W bool -> 4 int64: predicted edge pixels near a true one, and all of them; true ones near a
    predicted one, and all of them."""
    predicted, true = edge(prediction), edge(truth)
    near_true, near_predicted = dilate(true), dilate(predicted)
    return torch.stack([(predicted & near_true).sum(), predicted.sum(), (true & near_predicted).sum(), true.sum()])


def boundary_f1(counts: list[int]) -> float:
    """edge_counts() -> boundary F1; nan without any edge, 0 if only one side has one."""
    precise, predicted, recalled, true = counts
    if not predicted or not true:
        return 0.0 if predicted or true else math.nan
    precision, recall = precise / predicted, recalled / true
    return 2 * precision * recall / (precision + recall) if precise and recalled else 0.0


class Tally:
    """What training and evaluation count, batch by batch, on the device and without waiting for it."""

    def __init__(self, device: torch.device):
        self.histogram = torch.zeros(2, 2**RANK_BITS, dtype=torch.int64, device=device)
        self.counts = torch.zeros(len(THRESHOLDS), 4, dtype=torch.int64, device=device)
        self.edges = torch.zeros(4, dtype=torch.int64, device=device)
        self.losses, self.sizes, self.batch_sums = [], [], []

    @torch.no_grad()
    def add(self, logits: Tensor, output: Tensor, masks: Tensor) -> None:
        """B x 1 x H x W logits, their output, and the 0/1 masks."""
        truth = masks.bool()
        histogram = rank_histogram(logits, truth)
        self.histogram += histogram
        self.batch_sums.append(rank_sums(histogram))
        above = torch.cat([output > threshold for threshold in THRESHOLDS], dim=1)
        self.counts += multilabel_counts(above, truth.expand_as(above))
        self.edges += edge_counts(above[:, 1:], truth)
        self.losses.append(F.mse_loss(output, masks.float()))
        self.sizes.append(len(masks))

    def scores(self) -> dict[str, float]:
        """Names to numbers, over all processes of torchrun; nan for what the set cannot tell."""
        # float64, because the pairs of thousands of large masks exceed int64; on the CPU, because MPS has no float64
        histogram = sum_over_processes(self.histogram).cpu().double()
        auroc, error = auroc_from_sums(rank_sums(histogram).tolist())
        by_batch = torch.stack(self.batch_sums).tolist() if self.batch_sums else []
        aurocs = [auroc_from_sums(sums)[0] for sums in by_batch if all(sums[2:])]
        losses = [loss.item() * size for loss, size in zip(self.losses, self.sizes, strict=True)]
        sums = [sum(losses), sum(self.sizes), sum(aurocs), len(aurocs)]
        sums = torch.tensor(sums, dtype=torch.float32, device=self.edges.device)  # ints if there are no batches
        loss, n, batch_auroc, batches = sum_over_processes(sums).tolist()
        at = scores_from_counts(sum_over_processes(self.counts))
        return {
            "loss": loss / n,
            "auroc": auroc,
            "auroc_error": error,
            "batch_auroc": batch_auroc / batches if batches else math.nan,
            "batches": int(batches),  # those with both classes: the others have no AUROC
            "f1_01": float(at["f1"][0]),
            "f1_05": float(at["f1"][1]),
            "iou": float(at["iou"][1]),
            "precision": float(at["precision"][1]),
            "recall": float(at["recall"][1]),
            "boundary_f1": boundary_f1(sum_over_processes(self.edges).tolist()),
        }
