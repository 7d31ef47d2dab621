"""What each weight is worth by SNIP, GraSP and SynFlow, and networks pruned by it."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from ntklc_helpers.compression.pruning import masks, prune_globally, saliencies, sparsity

WITH_DATA = ("snip", "grasp")
ALL = ("magnitude", *WITH_DATA, "synflow")


def chain(*sizes, bias=False, activation=nn.ReLU, seed=0, dtype=torch.float64):
    """A network of linear layers 0, 2, 4, … with an activation between them."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layer = nn.Linear(inputs, outputs, bias=bias, dtype=dtype)
        for values in layer.parameters():
            nn.init.normal_(values, std=(2 / inputs) ** 0.5, generator=generator)
        parts += [layer, activation()]
    return nn.Sequential(*parts[:-1])


def batch(n=12, p=4, k=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, p, generator=generator, dtype=torch.float64), torch.arange(n) % k


def flat(found):
    return torch.cat([values.flatten() for values in found.values()])


def loss_of(net, X, y, temperature=1.0):
    """The loss as a function of all weights of the linear layers in one vector."""
    layers = [part for part in net if isinstance(part, nn.Linear)]
    shapes = [layer.weight.shape for layer in layers]
    start = torch.cat([layer.weight.detach().flatten() for layer in layers])

    def loss(vector):
        out, pieces = X, iter(vector.split([shape.numel() for shape in shapes]))
        for part in net:
            if isinstance(part, nn.Linear):
                out = F.linear(out, next(pieces).view(part.weight.shape), part.bias)
            else:
                out = part(out)
        return F.cross_entropy(out / temperature, y)

    return loss, start


# --- against brute force


def test_snip_is_the_change_of_the_loss_with_the_strength_of_a_connection():
    net, (X, y) = chain(4, 5, 3, bias=True, activation=nn.Tanh), batch()
    loss, start = loss_of(net, X, y)
    step, changes = 1e-5, torch.zeros_like(start)
    for k in range(len(start)):
        strength = torch.ones_like(start)
        strength[k] += step
        up = loss(start * strength)
        strength[k] -= 2 * step
        changes[k] = (up - loss(start * strength)) / (2 * step)
    expected = changes.abs() / changes.abs().sum()
    torch.testing.assert_close(flat(saliencies(net, "snip", X, y)), expected, rtol=1e-6, atol=1e-9)


def test_grasp_is_of_the_explicit_hessian():
    net, (X, y) = chain(4, 5, 3, bias=True, activation=nn.Tanh), batch()
    loss, start = loss_of(net, X, y, temperature=200.0)
    gradient = torch.func.grad(loss)(start)
    expected = start * (torch.func.hessian(loss)(start) @ gradient)
    torch.testing.assert_close(flat(saliencies(net, "grasp", X, y)), expected, rtol=1e-9, atol=0)


def test_grasp_tells_how_the_squared_gradient_changes_as_a_weight_goes():
    net, (X, y) = chain(4, 5, 3, activation=nn.Tanh), batch()
    loss, start = loss_of(net, X, y, temperature=200.0)
    gradient, step = torch.func.grad(loss), 1e-4

    def squared(vector):
        return gradient(vector).square().sum()

    found = flat(saliencies(net, "grasp", X, y))
    for k in range(0, len(start), 3):
        less = start.clone()
        less[k] *= 1 - step
        change = (squared(less) - squared(start)).item() / step
        assert change == pytest.approx(-2 * found[k].item(), rel=1e-2)


def test_synflow_is_the_share_of_paths():
    net = chain(4, 5, 3)
    first, second = net[0].weight.abs(), net[2].weight.abs()
    found = saliencies(net, "synflow", batch()[0])
    torch.testing.assert_close(found["0"], first * second.sum(0)[:, None])
    torch.testing.assert_close(found["2"], second * first.sum(1))


# --- invariances


@pytest.mark.parametrize("sizes", [(4, 3), (4, 7, 3), (4, 20, 5, 11, 3)])
def test_synflow_is_conserved_from_layer_to_layer(sizes):
    net = prune_globally(chain(*sizes), 0.3) if len(sizes) > 2 else chain(*sizes)
    sums = [values.sum() for values in saliencies(net, "synflow", batch()[0]).values()]
    torch.testing.assert_close(torch.stack(sums), sums[0].expand(len(sums)))
    # And at each neuron what comes in goes out.
    found = list(saliencies(net, "synflow", batch()[0]).values())
    for before, after in zip(found, found[1:], strict=False):
        torch.testing.assert_close(before.sum(1), after.sum(0))


def test_snip_sums_to_one_and_neither_sees_the_scale_of_a_hidden_neuron():
    net, (X, y) = chain(4, 6, 5, 3), batch()
    other = deepcopy(net)
    with torch.no_grad():
        factors = torch.linspace(0.2, 3, 6, dtype=torch.float64)
        other[0].weight.mul_(factors[:, None])
        other[2].weight.div_(factors)
    for criterion in ("snip", "synflow"):
        first, second = (flat(saliencies(one, criterion, X, y)) for one in (net, other))
        torch.testing.assert_close(first, second)
    assert flat(saliencies(net, "snip", X, y)).sum() == pytest.approx(1, abs=1e-12)
    assert not torch.allclose(*(flat(saliencies(one, "magnitude")) for one in (net, other)))


def test_synflow_sees_neither_inputs_nor_labels_nor_signs():
    net, (X, y) = chain(4, 6, 3), batch()
    expected = flat(saliencies(net, "synflow", X, y))
    assert torch.equal(flat(saliencies(net, "synflow", 5 * X[:1] - 1)), expected)
    with torch.no_grad():
        net[0].weight.neg_()
    assert torch.equal(flat(saliencies(net, "synflow", X)), expected)


def test_a_deep_network_does_not_overflow():
    net = chain(*[200] * 40, dtype=torch.float32)
    with torch.no_grad():
        for layer in net[::2]:
            layer.weight.mul_(3)  # single precision ends at 3e38
    found = saliencies(net, "synflow", torch.ones(1, 200))
    assert found["0"].sum() > 1e39 and flat(found).isfinite().all()


# --- what is left of a module


def convolutional():
    """With normalisations of running statistics, dropout, and one layer pruned already."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 3),
    )  # fmt: skip
    with torch.no_grad():
        net[1].running_var.mul_(4)
        net[0].weight.grad = torch.ones_like(net[0].weight)
    prune_globally(net, 0.4, layers=["5"])
    net[3].eval()
    return net.requires_grad_(True)


@pytest.mark.parametrize("criterion", ALL)
def test_the_module_stays_as_it_is(criterion):
    net, X, y = convolutional(), torch.randn(9, 1, 8, 8), [0, 1, 2] * 3
    state = {name: value.clone() for name, value in net.state_dict().items()}
    product, modes = net[5].weight, [part.training for part in net.modules()]
    with torch.no_grad():
        found = saliencies(net, criterion, X, y)
    assert list(found) == ["0", "5", "7"]
    assert not any(values.requires_grad for values in found.values())
    assert (found["5"][~masks(net)["5"]] == 0).all() and (found["5"] != 0).any()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert net[5].weight is product and [p.training for p in net.modules()] == modes
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert all(p.grad is None for n, p in net.named_parameters() if n != "0.weight")
    assert all(p.requires_grad for p in net.parameters())
    # Running statistics, no dropout: the same again.
    assert torch.equal(flat(saliencies(net, criterion, X, y)), flat(found))


def test_what_is_pruned_counts_no_more():
    net, plain = (prune_globally(chain(4, 6, 3), 0.5, seed=3) for _ in range(2))
    X, y = batch()
    for layer in plain[::2]:
        prune.remove(layer, "weight")
    for criterion in ("snip", "synflow"):
        torch.testing.assert_close(
            flat(saliencies(net, criterion, X, y)), flat(saliencies(plain, criterion, X, y))
        )
    # GraSP's gradient is in the weights that are left.
    loss, start = loss_of(plain, X, y, temperature=200.0)
    gradient = torch.func.grad(loss)(start) * flat(masks(net))
    expected = start * (torch.func.hessian(loss)(start) @ gradient)
    torch.testing.assert_close(flat(saliencies(net, "grasp", X, y)), expected)


# --- networks pruned by them


@pytest.mark.parametrize("strategy", ALL)
def test_the_least_go(strategy):
    net, (X, y) = chain(4, 30, 20, 3), batch()
    scores = flat(saliencies(net, strategy, X, y))
    total = len(scores)
    prune_globally(net, 0.6, strategy, X=X, y=y, rounds=1)
    kept = flat(masks(net))
    assert kept.sum() == total - round(0.6 * total)
    assert scores[kept].min() >= scores[~kept].max()


def alive_through(net):
    """Whether any path from an input to an output is left."""
    matrices = [mask.double() for mask in masks(net).values()]
    flow = torch.ones(matrices[0].shape[1], dtype=torch.float64)
    for matrix in matrices:
        flow = matrix @ flow
    return flow.sum() > 0


@pytest.mark.parametrize("left", [6, 12, 40])
def test_synflow_leaves_paths_where_single_shots_leave_none(left):
    sizes = (50, 80, 80, 80, 80, 10)
    net, X = chain(*sizes, seed=2), torch.randn(30, 50, dtype=torch.float64)
    total = sparsity(net).size
    fraction = 1 - left / sum(total.values())
    whole = deepcopy(net)
    prune_globally(net, fraction, "synflow", X=X)
    assert sum(sparsity(net).kept.values()) == left
    assert min(sparsity(net).kept.values()) > 0 and alive_through(net)
    prune_globally(whole, fraction, "magnitude")
    assert not alive_through(whole)


def test_synflow_needs_its_rounds():
    sizes, X = (50, 80, 80, 80, 80, 10), torch.randn(1, 50, dtype=torch.float64)
    nets = [prune_globally(chain(*sizes), 0.999, "synflow", X=X, rounds=r) for r in (1, 100)]
    assert [alive_through(net) for net in nets] == [False, True]


def test_rounds_are_those_of_pruning_again():
    X, net = batch()[0], chain(4, 30, 20, 3)
    other = deepcopy(net)
    prune_globally(net, 0.75, "synflow", X=X, rounds=2)
    prune_globally(
        prune_globally(other, 0.5, "synflow", X=X, rounds=1), 0.5, "synflow", X=X, rounds=1
    )
    assert all(torch.equal(mask, masks(other)[name]) for name, mask in masks(net).items())


# --- bad input


@pytest.mark.parametrize(
    ("criterion", "given", "message"),
    [
        ("best", {}, "criterion must be one of magnitude, snip, grasp, synflow, got 'best'"),
        ("random", {}, "criterion must be one of magnitude"),
        ("snip", {}, "X must be a tensor of inputs, a row each, to prune by snip"),
        ("synflow", {}, "X must be a tensor of inputs, a row each, to prune by synflow"),
        ("grasp", {"X": [[1.0] * 4]}, "X must be a tensor"),
        ("snip", {"X": torch.ones(4)}, "X must be a tensor"),
        ("snip", {"X": torch.ones(0, 4)}, "X must be a tensor"),
        ("snip", {"X": torch.ones(2, 4)}, "y must hold the classes of X to prune by snip"),
        ("snip", {"X": torch.ones(2, 4), "y": [0]}, r"y must have shape \(2,\)"),
        ("snip", {"X": torch.ones(2, 4), "y": [0, 3]}, "among the classes 0 to 2"),
        ("snip", {"X": torch.ones(2, 4), "y": ["a", "b"]}, "among the classes 0 to 2"),
        ("grasp", {"X": torch.ones(2, 4), "y": [-1, 0]}, "among the classes 0 to 2"),
        (
            "snip",
            {"X": torch.ones(2, 5), "y": [0, 1]},
            r"X, of shape \(2, 5\), must fit the module",
        ),
        ("synflow", {"X": torch.ones(2, 5)}, r"X, of shape \(1, 5\), must fit the module"),
        ("snip", {"X": torch.zeros(2, 4), "y": [0, 1]}, "finite and not all 0; they sum to 0"),
        ("snip", {"X": torch.full((2, 4), torch.nan), "y": [0, 1]}, "finite and not all 0"),
        ("snip", {"layers": ["1"]}, r"layers \['1'\] cannot be pruned; known: 0, 2"),
    ],
)
def test_bad_input_names_the_argument(criterion, given, message):
    net = chain(4, 5, 3, dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        saliencies(net, criterion, **given)
    if criterion not in ("best", "random"):
        with pytest.raises(ValueError, match=message):
            prune_globally(net, 0.5, criterion, **given)
    assert net.training and not any(hasattr(layer, "weight_mask") for layer in net)


def test_bad_rounds():
    with pytest.raises(ValueError, match="rounds must be a whole number of at least 1"):
        prune_globally(chain(4, 3), 0.5, "synflow", X=torch.ones(1, 4), rounds=0)
