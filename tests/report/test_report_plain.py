"""The page of a plain network's run, and what it shows of the network."""

import pytest
import torch
from reading import check_elements, check_self_contained, edit_record, read_page
from torch import nn

from hilbertnet.estimators import RegularizedClassifier, load_classifier
from hilbertnet.records import RunFolder
from hilbertnet.report import plain, write_report


class Net(nn.Module):
    """A convolution after dropout and batch normalization, and one module that is never called."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.never = first, nn.BatchNorm2d(3), nn.Linear(2, 2)
        self.drop, self.head = nn.Dropout(), nn.LazyLinear(4)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.first(x))).flatten(1))


def classifier(first: nn.Module, shape=(2, 6, 5)) -> RegularizedClassifier:
    model = RegularizedClassifier()
    model.module_, model.signal_shape_ = Net(first), shape
    model.module_(torch.zeros(2, *shape))
    return model


@pytest.fixture(scope="module")
def page(fitted_plain, tmp_path_factory):
    return read_page(write_report(fitted_plain, tmp_path_factory.mktemp("out") / "page.html"))


def test_the_page_is_whole_and_has_no_part_of_a_kernel_network(page):
    check_elements(page)
    check_self_contained(page)
    ids = [attributes.get("id") for _, attributes in page.elements]
    assert {"model", "training", "classes", "mistakes", "filters", "complexity", "attacks", "cost", "origin"} <= set(
        ids
    )
    assert not {"lambda", "maps"} & set(ids)
    assert "κ" not in page.text


def test_what_the_page_says_of_the_model(page, fitted_plain):
    record = RunFolder(fitted_plain).read_record()
    assert f"cnn · {record['parameters']:,} parameters · regularizer sn(" in page.text
    assert "Conv2d(1, 32, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))" in page.inside("code")
    assert "32 × 8 × 8" in page.inside("td")
    assert "The weights of the last epoch were kept." in page.text
    assert "32 filters of layer 1 as small pictures" in [image["alt"] for image in page.of("img")]


def test_an_epoch_that_was_selected_is_said_to_be(plain_run):
    def held_out(record):
        for epoch in record["history"]:
            epoch.update(validation_loss=0.5, validation_accuracy=0.9)

    edit_record(plain_run, held_out)
    assert "The ring marks the epoch whose weights were kept." in read_page(write_report(plain_run)).text


def test_the_regularizer_of_a_kernel_network_is_named(digits_run):
    edit_record(digits_run, lambda record: record.update(regularizer="delta(1.0)"))
    assert "regularizer delta(1.0)" in read_page(write_report(digits_run)).text


def test_modules_are_those_that_are_called_with_what_they_give():
    rows = plain.module_rows(classifier(nn.Conv2d(2, 3, 3)))
    assert [row["place"] for row in rows] == ["first", "norm", "drop", "head"]
    assert [row["output"] for row in rows] == ["3 × 4 × 3", "3 × 4 × 3", "3 × 4 × 3", "4"]
    assert [row["parameters"] for row in rows] == ["57", "6", "", "148"]


def test_looking_leaves_the_network_as_it_was():
    model = classifier(nn.Conv2d(2, 3, 3))
    model.module_.drop.eval()
    before = {name: value.clone() for name, value in model.module_.state_dict().items()}
    modes = [module.training for module in model.module_.modules()]
    plain.module_rows(model)
    plain.first_convolution(model)
    assert [module.training for module in model.module_.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.module_.state_dict().items())
    assert not any(module._forward_hooks for module in model.module_.modules())


@pytest.mark.parametrize(
    ("first", "shown"),
    [
        (nn.Conv2d(2, 3, 3), True),
        (nn.Conv2d(2, 4, 1), True),
        (nn.Conv2d(2, 4, 3, groups=2), False),
        (nn.Sequential(nn.Dropout(), nn.Conv2d(2, 3, (3, 2))), True),
        (nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3)), False),
    ],
)
def test_filters_are_shown_where_the_first_layer_is_a_convolution_of_pixels(first, shown):
    model = RegularizedClassifier()
    model.module_, model.signal_shape_ = nn.Sequential(first, nn.Flatten(), nn.LazyLinear(2)), (2, 6, 5)
    model.module_(torch.zeros(2, 2, 6, 5))
    found = plain.first_convolution(model)
    assert (found is not None) == shown
    if shown:
        (convolution,) = [module for module in first.modules() if isinstance(module, nn.Conv2d)]
        torch.testing.assert_close(torch.from_numpy(found).float(), convolution.weight.detach())


def test_the_filters_are_the_checkpoint_s(fitted_plain):
    model = load_classifier(fitted_plain / "model.safetensors")
    state = model.module_.state_dict()
    torch.testing.assert_close(torch.from_numpy(plain.first_convolution(model)).float(), state["body.0.weight"])
