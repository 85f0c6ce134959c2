"""The finite view: convolutional kernel networks, their random cousins, and plain networks."""

from hilbertnet.networks.ckn import CKN
from hilbertnet.networks.cnn import ckn_like, mnist_net, resnet, vgg
from hilbertnet.networks.layer import CKNLayer
from hilbertnet.networks.plain import PlainCNN
from hilbertnet.networks.random_features import RandomFeatureLayer, RandomFeatureNet
from hilbertnet.networks.sequence import SequenceCNN, SequenceNet, pack
from hilbertnet.networks.sphere import SphereSGD, filters_and_others
from hilbertnet.networks.supervised import CKNNet, train_supervised

__all__ = [
    "CKN",
    "CKNLayer",
    "CKNNet",
    "PlainCNN",
    "RandomFeatureLayer",
    "RandomFeatureNet",
    "SequenceCNN",
    "SequenceNet",
    "SphereSGD",
    "ckn_like",
    "filters_and_others",
    "mnist_net",
    "pack",
    "resnet",
    "train_supervised",
    "vgg",
]
