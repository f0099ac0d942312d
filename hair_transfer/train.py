"""Train DeepLabV3-ResNet101 to segment hair, from COCO's weights or from random ones.

Česnik: "Segmentation of human hair", Image Based Biometrics 2019/20, University of Ljubljana (course assignment).

    python hair_transfer/train.py --data CelebAMask-HQ --weights coco    the paper's better model: 15 epochs
    python hair_transfer/train.py --data CelebAMask-HQ --weights none    its other one: 6 epochs
    python hair_transfer/train.py --data CelebAMask-HQ --recipe ours     cross-entropy, augmented, 32 epochs
    python hair_transfer/train.py                        a try on 200 generated faces of 64 px; 4 minutes on a CPU core
    python hair_transfer/train.py --resume hair_transfer/runs/random/last.pt    goes on with a stopped run
    torchrun --nproc_per_node=2 hair_transfer/train.py --batch-size 6       two processes, 3 images each
"""

import math
import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import cli, pictures
from common.celebamask import PARTS
from common.cli import InputError, number
from common.data import among, check_finite, progress, shuffled
from common.device import (
    adam,
    autocast,
    copy_from_first,
    first_process_first,
    memory_format,
    parallel,
    start,
    to_device,
)
from common.run import FORMAT, Checkpoint, Run, arguments
from common.weights import fill, load_weights
from hair_transfer import dataset
from hair_transfer.dataset import HERE, HairMasks, normalize
from hair_transfer.eval import ROWS, choose_faces, evaluate, grey, predict_faces
from hair_transfer.model import DeepLabV3, backbone_of
from hair_transfer.scores import Tally

RECIPES = {"coco": (1e-4, 15), "none": (1e-2, 6), "ours": (1e-3, 32)}  # rate, epochs (Sec. II; ours); a FILE's: coco's
GENERATED = {"size": 64, "lr": 1e-3, "epochs": 8}  # ours: on generated faces, to end within minutes on a CPU
RUNS = {"coco": "coco", "none": "random"}  # names of their folders
LOGGED = ("loss", "f1_01", "f1_05", "iou", "auroc", "batch_auroc")  # of training and, with test_ before it, of test
CURVES = {ROWS[name]: {name: "training", f"test_{name}": "test"} for name in LOGGED}  # figures 4 and 5
LINE = "epoch {epoch:3d}  loss {loss:.4f}  test loss {test_loss:.4f}  IoU {test_iou:.4f}  AUROC {test_auroc:.4f}"


# fmt: off
def parse_args() -> tuple[Namespace, Checkpoint | None]:
    """The arguments, and the checkpoint that --resume names."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("data (Sec. II)").add_argument
    add("--data", type=cli.path, nargs="+", metavar="PATH", help="default: data/CelebAMask-HQ, else generated faces")
    add("--part", choices=PARTS, default="hair", metavar="PART",
        help="hair: Sec. II; another part makes a network to transfer from with --weights FILE (ours)")
    add("--size", type=number(int, 16), metavar="N", help="a multiple of 8 (256: Sec. II; of generated faces 64)")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded faces (default: data/cache here)")
    add = parser.add_argument_group("model (Sec. II)").add_argument
    add("--weights", default="none", metavar="W",
        help="coco: the paper's pretrained model; none: its random one (default, ours: it needs no download); or a "
        "FILE with another ResNet-101 to start from, a checkpoint of this repository or torchvision's")
    add("--output", choices=["sigmoid", "tanh"], default="sigmoid", help="sigmoid: Sec. II; tanh: the template's")
    add = parser.add_argument_group("training (Sec. II)").add_argument
    add("--recipe", choices=["paper", "ours"], default="paper",
        help="paper: squared error, a constant rate (Sec. II); ours: binary cross-entropy, a rate that falls from --lr "
        "to 0 along a cosine, faces mirrored, zoomed and shifted")
    add("--epochs", type=number(int, 1), metavar="N",
        help="15, with --weights none 6: Sec. II; with --recipe ours 32; on generated faces 8")
    add("--batch-size", type=number(int, 2), default=6, metavar="N", help="of all processes together (6: Sec. II)")
    add("--lr", type=number(float, 0, above=True), metavar="X",
        help="of Adam: 0.0001, with --weights none 0.01: Sec. II; with --recipe ours or on generated faces 0.001")
    args, saved = arguments(parser, HERE.name, free=("data",), limit_help=", and of them 2,600 at most (Sec. II)")
    if args.size and args.size % 8:
        parser.error(f"--size {args.size} must be a multiple of 8")
    if args.weights == "auto":
        parser.error("--weights auto: the two starts have rates and lengths of their own here; give coco or none")
    if args.recipe == "ours" and args.output == "tanh":
        parser.error("--output tanh: --recipe ours computes a cross-entropy, which needs the sigmoid; leave one out")
    if args.recipe == "ours" and args.part in dataset.ONE_SIDED:
        parser.error(f"--part {args.part}: is on one side, and --recipe ours mirrors faces; leave one out")
    if args.recipe == "ours" and saved and args.epochs != saved["args"]["epochs"]:
        parser.error(f"--epochs {args.epochs}: the rate was to fall over {saved['args']['epochs']}; leave it out")
    return args, saved
# fmt: on


def fill_in(args: Namespace, generated: bool) -> None:
    """Set what was not typed: the recipe that the paper has for these weights, on generated faces ours."""
    lr, epochs = RECIPES.get("ours" if args.recipe == "ours" else args.weights, RECIPES["coco"])
    for name, value in (GENERATED if generated else {"size": dataset.SIZE, "lr": lr, "epochs": epochs}).items():
        setattr(args, name, value if getattr(args, name) is None else getattr(args, name))


def build_model(args: Namespace, test: list[str]) -> tuple[DeepLabV3, str, list[str]]:
    """The network on the ResNet-101 that --weights names, where that came from, and the pictures that it has seen: with
    `test` faces among them, the scores would flatter the transfer."""
    coco = "DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1"
    state_dict, source, checkpoint = load_weights(args.weights, coco, name="coco")
    model, seen = DeepLabV3(output=args.output), []
    if state_dict is not None:
        # paper: a pre-trained DeepLabV3; here: its backbone alone, as in the template, which replaces the head
        fill(model.backbone, backbone_of(state_dict), "a ResNet-101 under torchvision's names", args.weights)
        source = f"backbone of {source}, new heads"
    if checkpoint:
        if checkpoint.get("format") != FORMAT:
            raise InputError(f"--weights {args.weights}: was written by another version of this code; train it again")
        task = f"{checkpoint['paper']} on {checkpoint['args'].get('part', 'its own task')}"
        source += f" ({task}, epoch {checkpoint['epoch']}, itself from {checkpoint['weights']})"
        seen = sorted({*checkpoint["split"]["train"], *checkpoint.get("seen", [])})
    if known := len(among(test, seen)):
        source += f"; IT WAS TRAINED ON {known} OF THE {len(test)} TEST FACES"
    return model, source, seen


def loss_of(model: DeepLabV3, logits: Tensor, masks: Tensor, recipe: str) -> Tensor:
    """B x 1 x H x W float32 logits and masks -> the mean over all pixels: Sec. II's (y - y^)^2, or ours."""
    if recipe == "ours":
        return F.binary_cross_entropy_with_logits(logits, masks)
    return F.mse_loss(model.activate(logits), masks)


def train_epoch(
    model: DeepLabV3, network: nn.Module, faces: HairMasks, optimizer: torch.optim.Adam, run: Run, epoch: int
) -> dict[str, float]:
    """One pass over the training set -> its scores, of the network as it was at each step, dropout and all."""
    network.train()
    batches, losses = shuffled(len(faces), run.args.batch_size, run.args.seed, epoch), []
    tally, recipe = Tally(run.device), run.args.recipe
    for batch in progress(batches, f"epoch {epoch}"):
        images, masks = faces.batch(batch)
        if recipe == "ours":
            images, masks = dataset.augment(images, masks)
        masks = to_device(masks, run.device).float()
        with autocast(run.device, run.amp):
            logits = network(normalize(images, run.device))
        loss = loss_of(model, logits, masks, recipe)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        tally.add(logits, model.activate(logits), masks)
        losses.append(loss.detach())
        check_finite(losses, batches, faces.names, f"epoch {epoch}")
    return tally.scores()


def main() -> None:
    args, saved = parse_args()
    device, amp = start(args, least=2)  # batch norm needs two images

    # data (Sec. II)
    with first_process_first():
        folders, source = dataset.locate(args.data)
        generated = not args.data and "GENERATED" in source
        fill_in(args, generated)
        faces = dataset.list_faces(folders, args.part)[: args.limit]
        train, test = ([faces[i] for i in side] for side in dataset.split([face.id for face in faces], args.seed))
        train_set, test_set = (HairMasks(side, args.size, args.cache) for side in (train, test))
    split = {"train": [face.identity for face in train], "test": [face.identity for face in test]}

    # model (Sec. II)
    if saved:
        model, weights, seen = DeepLabV3(output=args.output), saved["weights"], saved["seen"]
    else:
        with first_process_first():
            model, weights, seen = build_model(args, split["test"])
    model.to(device, memory_format=memory_format(device, amp))

    # optimiser (Sec. II)
    optimizer = adam(model, args.lr)
    chosen = choose_faces(len(test_set), args.seed)[:3]

    def draw_samples(path: Path) -> None:
        drawn = zip(*predict_faces(model, test_set, chosen, device, amp), strict=True)
        rows = [[photo, mask, grey(output)] for photo, mask, output in drawn]
        pictures.save_grid(path, rows, column_titles=["photo", "true", "predicted"], cell=2)

    run = Run(
        args, saved, HERE, device, amp,
        name=f"{args.part}-" * (args.part != "hair") + RUNS.get(args.weights, "from-file")
        + "-ours" * (args.recipe == "ours") + "-generated" * generated,
        parts={"model": model, "optimizer": optimizer},
        split=split,
        facts={
            "data": f"{source}: {len(faces)} faces, {len(train)} train, {len(test)} test, {args.part}",
            "model": f"DeepLabV3-ResNet101, {sum(p.numel() for p in model.parameters()):,} parameters",
            "weights": weights,
        },
        keep={"weights": weights, "classes": [args.part], "seen": seen},
        line=LINE,
        curves=lambda path, log: pictures.save_curves(path, log, CURVES, columns=3),
        samples=draw_samples,
    )  # fmt: skip
    network = parallel(model, device, args.compile)

    # loop (Sec. II): both models trained for a fixed number of epochs
    for epoch in run.epochs():
        if args.recipe == "ours":  # the rate falls along a cosine
            optimizer.param_groups[0]["lr"] = args.lr * (1 + math.cos(math.pi * (epoch - 1) / args.epochs)) / 2
        trained = train_epoch(model, network, train_set, optimizer, run, epoch)
        copy_from_first(model)
        tested = evaluate(model, test_set, args.batch_size, device, amp)
        better = tested["loss"] < min((row["test_loss"] for row in run.log), default=float("inf"))
        row = {name: trained[name] for name in LOGGED} | {f"test_{name}": tested[name] for name in LOGGED}
        run.end_epoch(row, better)
    run.end()


if __name__ == "__main__":
    cli.run(main)
