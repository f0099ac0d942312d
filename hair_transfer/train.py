"""Train DeepLabV3-ResNet101 to segment hair, from COCO's weights or from random ones.

Česnik: "Segmentation of human hair", Image Based Biometrics 2019/20, University of Ljubljana (course assignment).

    python hair_transfer/train.py --data CelebAMask-HQ --init pretrained    the paper's better model: 15 epochs
    python hair_transfer/train.py --data CelebAMask-HQ --init random        its other one: 6 epochs
    python hair_transfer/train.py                        the latter; where no data is, on 52 generated faces, to
                                                         see that it runs: AUROC .57; three quarters of an hour on
                                                         two CPU cores, beside other work
    python hair_transfer/train.py --epochs 1 --size 64                      a try in seconds
    python hair_transfer/train.py --resume hair_transfer/runs/random/last.pt    goes on with a stopped run
    torchrun --nproc_per_node=2 hair_transfer/train.py --batch-size 6       two processes, 3 images each
"""

import shlex
import sys
import time
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from common import checkpoint, cli, distributed, pictures
from common.cache import fingerprint
from common.celebamask import PARTS
from common.cli import InputError, number
from common.data import EvalBatches, TrainBatches, check_finite, loader
from common.device import adam, autocast, memory_format, pick_amp, pick_device, seed_everything, to_device
from hair_transfer import dataset
from hair_transfer.dataset import HairMasks, normalize
from hair_transfer.eval import PAPER, choose_faces, evaluate, grey, predict_faces
from hair_transfer.model import ACTIVATIONS, DeepLabV3
from hair_transfer.scores import Tally
from hair_transfer.weights import build_model

RECIPES = {"pretrained": (1e-4, 15), "random": (1e-2, 6)}  # learning rate and epochs (Sec. II)
MAY_CHANGE = {"epochs", "data", "workers", "device", "compile", "sync_batch_norm"}  # when resuming
NOT_SAVED = {"cache", "out", "resume"}  # of this machine and this start, not of the run
ONLY_IN_LAST = {"optimizer", "rng"}  # best.pt does without: two thirds of 700 MB
CHECK_EVERY = 50  # steps between two looks at the losses: each look waits for the GPU
LOGGED = ("loss", "f1_01", "f1_05", "iou", "auroc", "batch_auroc")  # of training and, with test_ before it, of test
CURVES = {  # figures 4 and 5
    "mean squared error": {"loss": "training", "test_loss": "test"},
    "F1 at 0.1": {"f1_01": "training", "test_f1_01": "test"},
    "F1 at 0.5": {"f1_05": "training", "test_f1_05": "test"},
    "IoU at 0.5": {"iou": "training", "test_iou": "test"},
    "AUROC, all pixels": {"auroc": "training", "test_auroc": "test"},
    "AUROC, mean over batches": {"batch_auroc": "training", "test_batch_auroc": "test"},
}


# fmt: off
def parse_args(argv: list[str] | None = None) -> tuple[Namespace, set[str]]:
    """The arguments, and the names of those that stand on the command line."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument_group("data (Sec. II)").add_argument
    add("--data", type=Path, nargs="+", metavar="PATH",
        help="CelebAMask-HQ folders (default: data/CelebAMask-HQ here, else generated faces)")
    add("--part", choices=PARTS, default="hair", metavar="PART",
        help="hair: Sec. II; another part makes a network to transfer from with --init FILE (ours)")
    add("--size", type=number(int, 16), default=dataset.SIZE, metavar="N",
        help="image side, a multiple of 8 (256: Sec. II)")
    add("--cache", type=Path, default=dataset.CACHE, metavar="DIR", help="decoded faces (default: data/cache here)")
    add = parser.add_argument_group("model (Sec. II)").add_argument
    add("--init", default="random", metavar="W",
        help="pretrained: COCO's weights, which must be had; random; or a FILE with another ResNet-101 to start from, "
        "a checkpoint of this repository or torchvision's (default random, which needs no download: ours)")
    add("--output", choices=sorted(ACTIVATIONS), default="sigmoid",
        help="sigmoid: Sec. II; tanh: the public template's (ours: both after the up-sampling)")
    add("--aux", type=number(float, 0), default=0.0, metavar="X",
        help="weight of an auxiliary head's loss (0, none: ours, the paper speaks of none; torchvision's is 0.5)")
    add = parser.add_argument_group("training (Sec. II)").add_argument
    add("--epochs", type=number(int, 1), metavar="N", help="default 15, with --init random 6: Sec. II")
    add("--batch-size", type=number(int, 2), default=6, metavar="N",
        help="6: Sec. II; under torchrun of all processes together")
    add("--lr", type=number(float, 0, above=True), metavar="X",
        help="of Adam (default 0.0001, with --init random 0.01: Sec. II)")
    cli.add_run_arguments(parser, limit_help=", of which 2,000 train and 600 test at most (Sec. II)")
    args = parser.parse_args(argv)
    given = cli.given_arguments(parser, argv)
    if args.resume and args.out:
        parser.error(f"--out {args.out}: a resumed run goes on in the folder of {args.resume}; leave --out out")
    if args.size % 8:
        parser.error(f"--size {args.size} must be a multiple of 8, such as {args.size // 8 * 8 + 8}")
    lr, epochs = RECIPES["random" if args.init == "random" else "pretrained"]
    args.lr, args.epochs = args.lr or lr, args.epochs or epochs
    # whole paths, so that eval.py and --resume find them from any folder; text, because the checkpoint keeps them
    args.data = args.data and [str(path.resolve()) for path in args.data]
    return args, given
# fmt: on


def train_epoch(
    model: DeepLabV3,
    network: nn.Module,
    batches: DataLoader,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    amp: bool,
    aux: float,
    epoch: int,
) -> dict[str, float]:
    """One pass over the training set -> its scores, of the network as it was at each step, dropout and all."""
    network.train()
    tally, losses = Tally(device), []
    rank, _ = distributed.world()
    bar = tqdm(batches, f"epoch {epoch}", leave=False, disable=None if rank == 0 else True, unit="batch")
    for images, masks in bar:
        masks = to_device(masks, device)
        with autocast(device, amp):
            logits = network(normalize(images, device))
        logits, auxiliary = logits if aux > 0 else (logits, None)
        output = model.activate(logits)
        loss = squared_error = F.mse_loss(output, masks.float())  # Sec. II, the mean of (y - y^)^2
        if auxiliary is not None:
            loss = squared_error + aux * F.mse_loss(model.activate(auxiliary), masks.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        tally.add(logits, output, masks, squared_error)
        losses.append(loss.detach())
        if len(losses) % CHECK_EVERY == 0:
            check_finite(losses, batches, f"epoch {epoch}")
            bar.set_postfix(loss=f"{losses[-1].item():.4f}")
    check_finite(losses, batches, f"epoch {epoch}")
    return tally.scores()


def draw_samples(path: Path, photos: np.ndarray, masks: np.ndarray, outputs: np.ndarray) -> None:
    """Test faces N x H x W x 3 uint8 with their mask, N x H x W bool, and the network's output, float in 0..1."""
    rows = [[photo, mask, grey(output)] for photo, mask, output in zip(photos, masks, outputs, strict=True)]
    pictures.save_grid(path, rows, column_titles=["photo", "true", "output"], cell=2)


def main() -> None:
    args, given = parse_args()
    saved = None
    if args.resume:
        saved = checkpoint.load_to_resume(args.resume, PAPER)
        cli.resume_arguments(args, given, saved["args"], MAY_CHANGE)
    device = pick_device(args.device)
    amp = pick_amp(args.amp, device)
    rank, world_size = distributed.start(device)
    if args.batch_size % world_size or args.batch_size // world_size < 2:
        raise InputError(
            f"--batch-size {args.batch_size} over {world_size} processes: each needs the same number of images, at "
            f"least 2 for batch norm; give --batch-size {3 * world_size}"
        )
    seed_everything(args.seed, args.deterministic)

    # data (Sec. II)
    with distributed.first_process_first():
        folders, source = dataset.locate(args.data)
        faces = dataset.list_faces(folders, args.part)[: args.limit]
        train, test = dataset.split(faces, args.seed)
        split = {"train": [face.key for face in train], "test": [face.key for face in test]}
        fingerprints = {"train": fingerprint(dataset.files(train)), "test": fingerprint(dataset.files(test))}
        if saved and (saved["split"], saved["fingerprint"]) != (split, fingerprints):
            raise InputError(
                f"--data {source}: not the faces and masks that {args.resume} was trained on; give the folders "
                "as they were, in the same order"
            )
        train_set, test_set = HairMasks(train, args.size, args.cache), HairMasks(test, args.size, args.cache)
    batches = TrainBatches(len(train_set), args.batch_size, args.seed)
    pin_memory = device.type == "cuda"
    train_loader = loader(train_set, batches, args.workers, pin_memory)
    test_loader = loader(test_set, EvalBatches(len(test_set), args.batch_size), args.workers, pin_memory)

    # model (Sec. II)
    if saved:
        model, weights = DeepLabV3(output=args.output, aux=args.aux > 0), saved["weights"]
        trained_on = saved["trained_on"]
    else:
        with distributed.first_process_first():
            model, weights, seen = build_model(args, test)
        trained_on = sorted({fingerprint([face.photo]) for face in train} | seen)  # for runs that start from this one
    model.to(device, memory_format=memory_format(device, amp))

    # training (Sec. II)
    optimizer = adam(model, args.lr)
    best, log = float("inf"), []
    if saved:
        for target, name in ((model, "model"), (optimizer, "optimizer")):
            checkpoint.restore(args.resume, lambda target=target, name=name: target.load_state_dict(saved[name]))
        best, log = saved["best"], saved["log"]
        checkpoint.set_rng_state(saved["rng"], device)
    network = distributed.wrap(model, device, args.sync_batch_norm, args.compile)
    samples = choose_faces(len(test_set), args.seed)[:3]  # drawn whenever the model gets better

    def state() -> dict:
        return {
            "paper": PAPER,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "best": best,
            "epoch": len(log),
            "log": log,
            "args": {name: cli.jsonable(value) for name, value in vars(args).items() if name not in NOT_SAVED},
            "classes": [args.part],
            "weights": weights,
            "split": split,
            "fingerprint": fingerprints,
            "trained_on": trained_on,
            "rng": checkpoint.rng_state(device),
        }

    if rank == 0:
        if args.resume:
            out = checkpoint.resumed_run_folder(args.resume, log)
        else:
            name = args.init if args.init in RECIPES else "from-file"
            name = name if args.part == "hair" else f"{args.part}-{name}"
            generated = not args.data and "GENERATED" in source
            out = checkpoint.new_run_folder(args.out, dataset.HERE / "runs", name, generated)
        print(f"command    {shlex.join(sys.argv)}")
        print(f"device     {device}, {'bf16 autocast' if amp else 'float32'}, {world_size} process(es)")
        print(f"data       {source}: {len(faces)} faces, {len(train)} train, {len(test)} test, {args.part}")
        if not test_set.arrays["masks"].any():
            print(f"note       none of the test faces has {args.part}: AUROC is nan, IoU and F1 are nan or 0")
        print(f"model      DeepLabV3-ResNet101, {sum(p.numel() for p in model.parameters()):,} parameters")
        print(f"weights    {weights}")
        print(f"out        {out}", flush=True)
        facts = {"weights": weights, "device": str(device), "amp": amp, "processes": world_size, "split": split}
        checkpoint.write_run_json(out / "run.json", vars(args), **facts)
        if not saved:
            checkpoint.save_checkpoint(out / "last.pt", state())  # a run stopped in its first epoch resumes from here
        cli.go_on_with(out / "last.pt")

    for epoch in range(len(log) + 1, args.epochs + 1):
        started = time.perf_counter()
        batches.epoch = epoch
        if rank > 0:  # dropout of its own; the first process draws on, as it would alone
            torch.manual_seed(args.seed + 1000 * epoch + rank)
        trained = train_epoch(model, network, train_loader, optimizer, device, amp, args.aux, epoch)
        distributed.copy_from_first(model)
        tested = evaluate(model, test_loader, device, amp)
        improved = tested["loss"] < best
        best = min(best, tested["loss"])
        log.append({
            "epoch": epoch,
            **{name: trained[name] for name in LOGGED},
            **{f"test_{name}": tested[name] for name in LOGGED},
            "seconds": round(time.perf_counter() - started, 1),
        })  # fmt: skip
        if rank > 0:
            continue
        if improved:
            checkpoint.save_checkpoint(out / "best.pt", {k: v for k, v in state().items() if k not in ONLY_IN_LAST})
            draw_samples(out / "samples.png", *predict_faces(model, test_set, samples, device, amp))
        checkpoint.save_checkpoint(out / "last.pt", state())
        checkpoint.write_log(out / "log.csv", log)
        pictures.save_curves(out / "curves.png", log, CURVES)
        print("epoch {epoch:3d}  loss {loss:.4f}  IoU {iou:.4f}  AUROC {auroc:.4f}  test loss {test_loss:.4f}  "
              "F1 {test_f1_05:.4f}  IoU {test_iou:.4f}  AUROC {test_auroc:.4f}  {seconds:.0f} s".format(**log[-1]),
              " best" if improved else "", flush=True)  # fmt: skip
    if rank == 0:
        if saved and saved["epoch"] >= args.epochs:
            print(f"done       {args.resume} already holds epoch {saved['epoch']}; give --epochs above that to go on")
        evaluation = Path(sys.argv[0]).with_name("eval.py")
        print(f"next       python {shlex.quote(str(evaluation))} {shlex.quote(str(out / 'best.pt'))}")
    distributed.stop()


if __name__ == "__main__":
    cli.run(main)
