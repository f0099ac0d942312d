"""Train a Label Refinement Network, or the U-Net it is compared with, to cut out head and torso.

Pinto, Cardoso: "Fine Segmentation of Head and Torso Using Label Refinement Networks", RecPad 2019 (INESC TEC, Porto).

    python lrn_headtorso/train.py --epochs 6       a try on 250 generated pictures: 2 minutes, val Jaccard 91 %
    python lrn_headtorso/train.py --data FOLDER                              the paper's LRN
    python lrn_headtorso/train.py --data FOLDER --model unet                 its UNET
    python lrn_headtorso/train.py --data FOLDER --weights imagenet           its LRN-VGG, in two phases
    python lrn_headtorso/train.py --resume lrn_headtorso/runs/lrn/last.pt
    torchrun --nproc_per_node=2 lrn_headtorso/train.py --batch-size 8        two processes, 4 pictures each
"""

import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.optim import Optimizer

from common import cli, pictures
from common.cli import InputError, number
from common.data import among, check_finite, identity, progress, shuffled
from common.device import adam, autocast, first_process_first, memory_format, parallel, start, sum_over_processes, world
from common.images import list_photos
from common.run import FORMAT, Checkpoint, Run, arguments
from common.weights import fill, load_weights
from lrn_headtorso import dataset
from lrn_headtorso.dataset import HERE, PERSON_FROM, HeadTorso, normalize
from lrn_headtorso.eval import EVERYTHING, FROZEN, draw_predictions, evaluate, make_model, predict_maps, summarize
from lrn_headtorso.losses import summed_bce
from lrn_headtorso.model import FOUND_ABOVE, LRN, STRIDE, UNet
from lrn_headtorso.pairs import list_pairs

DEFAULTS = {"size": dataset.SIZE, "epochs": 300, "lr": 1e-4}  # Sec. 3; ours: the paper trains to a plateau; Sec. 2.3
GENERATED = {"size": 64, "epochs": 25, "lr": 3e-4}  # ours: on generated pictures, to end within minutes on a CPU
LR_UNFROZEN = 1e-5  # ours: the paper speaks of small adjustments once the encoder is unfrozen
CURVES = {
    "BCE, summed over the maps": {"loss": "training", "val_loss": "validation"},
    "Jaccard index, %": {"jaccard": "training", "val_jaccard": "validation"},
    "Hausdorff distance, px": {"val_hausdorff": "validation"},
    "learning rate": {"lr": "lr"},
}
LINE = (
    "epoch {epoch:3d}  loss {loss:.4f}  Jaccard {jaccard:.2f} %  val loss {val_loss:.4f}  val Jaccard "
    "{val_jaccard:.2f} %  Hausdorff {val_hausdorff:.1f} px  lr {lr:g}"
)


# fmt: off
def parse_args() -> tuple[Namespace, Checkpoint | None]:
    """The arguments, and the checkpoint that --resume names."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("data (Sec. 3)").add_argument
    add("--data", type=cli.path, metavar="PATH",
        help="photos/ and cutouts/, or CelebAMask-HQ (default: either of them in data/ here, else generated pictures)")
    add("--size", type=number(int, STRIDE), metavar="N",
        help=f"image side ({dataset.SIZE}: Sec. 3; on generated pictures {GENERATED['size']})")
    add("--n-train", type=number(int, 2), metavar="N",
        help="pictures to train with, a tenth of them for the plateau rule (250: Sec. 3; fewer if need be)")
    add("--n-test", type=number(int, 1), metavar="N", help="pictures kept for eval.py (48: Sec. 3; fewer if need be)")
    add("--backgrounds", type=cli.path, metavar="DIR", help="put half of the people on these pictures (Sec. 5)")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded pictures (default: data/cache here)")
    add = parser.add_argument_group("model (Sec. 2.1, 2.2)").add_argument
    add("--model", choices=["lrn", "unet"], default="lrn", help="lrn: Sec. 2.1; unet: Sec. 2.2")
    add("--channel-reduction", action="store_true", help="put back the original LRN's convolution (Sec. 2.1)")
    add("--weights", default="none", metavar="W",
        help="of the VGG-16: none (Glorot), imagenet, in two phases (both: Sec. 2.3), torchvision's file, a run's "
             "best.pt, or auto (ImageNet if available, else none)")
    add = parser.add_argument_group("training (Sec. 2.3)").add_argument
    add("--epochs", type=number(int, 1), metavar="N",
        help=f"at most (ours: {DEFAULTS['epochs']}; on generated pictures {GENERATED['epochs']})")
    add("--batch-size", type=number(int, 1), default=4, metavar="N", help="ours: 4; of all processes of torchrun")
    add("--lr", type=number(float, 0, above=True), metavar="X",
        help=f"of Adam (0.0001: Sec. 2.3; on generated pictures {GENERATED['lr']})")
    add("--patience", type=number(int, 1), default=15, metavar="N",
        help="a plateau is N epochs without a better validation loss (ours)")
    args, saved = arguments(parser, HERE.name, free=("data", "patience", "backgrounds"))
    if args.size and args.size % STRIDE:
        parser.error(f"--size {args.size} must be a multiple of {STRIDE}, such as {args.size // STRIDE * STRIDE}")
    if args.channel_reduction and args.model == "unet":
        parser.error("--channel-reduction is a part of the LRN; leave it out with --model unet")
    return args, saved
# fmt: on


def phase_after(log: list[dict], phases: list[str], patience: int) -> str | None:
    """The phase of the next epoch; None once the last one has come to its plateau (Sec. 2.3).

    The paper trains until the loss stops falling: here, `patience` epochs in a row that do not beat the phase's best
    validation loss (ours: the paper gives no rule).
    """
    phase = log[-1]["phase"] if log else phases[0]
    losses = [row["val_loss"] for row in log if row["phase"] == phase]
    bad = len(losses) - 1 - losses.index(min(losses)) if losses else 0
    if bad < patience:
        return phase
    return phases[1] if phase != phases[-1] else None


def start_phase(model: LRN | UNet, phase: str, lr: float) -> Optimizer:
    """The optimiser of a phase. Frozen is frozen: VGG-16 has no batch norm, so without gradient nothing of it moves."""
    model.encoder.requires_grad_(phase != FROZEN)
    return adam(model, lr)


def load_encoder(model: LRN | UNet, choice: str, test: list[str]) -> tuple[str, str, list[str]]:
    """Fill the encoder as --weights says -> random, imagenet or the file's name; where the weights came from in words;
    and the pictures that they have seen, if a run of this folder made them. `test`: identities of the test pictures."""
    found, words, checkpoint = load_weights(choice, "VGG16_Weights.IMAGENET1K_V1")
    if found is None:
        return "random", words, []
    fill(model.encoder, model.encoder.trunk_of(found), "torchvision's VGG-16", choice)
    if not checkpoint:
        return "imagenet" if choice in ("imagenet", "auto") else Path(choice).name, words, []
    if checkpoint.get("format") != FORMAT:  # its split names pictures otherwise: none would count as seen
        raise InputError(f"--weights {choice}: was written by another version of this code; train it again")
    seen = [*checkpoint["split"]["train"], *checkpoint["seen"]]
    words = f"encoder of {choice}: {checkpoint['args']['model']}, epoch {checkpoint['epoch']}"
    if known := len(among(test, seen)):
        words += f"; IT WAS TRAINED ON {known} OF THE {len(test)} TEST PICTURES"
    return Path(choice).resolve().parent.name, words, seen


def run_name(args: Namespace, source: str, own: bool, generated: bool) -> str:
    """The folder in runs/: lrn, unet, lrn-vgg, ... and what else differs from the paper's recipe."""
    parts = [args.model, "" if source == "random" else "own" if own else "vgg"]
    parts += ["reduced" * args.channel_reduction, "backgrounds" * bool(args.backgrounds)]
    parts += [str(args.size) * (args.size != dataset.SIZE), "generated" * generated]
    return "-".join(part for part in parts if part)


def train_epoch(network: nn.Module, data: HeadTorso, optimizer: Optimizer, run: Run, epoch: int) -> dict[str, float]:
    """One pass over the training set -> loss and jaccard (%), means over its augmented pictures."""
    network.train()
    batches = shuffled(len(data), run.args.batch_size, run.args.seed, epoch)
    losses, sums = [], torch.zeros(3, device=run.device)  # pictures, their losses, their Jaccard indices
    for batch in progress(batches, f"epoch {epoch}"):
        images, alphas = data.augmented(batch, run.device, epoch)
        with autocast(run.device, run.amp):
            maps = network(normalize(images))
        loss = summed_bce(maps, alphas).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        found, true = maps[-1].detach() > FOUND_ABOVE, alphas >= PERSON_FROM
        union = (found | true).sum((1, 2, 3))  # Eq. (1)
        jaccard = torch.where(union > 0, 100 * (found & true).sum((1, 2, 3)) / union.clamp(min=1), 100.0)
        sums += torch.stack([torch.full_like(losses[-1], len(alphas)), losses[-1] * len(alphas), jaccard.sum()])
        check_finite(losses, batches, data.names, f"epoch {epoch}")
    n, loss, jaccard = sum_over_processes(sums).tolist()
    return {"loss": loss / n, "jaccard": jaccard / n}


def main() -> None:
    args, saved = parse_args()
    device, amp = start(args)

    # data (Sec. 3)
    with first_process_first():
        folder, source, generated = dataset.locate(args.data)
        for name, value in (GENERATED if generated else DEFAULTS).items():
            if getattr(args, name) is None:
                setattr(args, name, value)
        pairs = list_pairs(folder)[0][: args.limit]
        positions = dataset.split(len(pairs), args.n_train, args.n_test)
        parts = {part: [pairs[i] for i in positions[part]] for part in positions}
        train_set = dataset.load(parts["train"], args.size, args.cache, args.seed, args.backgrounds)
        val_set = dataset.load(parts["val"], args.size, args.cache)
    sizes = ", ".join(f"{len(of_part)} {part}" for part, of_part in parts.items())
    split = {part: [pair.identity for pair in of_part] for part, of_part in parts.items()}
    if args.backgrounds:
        split["backgrounds"] = [identity(photo) for photo in list_photos(Path(args.backgrounds))]

    # model (Sec. 2.1, 2.2)
    model = make_model(vars(args))
    if saved:
        origin, weights, seen = saved["start"], saved["weights"], saved["seen"]
    else:
        with first_process_first():
            origin, weights, seen = load_encoder(model, args.weights, split["test"])
    model.to(device, memory_format=memory_format(device, amp))

    # optimiser and phases (Sec. 2.3)
    phases = [EVERYTHING] if origin == "random" else [FROZEN, EVERYTHING]
    rates = dict(zip(phases, (args.lr, LR_UNFROZEN), strict=False))
    phase = saved["log"][-1]["phase"] if saved and saved["log"] else phases[0]
    optimizer = start_phase(model, phase, rates[phase])

    def draw_samples(path: Path) -> None:
        photos, alphas, maps = predict_maps(model, val_set, list(range(min(3, len(val_set)))), device, amp)
        draw_predictions(path, {"photo": photos, "true": alphas >= PERSON_FROM, "predicted": maps[-1] > FOUND_ABOVE})

    run = Run(
        args, saved, HERE, device, amp,
        name=run_name(args, origin, bool(seen), generated),
        parts={"model": model, "optimizer": optimizer},
        split=split,
        facts={
            "data": f"{source}: {len(pairs)} pictures, {sizes}",
            "model": f"{type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters",
            "weights": weights,
        },
        keep={"weights": weights, "start": origin, "seen": seen, "classes": ["head and torso"]},
        line=LINE,
        curves=lambda path, log: pictures.save_curves(path, log, CURVES, ("learning rate",)),
        samples=draw_samples,
    )  # fmt: skip
    network = parallel(model, device, args.compile)

    # loop (Sec. 2.3)
    for epoch in run.epochs():
        following = phase_after(run.log, phases, args.patience)
        if following is None:
            run.say("stopped", f"{args.patience} epochs without a better validation loss (--patience {args.patience})")
            break
        if following != phase:
            phase = following
            run.say("phase 2", f"{phase}, lr {rates[phase]:g}: no better validation loss for {args.patience} epochs")
            optimizer = run.parts["optimizer"] = start_phase(model, phase, rates[phase])
            network = parallel(model, device, args.compile)
        trained = train_epoch(network, train_set, optimizer, run, epoch)
        validated = summarize(evaluate(model, val_set, args.batch_size // world()[1], device, amp))
        better = validated["loss"] < min((row["val_loss"] for row in run.log), default=float("inf"))
        scores = {f"val_{name}": validated[name] for name in ("loss", "jaccard", "hausdorff")}
        run.end_epoch({"phase": phase, **trained, **scores, "lr": rates[phase]}, better)
    if len(phases) > 1 and run.log:
        run.say("best", "epoch {epoch}, {phase}".format(**min(run.log, key=lambda row: row["val_loss"])))
    if phase == FROZEN:
        run.say("note", f"{args.epochs} epochs ended before the encoder was unfrozen: resume with more")
    run.end()


if __name__ == "__main__":
    cli.run(main)
