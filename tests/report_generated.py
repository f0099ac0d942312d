"""The tables of the runs on generated faces: the last line that a README's command prints, and what eval.py finds then.

Their results lie in FOLDER/results/generated/, apart from those on real photos.
"""

from report_front import Rows

LAST_LINE = {  # of each script, as it prints it, without the epoch, the learning rate and the seconds
    "nu_deeplabv3plus/train.py": "loss {loss:.4f}, IoU {iou:.4f}, val loss {val_loss:.4f}, val IoU {val_iou:.4f} "
    "(pooled {val_pooled_iou:.4f})",
    "hair_transfer/train.py": "loss {loss:.4f}, IoU {iou:.4f}, AUROC {auroc:.4f}, test loss {test_loss:.4f}, "
    "F1 {test_f1_05:.4f}, IoU {test_iou:.4f}, AUROC {test_auroc:.4f}",
    "lrn_headtorso/train.py": "loss {loss:.4f}, Jaccard {jaccard:.4f}, val loss {val_loss:.4f}, val Jaccard "
    "{val_jaccard:.4f}, Hausdorff {val_hausdorff:.1f} px",
    "mut1ny_fairness/train.py": "loss {loss:.4f}, F1 {f1:.4f}, IoU of 11 classes {class_iou:.4f}, test loss "
    "{test_loss:.4f}, F1 {test_f1:.4f}, IoU of 11 classes {test_class_iou:.4f}",
    "masked_ssl/pretrain.py": "loss {loss:.4f}, error where hidden {hidden_error:.4f}",
    "masked_ssl/train.py": "loss {loss:.4f}, val mIoU {val_miou:.2f}, test mIoU {test_miou:.2f}, mean F1 {test_f1:.2f}",
}
EVALUATION = {  # what the results.json of eval.py says
    "hair_transfer/eval.py": "mean squared error {loss:.4f}, F1 at 0.5 {f1_05:.4f}, IoU {iou:.4f}, AUROC {auroc:.4f}",
    "lrn_headtorso/eval.py": "Jaccard {jaccard:.4f} ± {jaccard_std:.4f}, Hausdorff {hausdorff:.2f} ± "
    "{hausdorff_std:.2f} px, empty {empty_predicted} of {n}",
    "mut1ny_fairness/eval.py": "loss {loss:.4f}, F1 {f1:.4f}, IoU of 11 classes {class_iou:.4f}",
}


def generated(results: dict[str, dict]) -> Rows:
    """A line for each training on generated faces, one for its evaluation if it has one, one for each evaluation alone.

    results: of FOLDER/results/generated/, file name -> record.
    """
    rows = [["command", "epochs", "this should give, at the end", "on", "min"]]
    for record in results.values():
        command, device = record["command"], record["device"]
        script = next(word for word in command.split() if word.endswith(".py") and not word.startswith("tests/"))
        if "log" in record:
            last = LAST_LINE[script].format(**record["log"][-1])
            rows.append([f"`{command}`", str(record["epochs"]), last, device, f"{record['minutes']:.0f}"])
            folder = script.split("/")[0]
            script = f"{folder}/eval.py"
        if "results" in record:
            scores = record["results"]
            run = scores.get("checkpoint", "").split("/")[-2:-1] or list(scores)  # lrn_headtorso: by the run's name
            scores = scores if "loss" in scores else scores[run[0]]
            words, minutes = EVALUATION[script].format(**scores), ""
            if "log" in record:
                command, words = f"python {script} {folder}/runs/{run[0]}/best.pt", f"epoch {scores['epoch']}: {words}"
            else:
                minutes = f"{record['minutes']:.0f}" if record["minutes"] >= 1 else "under 1"
            rows.append([f"`{command}`", "", words, device, minutes])
    return rows
