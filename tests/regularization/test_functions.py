"""Models as penalties take them: which logits of a step are those of eval mode, and what is inside a wrapper."""

import torch
from torch import nn
from torch.nn.utils import parametrizations

from hilbertnet.regularization.functions import as_function, reusable


class TwoWays(nn.Linear):
    def forward(self, x):
        return super().forward(x) * (2 if self.training else 1)


def test_logits_of_a_users_module_are_not_those_of_eval_mode_for_certain():
    x, plain = torch.ones(4, 5), nn.Linear(5, 3)
    assert reusable(plain, plain(x)) is not None
    assert reusable(parametrizations.orthogonal(plain), plain(x)) is not None
    for model in (TwoWays(5, 3), parametrizations.orthogonal(TwoWays(5, 3)), nn.Sequential(plain, nn.Dropout())):
        assert reusable(model, model(x)) is None
        assert reusable(model.eval(), model(x)) is not None


def test_models_that_are_spread_over_devices_come_as_the_module_inside():
    model = nn.Sequential(nn.Linear(5, 3), nn.Dropout())
    with as_function(nn.DataParallel(model)) as inside:
        assert inside is model
        assert not inside.training
    assert model.training
