"""Training steps, inference and their memory: our networks against the peers' as their users run them.

Every contender is a process of its own (contest.py), so that nothing of ours, such as where freed memory goes, helps
the peer, and memory is each one's own. The images are random: no network's speed depends on what it sees.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from benchmarks.contest import Row, compare, contest
from torch import Tensor, nn

from common.device import adam, autocast, keep_freed_memory, memory_format, pick_amp, to_device
from common.losses import dice_loss
from hair_transfer.dataset import normalize as normalize_hair
from hair_transfer.model import DeepLabV3
from lrn_headtorso.dataset import normalize as normalize_lrn
from lrn_headtorso.losses import summed_bce
from lrn_headtorso.model import LRN, UNet
from masked_ssl.dataset import normalize as normalize_ssl
from masked_ssl.model import Network
from masked_ssl.train import parsing_loss
from mut1ny_fairness.dataset import normalize as normalize_mut1ny
from mut1ny_fairness.losses import loss_of
from mut1ny_fairness.pspnet import PSPNet
from nu_deeplabv3plus.eval import scale
from nu_deeplabv3plus.model import DeepLabV3Plus

CPU = torch.device("cpu")


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


def _normalize_lrn(images: Tensor, device: torch.device) -> Tensor:
    return normalize_lrn(to_device(images, device))


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
        "DeepLabV3 R101, hair", 256, 2, DeepLabV3, normalize_hair, _squared_error, _alphas,
        f"{TORCHVISION} deeplabv3_resnet101", _torchvision_deeplab, lambda out, y: _squared_error(out["out"], y),
    ),
    "unet": Case(
        "U-Net VGG16, head and torso", 224, 4, UNet, _normalize_lrn, _sum_of_bce, _alphas,
        f"{SMP} Unet VGG16", lambda: _smp("Unet", "vgg16", 1), _bce_of_logits,
    ),
    "lrn": Case(
        "LRN VGG16, head and torso", 224, 4, LRN, _normalize_lrn, _sum_of_bce, _alphas,
        f"{SMP} Unet VGG16 (another network)", lambda: _smp("Unet", "vgg16", 1), _bce_of_logits,
    ),
    "pspnet-truncated": Case(
        "PSPNet R101 cut after layer2, 3 outputs", 256, 4, lambda: PSPNet(truncated=True), normalize_mut1ny,
        _colours, _classes(11), f"{SMP} PSPNet R101", lambda: _smp("PSPNet", "resnet101", 3),
    ),
    "pspnet": Case(
        "PSPNet R101 as described, 3 outputs", 256, 2, PSPNet, normalize_mut1ny, _colours, _classes(11)
    ),
    "unetplusplus": Case(
        "UNet++ R50, 19 classes", 512, 2, lambda: Network(19), normalize_ssl, _parsing, _classes(19),
        f"{SMP} UnetPlusPlus R50", lambda: _smp("UnetPlusPlus", "resnet50", 19),
    ),
}  # fmt: skip
NAIVE = "our network, run as theirs"  # fp32, contiguous, plain Adam: what of the ratio is not the architecture's


class Options(NamedTuple):
    """How a network is run; the defaults are ours."""

    bf16: bool = True  # where the hardware computes it natively
    layout: str = "own"  # common/device.py:memory_format; "other" than that, or "contiguous"
    fused_adam: bool = True
    keep_memory: bool = True
    inference_mode: bool = True  # inference only
    from_bytes: bool = True  # images as the cache holds them; False: float32 beforehand, which costs nothing
    peer: bool = False
    model: Callable[[], nn.Module] | None = None  # instead of the case's


AS_THEIRS = Options(
    bf16=False, layout="contiguous", fused_adam=False, keep_memory=False, inference_mode=False, from_bytes=False
)


def layout_of(options: Options, device: torch.device, amp: bool, training: bool) -> torch.memory_format:
    layouts = [torch.contiguous_format, torch.channels_last]
    if options.layout == "contiguous":
        return layouts[0]
    own = memory_format(device, amp, training)
    return own if options.layout == "own" else layouts[own == layouts[0]]


def make_ready(
    case: Case, options: Options, size: int, batch: int, device: torch.device, training: bool
) -> tuple[nn.Module, Callable[[], Tensor], bool]:
    """A network, what gives it its images as float32, and whether to autocast."""
    if options.keep_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    amp = pick_amp("auto" if options.bf16 else "off", device)
    model = options.model() if options.model else case.make_peer() if options.peer else case.ours()
    model.to(device, memory_format=layout_of(options, device, amp, training)).train(training)
    images = torch.randint(256, (batch, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    floats = case.prepare(images, device)
    return model, (lambda: case.prepare(images, device)) if options.from_bytes else lambda: floats, amp


def prepare_training(
    name: str, options: Options, size: int, batch: int, device: torch.device = CPU, compiled: bool = False
) -> Callable[[], None]:
    """One training step: images to float32, forward, loss, backward, optimiser."""
    case = CASES[name]
    model, images, amp = make_ready(case, options, size, batch, device, training=True)
    optimizer = adam(model, 1e-4) if options.fused_adam else torch.optim.Adam(model.parameters(), lr=1e-4)
    loss_of_output = case.peer_loss if options.peer and case.peer_loss else case.loss
    target, network = case.target(batch, size).to(device), torch.compile(model) if compiled else model

    def step() -> None:
        with autocast(device, amp):
            output = network(images())
        loss = loss_of_output(output, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def prepare_inference(name: str, options: Options, size: int, batch: int) -> Callable[[], None]:
    """Images to float32 and one forward pass."""
    model, images, amp = make_ready(CASES[name], options, size, batch, CPU, training=False)

    def forward() -> None:
        with torch.inference_mode() if options.inference_mode else torch.no_grad(), autocast(CPU, amp):
            model(images())

    return forward


def against_peers(
    name: str, prepare: Callable, size: int, batch: int, rounds: int, budget: float, parts: tuple[str, str]
) -> list[Row]:
    """Ours, the peer and ours as theirs: rows of seconds and of the process' peak memory in MB, as the two `parts`."""
    case, sides = CASES[name], {"ours": Options()}
    if case.make_peer:
        sides[case.peer] = AS_THEIRS._replace(peer=True)
    sides[NAIVE] = AS_THEIRS
    seconds, peaks = contest({who: (prepare, name, how, size, batch) for who, how in sides.items()}, rounds, budget)
    what = f"{case.what}, {size} px, batch {batch}"
    return compare(parts[0], what, "s", seconds) + compare(parts[1], what, "MB", peaks)


def training(quick: bool) -> Iterator[Row]:
    """Case by case at the paper's size."""
    for name, case in CASES.items():
        how = (64, 2, 2, 1) if quick else (case.size, case.batch, 7, 40)
        yield from against_peers(name, prepare_training, *how, ("training", "memory"))


def inference(quick: bool) -> Iterator[Row]:
    """Case by case at batch 1 and 8."""
    for name, case in CASES.items():
        for how in ((64, 1, 2, 1), (64, 2, 2, 1)) if quick else ((case.size, 1, 9, 12), (case.size, 8, 9, 12)):
            yield from against_peers(name, prepare_inference, *how, ("inference", "inference memory"))


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


def optimisations(quick: bool) -> Iterator[Row]:
    """Rows of ours with everything against ours without one thing."""
    bf16 = {"without bf16": Options(bf16=False)} if pick_amp("auto", CPU) else {}
    other_layout = {"contiguous" if bf16 else "channels_last": Options(layout="other")}
    kept = {"freed memory given back": Options(keep_memory=False)}
    classifier = {"1x1 classifier behind the up-sampling": Options(model=ClassifierLast)}
    fused = {"without the fused optimiser": Options(fused_adam=False)}
    inference_mode = {"no_grad instead of inference_mode": Options(inference_mode=False)}
    forward = {**bf16, "contiguous": Options(layout="contiguous"), **kept, **inference_mode, **classifier}
    for name, prepare, kind, variants in (
        ("nu", prepare_training, "training step", {**bf16, **other_layout, **fused, **kept, **classifier}),
        ("nu", prepare_inference, "inference", forward),
        ("lrn", prepare_training, "training step", {**other_layout, **kept}),
    ):
        case = CASES[name]
        size, batch, rounds, budget = (64, 2, 2, 1) if quick else (case.size, case.batch, 9, 30)
        sides = {"ours": Options(), **variants}
        seconds, _ = contest({who: (prepare, name, how, size, batch) for who, how in sides.items()}, rounds, budget)
        yield from compare("optimisations", f"{kind}, {case.what}, {size} px, batch {batch}", "ms", seconds)
