"""Folders that hold no run, half a run, or several runs."""

import shutil

import pytest
from reading import check_elements, check_self_contained, edit_record, read_page

from hilbertnet.records import load_tensors, save_tensors
from hilbertnet.report import write_report


def test_an_unfinished_folder_is_refused(tmp_path, digits_run):
    with pytest.raises(ValueError, match=r"expected a finished run, found no record\.json"):
        write_report(tmp_path / "nothing")
    (digits_run / "record.json").unlink()
    with pytest.raises(ValueError, match=r"expected a finished run, found no record\.json"):
        write_report(digits_run)
    assert not (digits_run / "report.html").exists()


def test_the_record_of_something_else_is_refused(digits_run):
    (digits_run / "record.json").write_text('{"kernel": "ntk"}')
    with pytest.raises(
        ValueError, match=r"record\.json: expected the record of a fitted model, found no test_accuracy"
    ):
        write_report(digits_run)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected columns example,label,prediction"),
        ("a,b\n1,2\n", "expected columns example,label,prediction"),
        ("example,label,prediction\n0,1,1\n", "expected .* predictions, as the record says, got 1"),
    ],
)
def test_predictions_that_are_not_whole_are_refused(digits_run, text, says):
    (digits_run / "predictions.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"predictions\.csv: {says}"):
        write_report(digits_run)


def test_absent_predictions_are_named(digits_run):
    (digits_run / "predictions.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"predictions\.csv"):
        write_report(digits_run)


def test_pictures_without_their_captions_are_refused(digits_run):
    path = digits_run / "pictures.safetensors"
    tensors, header = load_tensors(path, "Pictures")
    save_tensors(path, tensors, header | {"mistakes": header["mistakes"][:1]})
    with pytest.raises(ValueError, match=r"pictures\.safetensors: expected a line about each of 3 mistakes, got 1"):
        write_report(digits_run)


# --- seeds


@pytest.fixture
def seeds_folder(fitted_digits, tmp_path):
    folder = tmp_path / "runs of <b>digits</b>"
    for seed, accuracy in ((2, 0.9), (10, 0.8), (0, 0.7)):
        place = folder / f"seed-{seed}"
        shutil.copytree(fitted_digits, place)
        edit_record(place, lambda r, a=accuracy, s=seed: (r.update(test_accuracy=a), r["settings"].update(seed=s)))
    return folder


def test_seeds_have_a_table_and_a_page_each(seeds_folder):
    path = write_report(seeds_folder)
    assert path == seeds_folder / "report.html"
    page = read_page(path)
    check_elements(page)
    check_self_contained(page)
    assert "80.00%" in page.inside("p")
    assert "standard deviation 10.00" in page.text
    assert [link["href"] for link in page.of("a")] == [f"seed-{seed}/report.html" for seed in (0, 2, 10)]
    for seed in (0, 2, 10):
        assert f"seed {seed};" not in page.text
        assert f"; seed {seed}" in read_page(seeds_folder / f"seed-{seed}" / "report.html").text


def test_links_are_relative_to_where_the_table_is(seeds_folder, tmp_path):
    out = write_report(seeds_folder, tmp_path / "pages" / "all.html")
    links = [link["href"] for link in read_page(out).of("a")]
    assert links[0] == "../runs%20of%20%3Cb%3Edigits%3C/b%3E/seed-0/report.html"


def test_unfinished_seeds_are_left_out_and_named(seeds_folder):
    (seeds_folder / "seed-2" / "record.json").unlink()
    (seeds_folder / "seed-10" / "record.json").unlink()
    page = read_page(write_report(seeds_folder))
    assert "Not finished, and left out: seed-2, seed-10." in page.text
    assert "standard deviation 10" not in page.text
    assert not (seeds_folder / "seed-2" / "report.html").exists()
    (seeds_folder / "seed-0" / "record.json").unlink()
    with pytest.raises(ValueError, match=r"expected a finished run, found no record\.json"):
        write_report(seeds_folder)
