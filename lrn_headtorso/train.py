"""Train a Label Refinement Network, or the U-Net it is compared with, to cut out head and torso.

Pinto, Cardoso: "Fine Segmentation of Head and Torso Using Label Refinement Networks", RecPad 2019 (INESC TEC, Porto).

    python lrn_headtorso/train.py                  a try on 250 generated pictures; 16 minutes on one CPU core, val
                                                  Jaccard 0.90
    python lrn_headtorso/train.py --data FOLDER                              the paper's LRN
    python lrn_headtorso/train.py --data FOLDER --model unet                 its UNET
    python lrn_headtorso/train.py --data FOLDER --weights imagenet           its LRN-VGG, in two phases
    python lrn_headtorso/train.py --data FOLDER --backgrounds PICTURES --size 448     its next steps
    python lrn_headtorso/train.py --resume lrn_headtorso/runs/lrn/last.pt
    torchrun --nproc_per_node=2 lrn_headtorso/train.py --batch-size 8        two processes, 4 pictures each
"""

import shlex
import sys
import time
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common import checkpoint, cli, distributed, pictures
from common.cache import fingerprint
from common.cli import InputError, number
from common.data import EvalBatches, TrainBatches, check_finite, loader
from common.device import autocast, memory_format, pick_amp, pick_device, seed_everything, to_device
from common.images import list_photos
from lrn_headtorso import dataset
from lrn_headtorso.backgrounds import load_backgrounds
from lrn_headtorso.checkpoints import PAPER, load_encoder, make_model, run_name
from lrn_headtorso.dataset import PERSON_FROM, HeadTorso, normalize
from lrn_headtorso.eval import draw_predictions, evaluate, predict_maps, summarize, summed_bce
from lrn_headtorso.model import FOUND_ABOVE, STRIDE
from lrn_headtorso.phases import FROZEN, Plateau, phases, start_phase

# what stands on the command line goes before; epochs: at most (ours: the paper trains until nothing improves)
DEFAULTS = {"size": dataset.SIZE, "epochs": 300, "lr": 1e-4}  # Sec. 3, ours, Sec. 2.3
GENERATED = {"size": 64, "epochs": 25, "lr": 3e-4}  # ours: on generated pictures, to end within minutes on a CPU
MAY_CHANGE = {"epochs", "patience", "data", "backgrounds", "workers", "device", "compile"}  # when resuming
NOT_SAVED = {"cache", "out", "resume"}  # of this machine and this start, not of the run
CHECK_EVERY = 50  # steps between two looks at the losses: each look waits for the GPU
CURVES = {
    "BCE, summed over the maps": {"loss": "training", "val_loss": "validation"},
    "Jaccard index": {"jaccard": "training", "val_jaccard": "validation"},
    "Hausdorff distance, px": {"val_hausdorff": "validation"},
    "learning rate": {"lr": "lr"},
}


# fmt: off
def parse_args(argv: list[str] | None = None) -> tuple[Namespace, set[str]]:
    """The arguments, and the names of those that stand on the command line."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("data (Sec. 3)").add_argument
    add("--data", type=Path, metavar="PATH",
        help="photos/ and cutouts/, or CelebAMask-HQ (default: data/headtorso or data/CelebAMask-HQ here, else "
             "generated pictures)")
    add("--size", type=number(int, STRIDE), metavar="N",
        help=f"image side ({dataset.SIZE}: Sec. 3; on generated pictures {GENERATED['size']})")
    add("--n-train", type=number(int, 2), metavar="N",
        help="pictures to train with, a tenth of which is kept for the plateau rule (250: Sec. 3; fewer if need be)")
    add("--n-test", type=number(int, 1), metavar="N", help="pictures kept for eval.py (48: Sec. 3; fewer if need be)")
    add("--augment", choices=["paper", "none"], default="paper", help="paper: flip, zoom and rotation (Sec. 2.3)")
    add("--backgrounds", type=Path, metavar="DIR",
        help="put half of the people on pictures of this folder (Sec. 5 proposes it)")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded pictures (default: data/cache here)")
    add = parser.add_argument_group("model (Sec. 2.1, 2.2)").add_argument
    add("--model", choices=["lrn", "unet"], default="lrn", help="lrn: Sec. 2.1; unet: Sec. 2.2")
    add("--channel-reduction", action="store_true",
        help="put back the convolution of the original LRN that Sec. 2.1 takes out")
    add("--weights", default="none", metavar="W",
        help="of the VGG-16: none (Glorot), imagenet (both: Sec. 2.3), auto, torchvision's file, or a run's best.pt; "
             "with weights, training has two phases; auto: ImageNet if to be had, else none")
    add = parser.add_argument_group("training (Sec. 2.3)").add_argument
    add("--epochs", type=number(int, 1), metavar="N",
        help=f"at most (ours: {DEFAULTS['epochs']}; on generated pictures {GENERATED['epochs']})")
    add("--batch-size", type=number(int, 1), default=4, metavar="N",
        help="ours: 4; under torchrun of all processes together")
    add("--lr", type=number(float, 0, above=True), metavar="X",
        help=f"of Adam (0.0001: Sec. 2.3; on generated pictures {GENERATED['lr']})")
    add("--lr-unfrozen", type=number(float, 0, above=True), default=1e-5, metavar="X",
        help="once the encoder is unfrozen (ours; the paper speaks of small adjustments)")
    add("--patience", type=number(int, 0), default=15, metavar="N",
        help="a plateau is N epochs without a better validation loss (ours), 0: none ever")
    cli.add_run_arguments(parser, batch_norm=False)
    args = parser.parse_args(argv)
    if args.resume and args.out:
        parser.error(f"--out {args.out}: a resumed run goes on in the folder of {args.resume}; leave --out out")
    if args.size and args.size % STRIDE:
        parser.error(f"--size {args.size} must be a multiple of {STRIDE}, such as {args.size // STRIDE * STRIDE}")
    if args.channel_reduction and args.model == "unet":
        parser.error("--channel-reduction is a part of the LRN; leave it out with --model unet")
    if args.backgrounds and args.augment == "none":
        parser.error("--backgrounds is an augmentation; leave --augment none out")
    if args.weights.endswith((".pt", ".pth")):
        args.weights = str(Path(args.weights).resolve())  # eval.py names the run by its folder, wherever it is started
    return args, cli.given_arguments(parser, argv)
# fmt: on


def train_epoch(
    model: nn.Module, batches: DataLoader, optimizer: torch.optim.Optimizer, device: torch.device, amp: bool, epoch: int
) -> dict[str, float]:
    """One pass over the training set -> loss and jaccard, means over its (augmented) pictures."""
    model.train()
    losses, sums = [], torch.zeros(3, device=device)  # pictures, their losses, their Jaccard indices
    rank, _ = distributed.world()
    bar = tqdm(batches, f"epoch {epoch}", leave=False, disable=None if rank == 0 else True, unit="batch")
    for images, alphas in bar:
        alphas = to_device(alphas, device)
        with autocast(device, amp):
            maps = model(normalize(images, device))
        loss = summed_bce(maps, alphas).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        found, true = maps[-1].detach() > FOUND_ABOVE, alphas >= PERSON_FROM
        union = (found | true).sum((1, 2, 3))
        jaccard = torch.where(union > 0, (found & true).sum((1, 2, 3)) / union.clamp(min=1), 1.0)
        B = len(alphas)
        sums += torch.stack([torch.full_like(losses[-1], B), losses[-1] * B, jaccard.sum()])
        if len(losses) % CHECK_EVERY == 0:
            check_finite(losses, batches, f"epoch {epoch}")
            bar.set_postfix(loss=f"{losses[-1].item():.4f}")
    check_finite(losses, batches, f"epoch {epoch}")
    n, loss, jaccard = distributed.sum_over_processes(sums).tolist()
    return {"loss": loss / n, "jaccard": jaccard / n}


def main() -> None:
    args, given = parse_args()
    saved = None
    if args.resume:
        saved = checkpoint.load_to_resume(args.resume, PAPER)
        cli.resume_arguments(args, given, saved["args"], MAY_CHANGE)
    args.data = args.data and Path(args.data).resolve()  # eval.py and --resume find it from any folder
    args.backgrounds = args.backgrounds and Path(args.backgrounds).resolve()
    device = pick_device(args.device)
    amp = pick_amp(args.amp, device)
    rank, world_size = distributed.start(device)
    if args.batch_size % world_size:
        raise InputError(
            f"--batch-size {args.batch_size} over {world_size} processes: each needs the same number of pictures; "
            f"give --batch-size {4 * world_size}"
        )
    seed_everything(args.seed, args.deterministic)

    # data (Sec. 3)
    with distributed.first_process_first():
        folder, source, generated = dataset.locate(args.data)
        for name, value in (GENERATED if generated else DEFAULTS).items():
            if getattr(args, name) is None:
                setattr(args, name, value)
        listing = dataset.list_pairs(folder)
        pairs = listing.pairs[: args.limit]
        split = dataset.split(len(pairs), args.seed, args.n_train, args.n_test)
        train, val = ([pairs[i] for i in split[part]] for part in ("train", "val"))
        names = {part: [pairs[i].name for i in positions] for part, positions in split.items()}
        fingerprints = {part: fingerprint(dataset.files([pairs[i] for i in split[part]])) for part in split}
        if args.backgrounds:
            fingerprints["backgrounds"] = fingerprint(list_photos(args.backgrounds))
        if saved and (saved["split"], saved["fingerprint"]) != (names, fingerprints):
            raise InputError(
                f"--data {folder}: not the pictures, masks or backgrounds that {args.resume} was trained on; give the "
                "folders as they were"
            )
        train_cache = dataset.load(train, args.size, args.cache, with_foreground=args.backgrounds is not None)
        val_cache = dataset.load(val, args.size, args.cache)
        behind = None
        if args.backgrounds:
            behind = load_backgrounds(args.backgrounds, args.size, args.cache)
    augment = args.augment == "paper"
    train_names, val_names = ([pair.photo.name for pair in part] for part in (train, val))
    train_set = HeadTorso(train_cache, train_names, augment=augment, seed=args.seed, backgrounds=behind)
    val_set = HeadTorso(val_cache, val_names)
    batches = TrainBatches(len(train_set), args.batch_size, args.seed)
    pin_memory = device.type == "cuda"
    train_loader = loader(train_set, batches, args.workers, pin_memory)
    val_loader = loader(val_set, EvalBatches(len(val_set), args.batch_size // world_size), args.workers, pin_memory)

    # model (Sec. 2.1, 2.2)
    model = make_model(vars(args))
    if saved:
        pretrained, weights, trained_on = (saved[name] for name in ("pretrained", "weights", "trained_on"))
    else:
        with distributed.first_process_first():
            pretrained, weights, seen = load_encoder(model, args.weights, [pairs[i] for i in split["test"]])
        trained_on = sorted({fingerprint([pair.photo]) for pair in train} | seen)  # what eval.py should not test on
    model.to(device, memory_format=memory_format(device, amp))

    # training (Sec. 2.3)
    phase_names, phase, plateau, best, log = phases(pretrained), 0, Plateau(args.patience), float("inf"), []
    rates = (args.lr, args.lr_unfrozen)
    if saved:
        checkpoint.restore(args.resume, lambda: model.load_state_dict(saved["model"]))
        phase, plateau.best, plateau.bad_epochs = saved["phase"], saved["phase_best"], saved["bad_epochs"]
        best = saved["best"]
        log = saved["log"]
    if phase_names[phase] == FROZEN and not args.patience:
        raise InputError("--patience 0: without a plateau the pretrained encoder would stay frozen; give at least 1")
    network, optimizer = start_phase(model, phase_names[phase], rates[phase], device, args.compile)
    if saved:
        checkpoint.restore(args.resume, lambda: optimizer.load_state_dict(saved["optimizer"]))
        checkpoint.set_rng_state(saved["rng"], device)
    samples = list(range(len(val_set)))[:3]  # drawn whenever the model gets better

    def state() -> dict:
        return {
            "paper": PAPER,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "phase": phase,
            "best": best,
            "phase_best": plateau.best,
            "bad_epochs": plateau.bad_epochs,
            "epoch": len(log),
            "log": log,
            "args": {name: cli.jsonable(value) for name, value in vars(args).items() if name not in NOT_SAVED},
            "classes": ["head and torso"],
            "pretrained": pretrained,
            "weights": weights,
            "source": source,
            "split": names,
            "fingerprint": fingerprints,
            "trained_on": trained_on,
            "rng": checkpoint.rng_state(device),
        }

    if rank == 0:
        if args.resume:
            out = checkpoint.resumed_run_folder(args.resume, log)
        else:
            out = checkpoint.new_run_folder(args.out, dataset.HERE / "runs", run_name(args, pretrained), generated)
        unmatched = len(listing.photos_alone), len(listing.cutouts_alone)
        print(f"command    {shlex.join(sys.argv)}")
        print(f"device     {device}, {'bf16 autocast' if amp else 'float32'}, {world_size} process(es)")
        added = f", {len(behind['images'])} other backgrounds" if args.backgrounds else ""
        print(f"data       {source}: {len(pairs)} pictures, {len(train)} train, {len(val)} val, "
              f"{len(split['test'])} test, --augment {args.augment}{added}")  # fmt: skip
        if any(unmatched):
            first = ", ".join(path.name for path in [*listing.photos_alone, *listing.cutouts_alone][:3])
            more = ", ... (dataset.py names all)" if sum(unmatched) > 3 else ""
            print(f"unmatched  {unmatched[0]} photo(s) without a cut-out, {unmatched[1]} cut-out(s) without a photo: "
                  f"{first}{more}")  # fmt: skip
        print(f"model      {args.model}, {sum(p.numel() for p in model.parameters()):,} parameters")
        print(f"weights    {weights}")
        print(f"out        {out}", flush=True)
        facts = {"weights": weights, "device": str(device), "amp": amp, "processes": world_size, "split": names}
        checkpoint.write_run_json(out / "run.json", vars(args), **facts)
        if not saved:
            checkpoint.save_checkpoint(out / "last.pt", state())  # a run stopped in its first epoch resumes from here
        cli.go_on_with(out / "last.pt")

    for epoch in range(len(log) + 1, args.epochs + 1):
        if plateau.reached:
            if phase + 1 == len(phase_names):
                break
            if rank == 0:
                print(f"phase {phase + 2}    {phase_names[phase + 1]}, lr {rates[phase + 1]:g}: with a "
                      f"{phase_names[phase]} no better validation loss for {plateau.bad_epochs} epochs",
                      flush=True)  # fmt: skip
            phase, plateau = phase + 1, Plateau(args.patience)
            network, optimizer = start_phase(model, phase_names[phase], rates[phase], device, args.compile)
        started = time.perf_counter()
        batches.epoch = train_set.epoch = epoch
        trained = train_epoch(network, train_loader, optimizer, device, amp, epoch)
        validated = summarize(evaluate(model, val_loader, device, amp))
        plateau.count(validated["loss"])
        improved = validated["loss"] < best
        best = min(best, validated["loss"])
        log.append({
            "epoch": epoch,
            "phase": phase_names[phase],
            **trained,
            "val_loss": validated["loss"],
            "val_jaccard": validated["jaccard"],
            "val_hausdorff": validated["hausdorff"],
            "lr": rates[phase],
            "seconds": round(time.perf_counter() - started, 1),
        })  # fmt: skip
        if rank > 0:
            continue
        if improved:
            checkpoint.save_checkpoint(out / "best.pt", state())
            photos, alphas, maps = predict_maps(model, val_set, samples, device, amp)
            truth, found = list(alphas >= PERSON_FROM), list(maps[-1] > FOUND_ABOVE)
            draw_predictions(out / "samples.png", {"photo": list(photos), "truth": truth, args.model: found})
        checkpoint.save_checkpoint(out / "last.pt", state())
        checkpoint.write_log(out / "log.csv", log)
        unfrozen = {b["epoch"] - 0.5: "encoder unfrozen" for a, b in pairwise(log) if b["phase"] != a["phase"]}
        pictures.save_curves(out / "curves.png", log, CURVES, ("learning rate",), unfrozen)
        print("epoch {epoch:3d}  loss {loss:.4f}  Jaccard {jaccard:.4f}  val loss {val_loss:.4f}  val Jaccard "
              "{val_jaccard:.4f}  Hausdorff {val_hausdorff:.1f} px  lr {lr:g}  {seconds:.0f} s".format(**log[-1]),
              " best" if improved else "", flush=True)  # fmt: skip
    if rank == 0:
        if plateau.reached and phase + 1 == len(phase_names):
            print(
                f"stopped    {plateau.bad_epochs} epochs without a better validation loss (--patience {args.patience})"
            )
        elif phase + 1 < len(phase_names):
            why = "the plateau came with the last" if plateau.reached else f"no plateau within {args.epochs} epochs"
            print(f"note       {why}, so the encoder was never unfrozen; to go on: --resume {out / 'last.pt'} "
                  "--epochs N")  # fmt: skip
        elif saved and saved["epoch"] >= args.epochs:
            print(f"done       {args.resume} already holds epoch {saved['epoch']}; give --epochs above that to go on")
        if len(phase_names) > 1:
            print("best       epoch {epoch}, {phase}".format(**min(log, key=lambda row: row["val_loss"])))
        evaluation = Path(sys.argv[0]).with_name("eval.py")
        print(f"next       python {shlex.quote(str(evaluation))} {shlex.quote(str(out / 'best.pt'))}")
    distributed.stop()


if __name__ == "__main__":
    cli.run(main)
