"""hair_transfer/train.py: the paper's recipes, and what the loss is made of."""

import pytest
import torch
from torch import nn

from hair_transfer import dataset, train

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("init", "lr", "epochs"), [("pretrained", 1e-4, 15), ("random", 1e-2, 6), ("some/file.pt", 1e-4, 15)]
)
def test_the_defaults_are_the_papers_recipes(init, lr, epochs):
    args, _ = train.parse_args(["--init", init])
    assert (args.lr, args.epochs, args.batch_size, args.size, args.part) == (lr, epochs, 6, 256, "hair")
    assert (args.output, args.aux, args.limit) == ("sigmoid", 0, None)
    assert (dataset.N_TRAIN, dataset.N_TEST) == (2000, 600)


def test_the_bare_command_is_the_random_recipe_and_flags_go_before_recipes():
    assert train.parse_args([])[0].init == "random" and train.parse_args([])[0].lr == 1e-2
    args, _ = train.parse_args(["--lr", "1e-4", "--epochs", "15"])
    assert (args.init, args.lr, args.epochs) == ("random", 1e-4, 15)


class TwoNumbers(nn.Module):
    """Two parameters in a network's place: every logit is the one, every auxiliary logit the other."""

    def __init__(self, aux: bool):
        super().__init__()
        self.main, self.auxiliary, self.aux = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1)), aux

    def forward(self, x):
        logits, auxiliary = (value.expand(len(x), 1, *x.shape[2:]) for value in (self.main, self.auxiliary))
        return (logits, auxiliary) if self.aux else logits

    def activate(self, logits):
        return torch.sigmoid(logits)


@pytest.mark.parametrize("aux", [0.0, 0.5, 2.0])
def test_the_auxiliary_loss_counts_with_its_weight(aux):
    """One step of plain descent on masks that are all hair: d/dx (sigmoid(x) - 1)^2 at 0 is -2 * 0.5 * 0.25."""
    model = TwoNumbers(aux > 0)
    batch = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.ones(2, 1, 8, 8, dtype=torch.uint8)
    scores = train.train_epoch(model, model, [batch], torch.optim.SGD(model.parameters(), lr=1.0), CPU, False, aux, 1)
    assert model.main.item() == pytest.approx(0.25) and model.auxiliary.item() == pytest.approx(0.25 * aux)
    assert scores["loss"] == pytest.approx(0.25)  # of the main output alone, whatever the weight
