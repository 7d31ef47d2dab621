"""VGG networks: the published sizes, what goes to the last layer, and plans that cannot be."""

import numpy as np
import pytest
import torch
from torch import nn

from ntklc_helpers.classifiers import build
from ntklc_helpers.vgg import PLANS, convolutional_features, vgg


def test_vgg19_has_19_layers_of_weights_and_the_published_convolutions():
    net = build("vgg19", (3, 32, 32), 10, 16, seed=0)
    layers = [m for m in net if isinstance(m, nn.Conv2d | nn.Linear)]
    # Two fully-connected layers of the original's three are gone.
    assert len(layers) == 19 - 2 and sum(m == "M" for m in PLANS["vgg19"]) == 5
    # Its convolutions without biases: 20,018,880; two normalisation parameters for 5,504 channels.
    assert sum(m.weight.numel() for m in layers[:-1]) == 20_018_880
    assert sum(p.numel() for p in net.parameters()) == 20_018_880 + 2 * 5_504 + 512 * 10 + 10
    assert net[-1].in_features == 512 and isinstance(net[-2], nn.Flatten)


@pytest.mark.parametrize("name", PLANS)
def test_plans_take_the_images_of_cifar10(name):
    net = vgg(name, (3, 32, 32), n_classes=7)
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_features_are_what_the_last_layer_gets():
    net = vgg((3, "M", 5), (2, 9, 7), n_classes=4)
    X = torch.randn(11, 2, 9, 7, generator=torch.Generator().manual_seed(0))
    net(X)  # the running statistics are no longer those of the start
    features = convolutional_features(net, X, batch_size=4)
    assert features.shape == (11, 5 * 4 * 3) and features.dtype == np.float64
    assert net.training
    net.eval()
    with torch.no_grad():
        scores = torch.from_numpy(features).float() @ net[-1].weight.T + net[-1].bias
        torch.testing.assert_close(scores, net(X))
    # Of 11 alone or in batches of 4: convolutions may sum in another order.
    np.testing.assert_allclose(convolutional_features(net, X), features, rtol=1e-4, atol=1e-6)
    assert not net.training


def test_what_cannot_be_built_is_named():
    with pytest.raises(ValueError, match="plan must be one of vgg19, .*, got 'vgg20'"):
        vgg("vgg20", (3, 32, 32))
    with pytest.raises(ValueError, match="plan must hold numbers of channels and 'M', got 'A'"):
        vgg((8, "A"), (3, 32, 32))
    with pytest.raises(ValueError, match="plan must be a positive whole number, got 0"):
        vgg((0,), (3, 32, 32))
    with pytest.raises(ValueError, match=r"shape \(1, 28, 28\) is too small"):
        vgg("vgg19", (1, 28, 28))
    with pytest.raises(TypeError, match="net must be a torch.nn.Sequential that ends in a Linear"):
        convolutional_features(nn.Sequential(nn.ReLU()), torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="batch_size must be a positive whole number"):
        convolutional_features(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2), batch_size=0)
