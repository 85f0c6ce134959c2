"""The sections on complexity and attacks: true to their files, safe with any names, absent where nothing is known."""

import json

import numpy as np
import pytest
import torch
from reading import check_elements, check_self_contained, read_page

from hilbertnet.estimators import CKNClassifier
from hilbertnet.records import load_tensors, save_tensors
from hilbertnet.report import write_report
from hilbertnet.report.words import quantity


@pytest.fixture(scope="module")
def page(measured_digits, tmp_path_factory):
    return read_page(write_report(measured_digits, tmp_path_factory.mktemp("out") / "page.html"))


@pytest.fixture(scope="module")
def plain_page(measured_plain, tmp_path_factory):
    return read_page(write_report(measured_plain, tmp_path_factory.mktemp("out") / "page.html"))


def numbers(folder, name="norms.json"):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def change(folder, name, edit):
    found = numbers(folder, name)
    edit(found)
    (folder / name).write_text(json.dumps(found), encoding="utf-8")


@pytest.mark.parametrize("which", ["page", "plain_page"])
def test_the_page_stays_whole_and_self_contained(which, request):
    page = request.getfixturevalue(which)
    check_elements(page)
    check_self_contained(page)
    links = [link["href"] for link in page.of("a")]
    assert {"#complexity", "#attacks"} <= set(links)


def test_the_same_folder_gives_the_same_bytes(measured_digits, tmp_path):
    first = write_report(measured_digits, tmp_path / "one.html").read_bytes()
    assert write_report(measured_digits, tmp_path / "two.html").read_bytes() == first
    assert len(first) < 400_000


def test_norms_are_those_of_the_model(measured_digits, page):
    model = CKNClassifier.load(measured_digits / "model.safetensors")
    for k, norm in enumerate(model.head_.weight.norm(dim=1).tolist()):
        below = numbers(measured_digits)["from_below"][k]
        assert f" {k} {quantity(below)} {quantity(norm)} " in page.text
    assert "no RKHS whose norm could be read off" not in page.text


def test_lower_bounds_have_their_share_and_their_picture(measured_digits, page):
    below = numbers(measured_digits)["below"]
    for bound in below["bounds"]:
        share = f"{100 * bound['value'] / below['exact']:.1f}%"
        assert f"{bound['name']} {quantity(bound['value'])} {share} " in page.text
    alts = [image["alt"] for image in page.of("img") if image["alt"].startswith("The pair that attains")]
    assert len(alts) == len(below["bounds"]) == 4
    assert below["output"] in page.inside("bdi")


def test_margin_bounds_say_their_confidence_and_when_they_say_nothing(measured_digits, page):
    bounds = numbers(measured_digits)["margin_bounds"]
    assert "With probability at least 95% over 200 independent training examples" in page.text
    for bound in bounds:
        assert f"{bound['epsilon']:g} {quantity(bound['value'])} " in page.text
    assert all(bound["value"] >= 1 for bound in bounds) == ("all of these are there" in page.text)


def test_attacked_and_certified_accuracy_are_the_numbers(measured_digits, page):
    found = numbers(measured_digits)
    for k, radius in enumerate(found["radii"]):
        attacked, certified = found["attacked"][k], found["certified"][k]
        words = [
            f"{100 * one['value']:.1f}% {100 * one['low']:.1f} to {100 * one['high']:.1f}"
            for one in (attacked, certified)
        ]
        assert f"{radius:g} {words[0]} {words[1]} " in page.text


def test_attacks_are_shown_by_threat_with_their_images(measured_digits, page):
    found = numbers(measured_digits, "attack.json")
    assert "Perturbations in l2" in page.inside("h3")
    assert "Deformations" in page.inside("h3")
    ball = found["threats"][0]
    lost = " ".join(str(ball["broken"][name][1]) for name in ball["attacks"])
    one = ball["attacked"][1]
    assert f"0.5 {100 * one['value']:.1f}% {100 * one['low']:.1f} to {100 * one['high']:.1f} " in page.text
    assert f" {lost} " in page.text
    _, header = load_tensors(measured_digits / "attack_images.safetensors", "AttackImages")
    shown = [image for image in page.of("img") if "the attacked image taken for" in image["alt"]]
    assert len(shown) == found["images"] == len(header["images"]) > 0
    about = header["images"][0]
    assert f"{about['label']} taken for {about['adversarial']} after {about['attack']}" in page.text


def test_plain_networks_are_bounded_from_above_by_layer(measured_plain, plain_page):
    above = numbers(measured_plain)["above"]
    for bound in above["bounds"]:
        value = "∞" if bound["value"] is None else quantity(bound["value"])
        assert f"{bound['name']} {value}" in plain_page.text
    for layer in above["layers"]:
        assert layer["place"] in plain_page.inside("code") or not layer["place"]
        if layer["operator_norm"]:
            assert (
                f"{quantity(layer['operator_norm'])} {quantity(layer['at_most'])} {quantity(layer['reshaped'])}"
                in plain_page.text
            )
    assert "no RKHS whose norm could be read off" in plain_page.text
    assert "The margin bound needs a norm in a kernel" in plain_page.text


# --- what is not there


def test_without_numbers_the_page_names_the_commands(digits_run):
    page = read_page(write_report(digits_run))
    assert "hilbertnet norms RUN" in page.inside("code")
    assert "hilbertnet attack RUN" in page.inside("code")


def test_numbers_without_pictures_are_shown(measured_run):
    (measured_run / "norms_images.safetensors").unlink()
    (measured_run / "attack_images.safetensors").unlink()
    page = read_page(write_report(measured_run))
    assert "From below" in page.inside("h3")
    assert "Adversarial images" not in page.inside("h3")
    assert not [image for image in page.of("img") if image["alt"].startswith("The pair")]


def test_pictures_of_another_call_are_not_shown(measured_run):
    change(measured_run, "norms.json", lambda found: found["below"].update(output="another"))
    change(measured_run, "attack.json", lambda found: found.update(images=99))
    page = read_page(write_report(measured_run))
    assert not [image for image in page.of("img") if image["alt"].startswith("The pair")]
    assert "Adversarial images" not in page.inside("h3")


def test_numbers_of_another_model_are_marked(measured_run, page):
    assert "Of another model:" not in page.text
    path = measured_run / "model.safetensors"
    tensors, header = load_tensors(path, "CKNClassifier")
    save_tensors(path, {**tensors, "head.bias": tensors["head.bias"] + 1}, header)
    assert "Of another model:" in read_page(write_report(measured_run)).text


def test_a_model_that_nothing_certifies(measured_run):
    def uncertain(found):
        found.update(certified=None, certified_curve=None, lipschitz_outputs=[None] * 10)

    change(measured_run, "norms.json", uncertain)
    change(
        measured_run, "attack.json", lambda found: found["threats"][0].update(certified=None, not_certified="reasons")
    )
    page = read_page(write_report(measured_run))
    check_elements(page)
    assert "Nothing is certified: reasons." in page.text
    assert "∞" in page.inside("td")


def test_names_are_escaped(measured_run):
    nasty = "<script>alert(1)</script> & 🦊"

    def rename(found):
        found["outputs"][0] = nasty
        found["below"]["bounds"][0]["source"] = nasty

    change(measured_run, "norms.json", rename)
    change(measured_run, "attack.json", lambda found: found.update(data=nasty))
    path = write_report(measured_run)
    page = read_page(path)
    check_elements(page)
    assert "<script" not in path.read_text(encoding="utf-8")
    assert nasty in page.text


@pytest.mark.parametrize("name", ["norms.json", "attack.json"])
@pytest.mark.parametrize(("text", "says"), [("{", "not JSON"), ("[]", "expected a JSON object"), ("{}", "found no")])
def test_files_of_something_else_are_refused(measured_run, name, text, says):
    (measured_run / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name}: .*{says}"):
        write_report(measured_run)
    assert not (measured_run / "report.html").exists()


@pytest.mark.parametrize(("name", "key"), [("norms.json", "margins"), ("attack.json", "threats")])
def test_numbers_in_another_form_are_refused(measured_run, name, key):
    change(measured_run, name, lambda found: found.update({key: [{"examples": 3}]}))
    with pytest.raises(ValueError, match=rf"{name}: expected what hilbertnet {name.removesuffix('.json')} writes"):
        write_report(measured_run)


def test_pictures_that_are_none_are_refused(measured_run):
    (measured_run / "norms_images.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"norms_images\.safetensors: expected a safetensors file"):
        write_report(measured_run)


def test_signals_have_no_pictures_but_numbers(measured_run):
    tensors, header = load_tensors(measured_run / "norms_images.safetensors", "Maximizers")
    save_tensors(measured_run / "norms_images.safetensors", {k: v.flatten(2) for k, v in tensors.items()}, header)
    page = read_page(write_report(measured_run))
    assert "From below" in page.inside("h3")
    assert not [image for image in page.of("img") if image["alt"].startswith("The pair")]


def test_a_norm_of_zero_has_no_share(measured_run):
    change(measured_run, "norms.json", lambda found: found["below"].update(exact=0.0))
    check_elements(read_page(write_report(measured_run)))


def test_the_distribution_on_the_page_is_that_of_the_margins(measured_digits):
    kept = numbers(measured_digits)["margins"]
    assert kept["examples"] == 200
    np.testing.assert_allclose(kept["shares"], np.arange(1, 201) / 200)
    assert kept["values"] == sorted(kept["values"])
    assert kept["not_positive"] == float((torch.tensor(kept["values"]) <= 0).double().mean())
