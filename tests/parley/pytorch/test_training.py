"""Modules, losses and optimizers of PyTorch, unchanged, on secret tensors: as on plain ones."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import parley
from parley.cluster import Cluster
from parley.errors import InputError, UnsupportedOperation
from parley.pytorch.tensor import SecretTensor
from tests.parley.pytorch.compare import close, reals, same


def parameters(module: nn.Module) -> Iterator[torch.Tensor]:
    for parameter in module.parameters():
        yield parameter.detach()


def module_same(
    cluster: Cluster, module: nn.Module, *inputs: torch.Tensor, absolute: float = 1e-3, relative: float = 1e-3
) -> None:
    """A module gives the same result and the same gradients as its secret copy."""
    secret = cluster.private(copy.deepcopy(module))
    expected = module(*inputs)
    found = secret(*[cluster.secret(item) for item in inputs])
    expected.square().mean().backward()
    found.square().mean().backward()
    close(found.detach().reveal(), expected, absolute, relative)
    gradients = parley.reveal([parameter.grad for parameter in secret.parameters()])
    for mine, right in zip(gradients, module.parameters(), strict=True):
        assert right.grad is not None
        close(mine, right.grad, absolute, relative)


class Shared(nn.Module):
    """One layer that is used twice, and a parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.first(x)).relu())


class Standardised(nn.Module):
    """With buffers, of which one is of integers, and a parameter that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", reals(4, seed=1))
        self.register_buffer("steps", torch.tensor(3))
        self.scale = nn.Parameter(reals(4, seed=2))
        self.shift = nn.Parameter(reals(4, seed=3), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) * self.scale + self.shift * self.steps


MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(4, 3),
    "linear without bias": lambda: nn.Linear(4, 3, bias=False),
    "relu": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)),
    "relu in place": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)),
    "sigmoid": lambda: nn.Sequential(OrderedDict(hidden=nn.Linear(4, 5), act=nn.Sigmoid(), out=nn.Linear(5, 1))),
    "tanh": lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)),
    "softmax": lambda: nn.Sequential(nn.Linear(4, 5), nn.Softmax(dim=-1)),
    "log softmax": lambda: nn.Sequential(nn.Linear(4, 5), nn.LogSoftmax(dim=-1)),
    "softplus": lambda: nn.Sequential(nn.Linear(4, 5), nn.Softplus()),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Identity(), nn.Linear(4, 2)),
    "flatten": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(4, 2)),
    "shared parameters": Shared,
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(cluster: Cluster, name: str) -> None:
    torch.manual_seed(1)
    module_same(cluster, MODULES[name](), reals(6, 4, seed=1))


def test_a_linear_layer_takes_any_leading_axes(cluster: Cluster) -> None:
    torch.manual_seed(1)
    layer = nn.Linear(4, 3)
    module_same(cluster, copy.deepcopy(layer), reals(2, 3, 4, seed=1))
    module_same(cluster, copy.deepcopy(layer), reals(4, seed=1))


def test_buffers_and_untrained_parameters(cluster: Cluster) -> None:
    module = Standardised()
    secret = cluster.private(copy.deepcopy(module))
    assert isinstance(secret.mean, SecretTensor)
    assert secret.steps.item() == 3
    assert [name for name, parameter in secret.named_parameters() if parameter.requires_grad] == ["scale"]
    x = reals(3, 4)
    secret(cluster.secret(x)).sum().backward()
    module(x).sum().backward()
    assert secret.shift.grad is None
    close(secret.scale.grad.reveal(), module.scale.grad)
    close(secret(cluster.secret(x)).detach().reveal(), module(x))


def test_a_private_module_stays_the_same_object_with_the_same_names(cluster: Cluster) -> None:
    module = MODULES["sigmoid"]()
    names = list(module.state_dict())
    secret = parley.private(module)
    assert secret is module
    assert list(secret.state_dict()) == names
    assert all(isinstance(value, SecretTensor) for value in secret.state_dict().values())
    assert all(isinstance(value, nn.Parameter) for value in secret.parameters())
    assert parley.private(secret) is module  # once more changes nothing


def test_a_copy_of_a_secret_module_is_trained_on_its_own(cluster: Cluster) -> None:
    module = cluster.private(nn.Linear(3, 1))
    before = parley.reveal(module.state_dict())
    other = copy.deepcopy(module)
    assert len(list(other.parameters())) == 2
    assert all(isinstance(value, nn.Parameter) for value in other.parameters())
    other(cluster.secret(reals(4, 3))).sum().backward()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    for name, value in parley.reveal(module.state_dict()).items():
        assert torch.equal(value, before[name])
    close(other.bias.detach().reveal(), before["bias"] - 0.4)


def test_shared_parameters_stay_shared(cluster: Cluster) -> None:
    module = cluster.private(Shared())
    assert module.first.weight is module.second.weight
    assert len(list(module.parameters())) == 2


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mean": lambda scores, targets: F.cross_entropy(scores, targets),
    "sum": lambda scores, targets: F.cross_entropy(scores, targets, reduction="sum"),
    "none": lambda scores, targets: F.cross_entropy(scores, targets, reduction="none").sum(),
    "smoothed": lambda scores, targets: F.cross_entropy(scores, targets, label_smoothing=0.1),
    "nll": lambda scores, targets: F.nll_loss(F.log_softmax(scores, 1), targets),
    "nll none": lambda scores, targets: (F.nll_loss(F.log_softmax(scores, 1), targets, reduction="none") ** 2).sum(),
}
CLASSES = torch.tensor([2, 0, 3, 3, 1])
TARGETS = {
    "class indices": CLASSES,
    "one-hot": F.one_hot(CLASSES, 4).float(),
    "probabilities": torch.softmax(reals(5, 4, seed=9), 1),
}


@pytest.mark.parametrize("held", ["secret", "plain"])
@pytest.mark.parametrize(
    ("name", "targets"),
    [(name, targets) for name in LOSSES for targets in TARGETS if targets == "class indices" or "nll" not in name],
)
def test_cross_entropy(cluster: Cluster, name: str, targets: str, held: str) -> None:
    def program(scores: torch.Tensor, target: torch.Tensor) -> Any:
        scores.requires_grad_()
        loss = LOSSES[name](scores, target)
        loss.backward()
        return loss.detach(), scores.grad

    scores, target = reals(5, 4, seed=8, scale=2.0), TARGETS[targets]
    if held == "secret":
        same(cluster, program, scores, target, absolute=1e-3)
    else:
        same(cluster, lambda x: program(x, target), scores, absolute=1e-3)


def test_cross_entropy_of_scores_with_more_axes(cluster: Cluster) -> None:
    def program(scores: torch.Tensor, target: torch.Tensor) -> Any:
        scores.requires_grad_()
        loss = F.cross_entropy(scores.flatten(0, 1), target.flatten())
        loss.backward()
        return loss.detach(), scores.grad

    same(cluster, program, reals(2, 3, 4, seed=8), torch.tensor([[2, 0, 3], [3, 1, 0]]), absolute=1e-3)


def test_cross_entropy_with_class_weights(cluster: Cluster) -> None:
    weight, scores = torch.tensor([1.0, 2.0, 0.5, 1.5]), reals(5, 4, seed=8)
    same(cluster, lambda x, y: F.cross_entropy(x, y, weight=weight), scores, TARGETS["one-hot"], absolute=1e-3)
    with pytest.raises(UnsupportedOperation, match="class weights"):
        F.cross_entropy(cluster.secret(scores), cluster.secret(CLASSES), weight=weight)


def test_a_target_that_is_no_class_is_refused_where_that_can_be_seen(cluster: Cluster) -> None:
    for wrong in (4, -100):
        with pytest.raises((InputError, IndexError), match=r"classes|out of"):
            F.cross_entropy(cluster.secret(reals(5, 4)), torch.tensor([0, 1, 2, 3, wrong]))


def test_ignored_classes_are_refused(cluster: Cluster) -> None:
    with pytest.raises(UnsupportedOperation, match="ignore_index"):
        F.cross_entropy(cluster.secret(reals(5, 4)), cluster.secret(CLASSES), ignore_index=2)


OTHERS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "mse": lambda x, y: F.mse_loss(x, y),
    "mse sum": lambda x, y: F.mse_loss(x, y, reduction="sum"),
    "mse none": lambda x, y: (F.mse_loss(x, y, reduction="none") * x).sum(),
    "bce": lambda x, y: F.binary_cross_entropy_with_logits(x, (y > 0).float()),
    "bce sum": lambda x, y: F.binary_cross_entropy_with_logits(x, torch.sigmoid(y), reduction="sum"),
    "bce none": lambda x, y: F.binary_cross_entropy_with_logits(x, (y > 0).float(), reduction="none").sum(),
    "bce weights": lambda x, y: F.binary_cross_entropy_with_logits(
        x, (y > 0).float(), weight=torch.tensor([0.5, 2.0, 1.0]), pos_weight=torch.tensor([2.0, 1.0, 3.0])
    ),
    "classes": lambda x, y: nn.BCEWithLogitsLoss()(x, (y > 0).float()) + nn.MSELoss()(x, y),
}


@pytest.mark.parametrize("held", ["secret", "plain"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_losses(cluster: Cluster, name: str, held: str) -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> Any:
        x.requires_grad_()
        loss = OTHERS[name](x, y)
        loss.backward()
        return loss.detach(), x.grad

    x, y = reals(4, 3, seed=1), reals(4, 3, seed=2)
    if held == "secret":
        same(cluster, program, x, y, absolute=1e-3)
    else:
        same(cluster, lambda x: program(x, y), x, absolute=1e-3)


def test_gradients_of_both_sides_of_the_squared_error(cluster: Cluster) -> None:
    def program(x: torch.Tensor, y: torch.Tensor) -> Any:
        x.requires_grad_()
        y.requires_grad_()
        F.mse_loss(x, y).backward()
        return x.grad, y.grad

    same(cluster, program, reals(4, 3, seed=1), reals(4, 3, seed=2))


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "plain": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "weight decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01),
    "everything": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.05),
    "maximize": lambda p: torch.optim.SGD(p, lr=0.01, maximize=True),
}


@pytest.mark.parametrize("to_none", [True, False], ids=["grad none", "grad zero"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradient_descent(cluster: Cluster, name: str, to_none: bool) -> None:
    torch.manual_seed(3)
    plain = nn.Linear(4, 3)
    secret = cluster.private(copy.deepcopy(plain))
    x, y = reals(12, 4, seed=1), F.one_hot(torch.arange(12) % 3, 3).float()
    secrets = cluster.secret(x), cluster.secret(y)
    results = []
    for module, pair in ((plain, (x, y)), (secret, secrets)):
        optimizer = OPTIMIZERS[name](module.parameters())
        for xb, yb in parley.batches(*pair, size=4, epochs=2, seed=5):
            optimizer.zero_grad(set_to_none=to_none)
            F.cross_entropy(module(xb), yb).backward()
            optimizer.step()
        results.append(module)
    for mine, right in zip(parley.reveal(list(parameters(secret))), parameters(plain), strict=True):
        close(mine, right, absolute=2e-3)


def test_a_schedule_of_learning_rates(cluster: Cluster) -> None:
    torch.manual_seed(3)
    plain = nn.Linear(4, 1)
    secret = cluster.private(copy.deepcopy(plain))
    x, y = reals(8, 4, seed=1), reals(8, 1, seed=2)
    for module, xs, ys in ((plain, x, y), (secret, cluster.secret(x), cluster.secret(y))):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.2, momentum=0.5)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        for _ in range(5):
            optimizer.zero_grad()
            F.mse_loss(module(xs), ys).backward()
            optimizer.step()
            schedule.step()
    for mine, right in zip(parley.reveal(list(parameters(secret))), parameters(plain), strict=True):
        close(mine, right, absolute=2e-3)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def task(rows: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    x = reals(rows, 6, seed=4)
    return x, (x[:, :3] + 0.3 * reals(rows, 3, seed=5)).argmax(1)


@pytest.mark.parametrize("parties", [2, 3, 4, 5])
def test_a_network_is_trained_among_any_number_of_parties(parties: int) -> None:
    torch.manual_seed(7)
    x, y = task()
    plain = network()
    with parley.local(parties) as cluster:
        secret = parley.private(copy.deepcopy(plain))
        xs, ys = cluster.secret(x), cluster.secret(y)
        losses = []
        for module, pair in ((plain, (x, y)), (secret, (xs, ys))):
            optimizer = torch.optim.SGD(module.parameters(), lr=0.2, momentum=0.9)
            for xb, yb in parley.batches(*pair, size=8, epochs=2, seed=1):
                loss = F.cross_entropy(module(xb), yb)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            losses.append(loss.detach())
        close(losses[1].reveal(), losses[0], absolute=5e-3)
        revealed = parley.reveal(secret.state_dict())
        scores = secret(xs).detach()
        assert int(parley.correct(scores, ys).reveal()) == int((plain(x).argmax(1) == y).sum())
    loaded = network()
    loaded.load_state_dict(revealed)
    close(loaded(x), plain(x), absolute=2e-2, relative=1e-2)


def test_a_revealed_model_predicts_as_the_secret_one(cluster: Cluster) -> None:
    torch.manual_seed(7)
    x, _ = task()
    secret = cluster.private(network())
    plain = network()
    plain.load_state_dict(parley.reveal(secret.state_dict()))
    close(secret(cluster.secret(x)).detach().reveal(), plain(x))


def test_plain_parameters_load_into_a_secret_module(cluster: Cluster) -> None:
    torch.manual_seed(8)
    x, _ = task()
    plain, secret = network(), cluster.private(network())
    secret.load_state_dict(plain.state_dict())
    close(secret(cluster.secret(x)).detach().reveal(), plain(x))
    close(secret(x).detach().reveal(), plain(x))  # of plain rows, too


def test_a_model_is_revealed_to_a_party_only(cluster: Cluster) -> None:
    secret = cluster.private(nn.Linear(2, 1))
    assert parley.reveal(secret.state_dict(), to=cluster.parties[0]) is None
    assert secret.weight.reveal(to=[cluster.parties[1]]) is None
    with pytest.raises(InputError, match="cannot be revealed"):
        parley.reveal("weights")


def test_any_structure_is_revealed_at_once(cluster: Cluster) -> None:
    module = cluster.private(nn.Linear(2, 1))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(cluster.secret(reals(3, 2))).sum().backward()
    optimizer.step()
    state = parley.reveal({"optimizer": optimizer.state_dict(), "a name": [module.weight, 3], "a_name": (), "x": "y"})
    close(state["optimizer"]["state"][0]["momentum_buffer"], reals(3, 2).sum(0)[None])
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.1
    assert state["a name"][1] == 3
    assert state["x"] == "y"
    pair = parley.reveal({"a b": module.bias.detach() + 1, "a_b": module.bias.detach() + 2, "a/b": torch.ones(2)})
    close(pair["a_b"] - pair["a b"], torch.ones(1))
    assert parley.reveal([]) == []


def test_predictions_and_accuracy(cluster: Cluster) -> None:
    scores = reals(20, 4, seed=1)
    labels = (scores + reals(20, 4, seed=2)).argmax(1)

    def program(x: torch.Tensor, y: torch.Tensor) -> Any:
        predicted = x.argmax(1)
        hits = predicted == y
        return predicted, hits, hits.sum(), hits.float().mean(), (x.argmax(1, keepdim=True) == y[:, None]).sum()

    same(cluster, program, scores, labels)


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 13])
def test_correct_counts_the_rows_that_are_classified_right(cluster: Cluster, classes: int) -> None:
    scores = reals(15, classes, seed=1)
    scores[0] = 0  # of equal scores, the first
    if classes == 1:
        labels = (scores[:, 0] + reals(15, seed=2) > 0).long()
        expected = int(((scores[:, 0] > 0).long() == labels).sum())
        shapes = [labels, labels[:, None], labels.float(), labels.bool()]
    else:
        labels = (scores + reals(15, classes, seed=2)).argmax(1)
        expected = int((scores.argmax(1) == labels).sum())
        one_hot = F.one_hot(labels, classes)
        shapes = [labels, labels[:, None], labels.int(), one_hot, one_hot.float(), one_hot.bool()]
    for targets in shapes:
        for count in (
            parley.correct(cluster.secret(scores), cluster.secret(targets)),
            parley.correct(cluster.secret(scores), targets),
            parley.correct(scores, cluster.secret(targets)),
        ):
            assert count.dtype == torch.int64
            assert count.shape == ()
            assert int(count.reveal()) == expected


def test_correct_refuses_what_does_not_fit(cluster: Cluster) -> None:
    scores = cluster.secret(reals(5, 3))
    for wrong in (torch.zeros(4), torch.zeros(5, 2), torch.zeros(5, 3, 1), torch.zeros(5)):
        with pytest.raises(InputError, match="targets of shape"):
            parley.correct(scores, wrong)
    with pytest.raises(InputError, match="secret"):
        parley.correct(reals(5, 3), torch.zeros(5))
    with pytest.raises(InputError, match="matrix"):
        parley.correct(scores[0], torch.zeros(5))
    assert int(parley.correct(scores[:0], torch.zeros(0).long()).reveal()) == 0


@pytest.fixture(autouse=True)
def _current(cluster: Cluster) -> None:
    assert parley.current() is cluster
