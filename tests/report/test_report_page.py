"""The page of a run: whole, self-contained, true to the record, and safe with any names."""

import csv
import json
import re
import shlex

import numpy as np
import pytest
import torch
from reading import Page, check_elements, check_self_contained, edit_record, read_page, write_pictures

from hilbertnet.estimators import CKNClassifier
from hilbertnet.records import RunFolder, load_tensors, save_tensors
from hilbertnet.report import write_report

NEWER = ("preprocessing", "features", "peak_memory", "seconds", "versions", "platform", "threads", "device", "command")
WEIRD = [
    "<script>alert(1)</script>",
    "&amp;",
    "🦊",
    "عربي",
    "$x^2$",
    "a \"quoted\" 'name'",
    "👩‍🔬",
    "a" * 90,
    "0,1",
    "7",
]


@pytest.fixture(scope="module")
def page(fitted_digits, tmp_path_factory) -> Page:
    out = tmp_path_factory.mktemp("out") / "page.html"
    assert write_report(fitted_digits, out) == out
    return read_page(out)


def test_the_page_asks_for_nothing_outside(page):
    check_self_contained(page)


def test_the_page_is_well_formed_and_can_be_read_aloud(page):
    check_elements(page)
    assert len(page.of("svg")) == 2
    assert len(page.of("h1")) == 1


def test_tables_scroll_by_themselves(fitted_digits, page, tmp_path):
    text = write_report(fitted_digits, tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(page.of("table")) == len(re.findall(r'<div class="scroll[^>]*>\s*<table', text)) > 3


def test_accuracy_and_interval_are_the_record_s(fitted_digits, page):
    record = RunFolder(fitted_digits).read_record()
    interval = record["test_accuracy_interval"]
    assert f"{100 * record['test_accuracy']:.2f}%" in page.inside("p")
    assert f"[{100 * interval['low']:.2f}, {100 * interval['high']:.2f}] (Wilson)" in page.text.replace(
        "95% interval ", ""
    )
    assert f"accuracy on {record['test_examples']:,} test examples" in page.text


def test_the_counts_are_those_of_the_predictions(fitted_digits, page):
    with (fitted_digits / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for label in range(10):
        of_label = [row for row in rows if row["label"] == str(label)]
        right = sum(row["prediction"] == str(label) for row in of_label)
        assert re.search(rf"(?<!\d){label} {len(of_label)} {100 * right / len(of_label):.1f}% ", page.text)
    errors = sum(row["label"] != row["prediction"] for row in rows)
    assert f"3 of {errors} mistakes" in page.text


def test_what_the_page_says_of_the_model(fitted_digits, page):
    model = CKNClassifier.load(fitted_digits / "model.safetensors")
    assert f"{model.network_.arch} · 8 and 16 filters · 256 features · squared hinge, λ = 10" in page.text
    assert "κ′(1) ≤ 1; otherwise" in page.text
    assert "layers 1 and 2: a small change of an example may become up to 2.78 times as large" in page.text
    parameters = sum(layer.filters.numel() for layer in model.network_.layers) + 10 * 256 + 10
    assert f"{parameters:,} (" in page.text


def test_provenance_is_all_there(digits_run):
    record = edit_record(digits_run, lambda record: record.update(command=["hilbertnet", "fit", "my data; rm 'x'"]))
    page = read_page(write_report(digits_run))
    assert page.inside("code")[-3:-2] or page.inside("code")
    assert shlex.join(record["command"]) in page.inside("code")
    assert record["split"]["train_sha256"] in page.text
    assert record["protocol"] in page.text
    assert record["versions"]["torch"] in page.text
    assert record["time"][:10] in page.text


def test_mistakes_are_shown_with_what_is_known_of_them(page):
    captions = " ".join(page.text.split())
    assert "0 taken for 9 margin 0.83 example 12" in captions
    assert "2 taken for 9 margin 0.63 example 14" in captions
    assert len([image for image in page.of("img") if image["alt"].startswith("Test example")]) == 3


def test_filters_and_maps_are_shown(page):
    alts = [image["alt"] for image in page.of("img")]
    assert "8 filters of layer 1 as small pictures" in alts
    assert len([alt for alt in alts if alt.startswith("Patches nearest to filter")]) in range(8, 17)
    assert [alt for alt in alts if alt.startswith("Feature maps")] == [
        f"Feature maps of layer {layer}, one row for each of 4 images" for layer in (1, 2)
    ]
    assert "their receptive field of 5 × 5 pixels" in page.text


def test_the_same_folder_gives_the_same_bytes(fitted_digits, tmp_path):
    first = write_report(fitted_digits, tmp_path / "one.html").read_bytes()
    assert write_report(fitted_digits, tmp_path / "two.html").read_bytes() == first
    assert len(first) < 300_000


def test_the_default_place_is_the_folder(digits_run):
    assert write_report(str(digits_run)) == digits_run / "report.html"
    assert [path.name for path in digits_run.iterdir() if path.name.startswith(".")] == []


# --- folders that lack something


def test_older_records_have_a_page(digits_run):
    def older(record):
        for key in NEWER:
            record.pop(key, None)
        record["settings"].pop("size", None)

    edit_record(digits_run, older)
    (digits_run / "pictures.safetensors").unlink()
    page = read_page(write_report(digits_run))
    check_elements(page)
    assert "256 features" in page.text
    assert "This run kept no pictures of its" in page.text
    assert "In the order of the checkpoint" in page.text
    assert "This run kept no pictures to compute them on." in page.text


def test_the_barest_record_has_a_page(digits_run):
    record = RunFolder(digits_run).read_record()
    kept = {key: record[key] for key in ("test_accuracy", "test_examples", "train_examples")}
    (digits_run / "record.json").write_text(json.dumps(kept))
    check_elements(read_page(write_report(digits_run)))


def test_newer_keys_are_shown(digits_run):
    seconds = {"load": 0.5, "filters": 75.0, "head": 3.25, "test": 1.5, "tea": 1.0}
    edit_record(
        digits_run, lambda r: r.update(preprocessing="contrast | zca(1e-4)", seconds=seconds, peak_memory=2**30)
    )
    text = read_page(write_report(digits_run)).text
    for words in ("preprocessing contrast | zca(1e-4) · ", "1 min 15 s", "3.25 s", "Tea 1.00 s", "1.07 GB"):
        assert words in text


def test_incomplete_data_are_visible(digits_run):
    edit_record(digits_run, lambda r: r["data"].update(found={"train": 9, "test": 9000}, official={"test": 10000}))
    assert "Incomplete data: 9,000 of 10,000 official test images" in read_page(write_report(digits_run)).text


@pytest.mark.parametrize(("mistakes", "samples"), [(0, 5), (2, 0), (0, 0)])
def test_pictures_of_one_kind_alone(digits_run, mistakes, samples):
    write_pictures(digits_run, mistakes, samples)
    page = read_page(write_report(digits_run))
    check_elements(page)
    alts = [image["alt"] for image in page.of("img")]
    assert sum(alt.startswith("Test example") for alt in alts) == mistakes
    assert any(alt.startswith("Feature maps") for alt in alts) == bool(samples)


def test_a_run_without_mistakes_says_so(digits_run):
    path = digits_run / "predictions.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([row[0], row[1], row[1], *row[3:]] for row in rows[1:])])
    write_pictures(digits_run, mistakes=0)
    page = read_page(write_report(digits_run))
    assert "None: all test examples are right." in page.text
    assert "Most frequent confusions" not in page.text


def test_a_lambda_that_was_given_has_no_curve(digits_run):
    path = digits_run / "model.safetensors"
    tensors, header = load_tensors(path, "CKNClassifier")
    save_tensors(path, tensors, header | {"validation_curve": []})
    page = read_page(write_report(digits_run))
    assert "was given, not chosen" in page.text
    assert len(page.of("svg")) == 1


# --- names


def rename(folder, names: list[str]) -> None:
    """The same run, had its classes had these names; those beyond the tenth have no examples."""
    path = folder / "model.safetensors"
    tensors, header = load_tensors(path, "CKNClassifier")
    classes = np.array(names[:10])
    save_tensors(path, tensors, header | {"classes": names[:10], "classes_dtype": classes.dtype.str})
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*rows[0][:3], *(f"score_{name}" for name in names[:10])])
        writer.writerows([row[0], names[int(row[1])], names[int(row[2])], *row[3:]] for row in rows[1:])
    pictures, about = load_tensors(folder / "pictures.safetensors", "Pictures")
    for one in [*about["mistakes"], *about["samples"]]:
        for key in set(one) & {"label", "prediction"}:
            one[key] = names[int(one[key])]
    save_tensors(folder / "pictures.safetensors", pictures, about)
    edit_record(folder, lambda record: record["data"].update(classes=names, name=names[0]))


def test_any_names_are_shown_as_they_are(digits_run):
    rename(digits_run, WEIRD)
    path = write_report(digits_run)
    page = read_page(path)
    check_elements(page)
    check_self_contained(page)
    cells = page.inside("bdi")
    assert set(WEIRD) <= set(cells)
    assert page.inside("h1") or WEIRD[0] in cells
    drawn = page.inside("text")
    assert {"&amp;", "🦊", "عربي", "$x^2$", "👩‍🔬", "<script>alert…", "a" * 13 + "…"} <= set(drawn)
    alts = {image["alt"] for image in page.of("img")}
    assert f"Test example 12: label {WEIRD[0]}, predicted {WEIRD[9]}" in alts
    assert page.inside("title") == [f"{WEIRD[0]}: {100 * RunFolder(digits_run).read_record()['test_accuracy']:.2f}%"]
    assert "<script" not in path.read_text(encoding="utf-8")


def test_classes_are_in_the_data_set_s_order_also_if_printed_otherwise(digits_run):
    names = ["b\u202ez", *"aihgfedc", "j"]
    rename(digits_run, names)
    path = digits_run / "predictions.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("\u202e", "\ufffd"), encoding="utf-8")
    page = read_page(write_report(digits_run))
    assert [name for name in page.inside("bdi") if name in names][:10:9] != []
    assert "b\ufffdz" not in page.text
    ticks = [text for text in page.inside("text") if text in names]
    assert ticks == [*names, *names]


def test_a_hundred_classes(digits_run):
    names = [f"{number}" for number in range(10)] + [f"class {number}" for number in range(90)]
    rename(digits_run, names)
    path = write_report(digits_run)
    page = read_page(path)
    check_elements(page)
    check_self_contained(page)
    assert len(page.of("image")) == 1
    assert "class 89" in page.inside("bdi")
    assert path.stat().st_size < 500_000


def test_two_classes(digits_run):
    tensors, header = load_tensors(digits_run / "model.safetensors", "CKNClassifier")
    tensors |= {"head.weight": tensors["head.weight"][:1], "head.bias": tensors["head.bias"][:1]}
    header |= {"classes": [0, 1]}
    save_tensors(digits_run / "model.safetensors", tensors, header)
    rows = "".join(f"{n},{n % 2},{n % 3 % 2},0.5\n" for n in range(30))
    (digits_run / "predictions.csv").write_text("example,label,prediction,score_1\n" + rows)
    edit_record(digits_run, lambda r: (r["data"].update(classes=["0", "1"]), r.update(test_examples=30)))
    page = read_page(write_report(digits_run))
    check_elements(page)
    assert {"5", "10"} <= set(page.inside("text"))


# --- other images


@pytest.mark.parametrize("channels", [3, 4])
def test_coloured_images(digits_run, channels, generator):
    images = torch.rand(40, channels, 9, 7, generator=generator)
    y = np.arange(40) % 2
    model = CKNClassifier("3 exp(0.6) - | 3 arccos0 avg2", (5, 6), patches=300, random_state=0, alpha=1e-3)
    model.fit(images.numpy(), y).save(digits_run / "model.safetensors")
    (digits_run / "predictions.csv").write_text("example,label,prediction,score_1\n0,0,1,0.5\n")
    about = {"mistakes": [], "samples": [{"example": n, "label": str(y[n])} for n in range(20)]}
    pixels = (images[:20] * 255).to(torch.uint8)
    save_tensors(digits_run / "pictures.safetensors", {"samples": pixels}, {"kind": "Pictures", **about})
    edit_record(digits_run, lambda r: (r["data"].update(classes=["0", "1"]), r.update(test_examples=1)))
    page = read_page(write_report(digits_run))
    check_elements(page)
    assert ("the mean of 4 channels" in page.text) == (channels == 4)
    assert "has no Lipschitz constant at all" in page.text
    assert "∞" in page.inside("td")
    assert "Feature maps of layer 2, one row for each of 4 images" in [image["alt"] for image in page.of("img")]
