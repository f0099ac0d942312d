"""Training steps, inference and their memory: our networks against the peers' as their users run them.

Every contender is a process of its own (contest.py), so that nothing of ours, such as where freed memory goes, helps
the peer, and memory is each one's own. The images are random: no network's speed depends on what it sees.
"""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.contest import Row, compare, contest, in_turns, timed
from benchmarks.loading import cached
from torch import Tensor, nn

from common.celebamask import list_celebamask
from common.device import adam, autocast, for_inference, has_native_bf16, keep_freed_memory, memory_format, pick_amp
from common.faces import write_celebamask
from common.losses import dice_loss
from common.metrics import multilabel_counts
from hair_transfer.model import DeepLabV3
from lrn_headtorso.dataset import normalize as normalize_lrn
from lrn_headtorso.eval import summed_bce
from lrn_headtorso.model import LRN, UNet
from masked_ssl.dataset import normalize
from masked_ssl.model import Network
from masked_ssl.train import parsing_loss
from mut1ny_fairness.palette import loss_of
from mut1ny_fairness.pspnet import PSPNet
from nu_deeplabv3plus.eval import scale
from nu_deeplabv3plus.model import DeepLabV3Plus

CPU = torch.device("cpu")
multiprocessing.set_forkserver_preload(["__main__", "benchmarks.networks", "segmentation_models_pytorch"])


class Case(NamedTuple):
    """A network of ours at its paper's size and who it is compared with."""

    what: str
    size: int
    batch: int  # of a training step: the paper's, or fewer where a step would take half a minute
    ours: Callable[[], nn.Module]
    prepare: Callable  # uint8 images, device -> float32
    loss: Callable[[object, Tensor], Tensor]  # output, target -> scalar
    target: Callable[[int, int], Tensor]  # batch, size -> what the loss compares with
    peer: str = ""
    make_peer: Callable[[], nn.Module] | None = None
    peer_loss: Callable[[object, Tensor], Tensor] | None = None  # where the peer's output is of another kind


def _smp(kind: str, encoder: str, classes: int) -> nn.Module:
    import segmentation_models_pytorch

    return getattr(segmentation_models_pytorch, kind)(encoder, encoder_weights=None, classes=classes)


def _torchvision_deeplab() -> nn.Module:
    from torchvision.models.segmentation import deeplabv3_resnet101

    return deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=1)


def _masks(batch: int, size: int) -> Tensor:
    return (torch.rand(batch, 18, size, size) < 0.2).byte()


def _alphas(batch: int, size: int) -> Tensor:
    return (255 * torch.rand(batch, 1, size, size)).byte()


def _classes(count: int) -> Callable[[int, int], Tensor]:
    return lambda batch, size: torch.randint(count, (batch, size, size)).byte()


def _squared_error(logits: Tensor, alphas: Tensor) -> Tensor:
    return F.mse_loss(torch.sigmoid(logits.float()), alphas / 255)


def _sum_of_bce(maps: list[Tensor], alphas: Tensor) -> Tensor:
    return summed_bce(maps, alphas).mean()


def _bce_of_logits(logits: Tensor, alphas: Tensor) -> Tensor:
    return _sum_of_bce([torch.sigmoid(logits)], alphas)


def _colours(output: Tensor | tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
    if isinstance(output, Tensor):
        return loss_of(output, labels, "rgb")
    return _colours(output[0], labels) + 0.4 * _colours(output[1], labels)


def _parsing(logits: Tensor, labels: Tensor) -> Tensor:
    return sum(parsing_loss(logits, labels))


SMP, TORCHVISION = "segmentation_models_pytorch", "torchvision"
CASES = {
    "nu": Case(
        "DeepLabV3+ R50 with SE, 18 masks", 128, 4, DeepLabV3Plus, scale, dice_loss, _masks,
        f"{SMP} DeepLabV3Plus R50", lambda: _smp("DeepLabV3Plus", "resnet50", 18),
    ),
    "hair": Case(
        "DeepLabV3 R101, hair", 256, 2, DeepLabV3, normalize, _squared_error, _alphas,
        f"{TORCHVISION} deeplabv3_resnet101", _torchvision_deeplab, lambda out, y: _squared_error(out["out"], y),
    ),
    "unet": Case(
        "U-Net VGG16, head and torso", 224, 4, UNet, normalize_lrn, _sum_of_bce, _alphas,
        f"{SMP} Unet VGG16", lambda: _smp("Unet", "vgg16", 1), _bce_of_logits,
    ),
    "lrn": Case(
        "LRN VGG16, head and torso", 224, 4, LRN, normalize_lrn, _sum_of_bce, _alphas,
        f"{SMP} Unet VGG16 (another network)", lambda: _smp("Unet", "vgg16", 1), _bce_of_logits,
    ),
    "pspnet-truncated": Case(
        "PSPNet R101 cut after layer2, 3 outputs", 256, 4, lambda: PSPNet(aux=False, truncated=True), normalize,
        _colours, _classes(11), f"{SMP} PSPNet R101", lambda: _smp("PSPNet", "resnet101", 3),
    ),
    "pspnet": Case(
        "PSPNet R101 as described, 3 outputs", 256, 2, PSPNet, normalize, _colours, _classes(11)
    ),
    "unetplusplus": Case(
        "UNet++ R50, 19 classes", 512, 2, lambda: Network(19), normalize, _parsing, _classes(19),
        f"{SMP} UnetPlusPlus R50", lambda: _smp("UnetPlusPlus", "resnet50", 19),
    ),
}  # fmt: skip
NAIVE = "our network, run as theirs"  # fp32, contiguous, plain Adam: what of the ratio is not the architecture's


class Options(NamedTuple):
    """How a network is run; the defaults are ours."""

    bf16: bool = True  # where the processor computes it natively
    own_layout: bool = True  # common/device.py:memory_format; False: the other one
    fused_adam: bool = True
    keep_memory: bool = True
    folded: bool = True  # inference only, as the next two
    cast_once: bool = True
    inference_mode: bool = True
    model: Callable[[], nn.Module] | None = None  # instead of the case's


AS_THEIRS = Options(bf16=False, fused_adam=False, keep_memory=False, folded=False, inference_mode=False)


def _amp_and_layout(options: Options, training: bool) -> tuple[bool, torch.memory_format]:
    if options == AS_THEIRS:
        return False, torch.contiguous_format
    amp = pick_amp("auto" if options.bf16 else "off", CPU)
    layout = memory_format(CPU, amp, training)
    return amp, layout if options.own_layout else OTHER[layout]


OTHER = {torch.channels_last: torch.contiguous_format, torch.contiguous_format: torch.channels_last}


def _images(case: Case, batch: int, size: int, as_theirs: bool) -> Callable[[], Tensor]:
    """Ours start from the loader's bytes; the peer's are float32 beforehand, which costs it nothing."""
    images = torch.randint(256, (batch, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    ready = case.prepare(images, CPU)
    return (lambda: ready) if as_theirs else (lambda: case.prepare(images, CPU))


def prepare_training(name: str, ours: bool, options: Options, size: int, batch: int) -> Callable[[], None]:
    """One training step: images to float32, forward, loss, backward, optimiser."""
    case = CASES[name]
    if options.keep_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    amp, layout = _amp_and_layout(options, training=True)
    model = ((options.model or case.ours)() if ours else case.make_peer()).to(memory_format=layout)
    optimizer = adam(model, 1e-4) if options.fused_adam else torch.optim.Adam(model.parameters(), lr=1e-4)
    loss_of_output = case.loss if ours or case.peer_loss is None else case.peer_loss
    images, target = _images(case, batch, size, options == AS_THEIRS), case.target(batch, size)
    model.train()

    def step() -> None:
        with autocast(CPU, amp):
            output = model(images())
        loss = loss_of_output(output, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def prepare_inference(name: str, ours: bool, options: Options, size: int, batch: int) -> Callable[[], None]:
    """Images to float32 and one forward pass."""
    case = CASES[name]
    if options.keep_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    amp, layout = _amp_and_layout(options, training=False)
    model = ((options.model or case.ours)() if ours else case.make_peer()).eval()
    if options.folded:
        model = for_inference(model, amp and options.cast_once)
    model = model.to(memory_format=layout)
    images = _images(case, batch, size, options == AS_THEIRS)

    def forward() -> None:
        with torch.inference_mode() if options.inference_mode else torch.no_grad(), autocast(CPU, amp):
            model(images())

    return forward


def _contenders(name: str, prepare: Callable, size: int, batch: int) -> dict[str, tuple]:
    case = CASES[name]
    contenders = {"ours": (prepare, name, True, Options(), size, batch)}
    if case.make_peer:
        contenders[case.peer] = (prepare, name, False, AS_THEIRS, size, batch)
    return contenders | {NAIVE: (prepare, name, True, AS_THEIRS, size, batch)}


def training(quick: bool) -> Iterator[Row]:
    """Rows of seconds a step and of the process' peak memory in MB, case by case."""
    for name, case in CASES.items():
        size, batch = (64, 2) if quick else (case.size, case.batch)
        what = f"{case.what}, {size} px, batch {batch}"
        with contest(_contenders(name, prepare_training, size, batch)) as contenders:
            runs = {who: contender.run for who, contender in contenders.items()}
            seconds = in_turns(runs, rounds=2 if quick else 7, budget=1 if quick else 40)
            peaks = {who: [contender.stop()] for who, contender in contenders.items()}
        yield from compare("training", what, "s", seconds.pop("ours"), seconds)
        yield from compare("memory", what, "MB", peaks.pop("ours"), peaks)


def inference(quick: bool) -> Iterator[Row]:
    """Rows of seconds a forward pass and of the process' peak memory in MB, at batch 1 and 8."""
    for name, case in CASES.items():
        for batch in (1, 2) if quick else (1, 8):
            size = 64 if quick else case.size
            with contest(_contenders(name, prepare_inference, size, batch)) as contenders:
                runs = {who: contender.run for who, contender in contenders.items()}
                seconds = in_turns(runs, rounds=2 if quick else 9, budget=1 if quick else 12)
                peaks = {who: [contender.stop()] for who, contender in contenders.items()}
            what = f"{case.what}, {size} px, batch {batch}"
            yield from compare("inference", what, "s", seconds.pop("ours"), seconds)
            yield from compare("inference memory", what, "MB", peaks.pop("ours"), peaks)


# ---- What each optimisation brings ----------------------------------------------------------------------------------


class ClassifierLast(DeepLabV3Plus):
    """The paper's order: up-sample 256 channels, then the 1x1 to the classes."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        low_level, x = self.encoder(x)
        x = self.encoder_se(self.aspp(x))
        x = F.interpolate(x, size=low_level.shape[-2:], mode="bilinear", align_corners=False)
        x = torch.cat([x, self.low_level(low_level)], dim=1)
        x = self.decoder_se(self.decoder(x))
        return self.classifier(F.interpolate(x, size=size, mode="bilinear", align_corners=False))


def prepare_pooling(expand: bool, size: int) -> Callable[[], None]:
    """The image pooling's 1x1 map brought to the size of the other branches of ASPP, as in hair_transfer/model.py."""
    pooled, branch = torch.randn(8, 256, 1, 1), torch.randn(8, 256, size, size)

    def repeat() -> None:
        with torch.inference_mode():
            for _ in range(20):
                wide = pooled.expand_as(branch) if expand else F.interpolate(pooled, branch.shape[-2:], mode="bilinear")
                torch.cat([branch, wide], dim=1)

    return repeat


def whole_batches(quick: bool) -> Iterator[Row]:
    """A batch in one gather from the cache against each face by itself, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        n, size = (8, 32) if quick else (200, 128)
        where = write_celebamask(Path(folder) / "faces", n, size=size)
        data = cached(list_celebamask(where), where, size, "masks", Path(folder) / "cache")
        rng = np.random.default_rng(0)

        def chosen() -> list[int]:
            return rng.permutation(n)[:16].tolist()

        runs = {
            "ours": lambda: 1000 * timed(lambda: data[chosen()]),
            "a face at a time": lambda: 1000 * timed(
                lambda: [torch.cat(parts) for parts in zip(*(data[[i]] for i in chosen()), strict=True)]
            ),
        }  # fmt: skip
        found = in_turns(runs, rounds=2 if quick else 60, budget=1 if quick else 5)
    yield from compare("optimisations", f"16 faces from the cache, {size} px, 18 masks", "ms", found.pop("ours"), found)


def plain_counts(prediction: Tensor, truth: Tensor) -> Tensor:
    """common/metrics.py:multilabel_counts as one would write it first."""
    prediction, truth = prediction.bool(), truth.bool()
    pairs = (prediction & truth, prediction & ~truth, ~prediction & truth, ~prediction & ~truth)
    return torch.stack([x.sum((0, 2, 3)) for x in pairs], dim=1)


def small_integers(quick: bool) -> Iterator[Row]:
    """Counts of a batch of masks in small integers of contiguous memory against plain sums, in milliseconds."""
    size = 32 if quick else 128
    truth = (torch.rand(8, 18, size, size) < 0.2).byte()
    found = torch.randn(truth.shape).contiguous(memory_format=torch.channels_last) > 0
    runs = {
        "ours": lambda: 1000 * timed(lambda: multilabel_counts(found, truth)),
        "plain sums of bools": lambda: 1000 * timed(lambda: plain_counts(found, truth)),
    }
    seconds = in_turns(runs, rounds=2 if quick else 30, budget=1 if quick else 5)
    what = f"counts of 18 masks in channels_last, 8 x {size} px"
    yield from compare("optimisations", what, "ms", seconds.pop("ours"), seconds)


def optimisations(quick: bool) -> Iterator[Row]:
    """Rows of ours with everything against ours without one thing."""
    bf16 = has_native_bf16(CPU)
    train = {
        **({"without bf16": Options(bf16=False)} if bf16 else {}),
        "contiguous" if bf16 else "channels_last": Options(own_layout=False),
        "without the fused optimiser": Options(fused_adam=False),
        "freed memory given back": Options(keep_memory=False),
        "1x1 classifier behind the up-sampling": Options(model=ClassifierLast),
    }
    forward = {
        **({"without bf16": Options(bf16=False), "weights cast each time": Options(cast_once=False)} if bf16 else {}),
        "contiguous": Options(own_layout=False),
        "freed memory given back": Options(keep_memory=False),
        f"batch norm not folded{', weights cast each time' if bf16 else ''}": Options(folded=False),
        "no_grad instead of inference_mode": Options(inference_mode=False),
        "1x1 classifier behind the up-sampling": Options(model=ClassifierLast),
    }
    memory = {name: train[name] for name in ("contiguous" if bf16 else "channels_last", "freed memory given back")}
    for name, prepare, kind, variants in (
        ("nu", prepare_training, "training step", train),
        ("nu", prepare_inference, "inference", forward),
        ("lrn", prepare_training, "training step", memory),
    ):
        case = CASES[name]
        size, batch = (64, 2) if quick else (case.size, case.batch)
        contenders = {"ours": Options()} | variants
        with contest({who: (prepare, name, True, how, size, batch) for who, how in contenders.items()}) as running:
            runs = {who: contender.run for who, contender in running.items()}
            seconds = in_turns(runs, rounds=2 if quick else 9, budget=1 if quick else 30)
        what = f"{kind}, {case.what}, {size} px, batch {batch}"
        in_ms = {who: [1000 * s for s in values] for who, values in seconds.items()}
        yield from compare("optimisations", what, "ms", in_ms.pop("ours"), in_ms)
    yield from whole_batches(quick)
    yield from small_integers(quick)
    with contest({who: (prepare_pooling, who == "ours", 32) for who in ("ours", "interpolated")}) as running:
        seconds = in_turns({who: contender.run for who, contender in running.items()}, rounds=5, budget=5)
    in_ms = {who: [1000 * s for s in values] for who, values in seconds.items()}
    what = "image pooling and concat, 8 x 256 x 32 x 32, 20 times"
    yield from compare("optimisations", what, "ms", in_ms.pop("ours"), in_ms)
