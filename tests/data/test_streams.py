"""Examples to predict on, batch by batch: from every source, with and without labels."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hilbertnet.data import Batch, IncompleteDataWarning, Stream, load, stream, streams

RED = np.zeros((4, 6, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
GREY = (np.arange(24) * 10).astype(np.uint8).reshape(4, 6)
X = np.random.RandomState(0).randint(0, 256, (7, 4, 5)).astype(np.uint8)
Y = np.array([9, 10, 3, 9, 10, 3, 3])


@pytest.fixture
def save(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "some.npz", **arrays)
        return tmp_path / "some.npz"

    return write


@pytest.fixture
def flat(photos):
    """A folder of five pictures without classes, each of one grey, and how to add one."""
    shutil.rmtree(photos.folder)
    for i in range(5):
        photos(f"{i}.png", np.full((4, 6), 51 * i, np.uint8))
    return photos


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded, as they are."""
    module = streams
    decode, seen = module.decode, []

    def spy(path, size):
        seen.append(path.name)
        return decode(path, size)

    monkeypatch.setattr(module, "decode", spy)
    return seen


def joined(examples, size=3):
    """All batches as one."""
    batches = list(examples.batches(size))
    assert [len(batch.x) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    for batch in batches:
        assert isinstance(batch, Batch)
        assert batch.x.shape == (len(batch.names), *examples.shape)
        assert batch.x.dtype == np.float32
        assert batch.x.flags.c_contiguous
        assert (batch.labels is not None) == examples.labelled
        assert batch.labels is None or len(batch.labels) == len(batch.x)
    names = [name for batch in batches for name in batch.names]
    assert len(names) == examples.total
    labels = [label for batch in batches for label in batch.labels] if examples.labelled else None
    return Batch(names, np.concatenate([batch.x for batch in batches]), labels)


def check_equals_load(examples, x, y, class_names):
    """The examples are `x`, and their labels the names of `y`."""
    whole = joined(examples)
    assert np.array_equal(whole.x, x)
    assert whole.labels == [class_names[label] for label in y]
    assert examples.total == len(x)
    assert examples.shape == x.shape[1:]
    assert examples.classes == tuple(class_names[label] for label in np.unique(y))
    return whole


def indices(n):
    return [str(i) for i in range(n)]


def test_digits_are_all_of_them():
    data = load("digits")
    for part in (None, "train"):
        examples = stream("digits", part=part)
        assert isinstance(examples, Stream)
        assert examples.name == "digits"
        assert check_equals_load(examples, data.x, data.y, data.class_names).names == indices(1797)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_official_test_set_comes_unless_the_other_part_is_asked_for(small, name):
    small.write_mnist()
    small.write_cifar()
    with pytest.warns(IncompleteDataWarning):
        data = load(name)
    for part in (None, "train", "test"):
        with pytest.warns(IncompleteDataWarning, match="of the .* official") as caught:
            examples = stream(name, part=part)
        assert [warning.filename for warning in caught] == [__file__]
        if part == "train":
            check_equals_load(examples, data.x, data.y, data.class_names)
        else:
            whole = check_equals_load(examples, data.test_x, data.test_y, data.class_names)
            assert whole.names == indices(10)


def test_only_the_classes_that_occur_are_named(small):
    small.mnist["t10k-labels-idx1-ubyte"] = np.array([7, 2] * 5, np.uint8)
    small.write_mnist()
    with pytest.warns(IncompleteDataWarning):
        examples = stream("mnist")
    assert examples.classes == ("2", "7")
    assert joined(examples).labels == ["7", "2"] * 5


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1000])
def test_batches_are_consecutive_and_come_again(flat, save, size):
    for source in (flat.folder, save(x=X[:5])):
        examples = stream(source)
        once, again = joined(examples, size), joined(examples, size)
        assert once.names == again.names
        assert np.array_equal(once.x, again.x)
        assert np.array_equal(once.x, joined(examples, 5).x)


def test_what_is_done_to_a_batch_is_not_done_to_the_data(flat, save):
    for source in (flat.folder, save(x=X)):
        examples = stream(source)
        before = joined(examples).x
        for batch in examples.batches(2):
            batch.x[:] = -1
        assert np.array_equal(joined(examples).x, before)


@pytest.mark.parametrize("size", [0, -1, 2.5, "3", None])
def test_the_size_of_a_batch_is_checked_at_once(size):
    with pytest.raises(ValueError, match="size: expected a positive whole number of examples for each batch, got "):
        stream("digits").batches(size)


@pytest.mark.parametrize("source", ["digitz", "no/such/folder", "", "a\0b"])
def test_what_there_is_not_is_refused_as_by_load(source):
    with pytest.raises(ValueError, match="DATA: expected one of") as expected:
        load(source)
    with pytest.raises(ValueError, match="DATA: expected one of") as got:
        stream(source)
    assert str(got.value) == str(expected.value)


@pytest.mark.parametrize(
    "options",
    [{"size": (0, 4)}, {"size": (4,)}, {"size": (4.5, 4)}, {"channels": 2}, {"size": (28, 28)}, {"channels": 3}],
)
def test_wishes_that_cannot_be_met_are_refused_as_by_load(options, save):
    for source in ("digits", save(x=X[:, :, :, None], y=Y)):
        with pytest.raises(ValueError, match=r"size: |channels: ") as expected:
            load(source, **options)
        with pytest.raises(ValueError, match=r"size: |channels: ") as got:
            stream(source, **options)
        assert str(got.value) == str(expected.value)


def test_wishes_that_are_met_already(save):
    assert stream("digits", size=(8, 8), channels=1).shape == (1, 8, 8)
    assert stream(save(x=X), size=(4, 5), channels=1).shape == (1, 4, 5)


@pytest.mark.parametrize("part", ["Test", "all", "", 0, "tr\nain"])
def test_other_words_are_no_part(part, photos, save):
    for source in ("digits", photos.folder, save(x=X, x_test=X)):
        with pytest.raises(ValueError, match="part: expected 'train' or 'test', got ") as caught:
            stream(source, part=part)
        assert "\n" not in str(caught.value)


def test_a_test_set_that_there_is_not_is_refused_by_name(photos, save):
    for source, name in (("digits", "digits"), (photos.folder, "photos"), (save(x=X, y=Y), r".*some\.npz")):
        with pytest.raises(ValueError, match=rf"^part: {name} has no official test set, got 'test'"):
            stream(source, part="test")


# .npz files


@pytest.mark.parametrize(
    "y", [Y, Y.astype(float), Y.astype(str), np.array([b"b", b"<a>"] * 3 + [b"b"]), np.array(["🐈", "🐕"] * 3 + ["🐈"])]
)
def test_labels_are_the_names_of_classes(save, y):
    source = save(x=X, y=y)
    data = load(source)
    examples = stream(source)
    assert examples.name == "some.npz"
    assert examples.classes == data.class_names
    assert check_equals_load(examples, data.x, data.y, data.class_names).names == indices(7)


@pytest.mark.parametrize("key", ["x", "x_train", "x_test"])
@pytest.mark.parametrize("shape", [(7, 4, 5), (7, 3, 4, 5), (7, 4, 5, 3)])
def test_images_without_labels(save, key, shape):
    x = np.random.RandomState(0).rand(*shape).astype(np.float32)
    examples = stream(save(**{key: x, "more": np.array([None], object)}))
    assert not examples.labelled
    assert examples.classes == ()
    whole = joined(examples)
    assert whole.names == indices(7)
    assert whole.labels is None
    assert np.array_equal(whole.x, load(save(x=x, y=Y)).x)


def test_a_test_set_in_a_file(save):
    source = save(x_train=X, y_train=Y, x_test=X[:2], y_test=np.array([3, 12]))
    data = load(source)
    for part in (None, "test"):
        check_equals_load(stream(source, part=part), data.test_x, data.test_y, data.class_names)
    check_equals_load(stream(source, part="train"), data.x, data.y, data.class_names)
    assert stream(source).classes == ("3", "12")


def test_each_part_may_lack_labels(save):
    source = save(x=X, y=Y, x_test=X[:2])
    assert not stream(source).labelled
    assert stream(source).total == 2
    assert stream(source, part="train").classes == ("3", "9", "10")
    source = save(x=X, x_test=X[:2], y_test=Y[:2])
    assert stream(source, part="test").classes == ("9", "10")
    assert not stream(source, part="train").labelled


def test_the_other_part_is_not_read(save):
    objects = np.array([None], object)
    assert stream(save(x=objects, y=objects, x_test=X, y_test=Y)).total == 7
    assert stream(save(x=X, y=Y, x_test=objects, y_test=objects), part="train").total == 7


WRONG = {
    "no x": ({"y": Y}, "expected one of x and x_train, got y$"),
    "nothing": ({}, "expected one of x and x_train, got nothing"),
    "two x": ({"x": X, "x_train": X}, "expected one of x and x_train, got both"),
    "two y": ({"x": X, "y": Y, "y_train": Y}, "expected one of y and y_train, got both"),
    "labels of no test": ({"x": X, "y_test": Y}, "expected x_test beside y_test, got x, y_test"),
    "objects in x": ({"x": np.array([{}], object)}, "x: expected an array of numbers, got an array of objects"),
    "objects in y": ({"x": X, "y": np.array([{}], object)}, "y: expected an array of numbers, got an array of obj"),
    "no image": ({"x": X[:0]}, "x: expected images"),
    "not divided": ({"x": X.astype(float)}, r"x: expected real numbers in \[0, 1\], got 0 to 254; divide"),
    "one-hot labels": ({"x": X, "y": np.eye(7)}, r"y: expected labels \(n,\), got shape \(7, 7\)"),
    "fewer labels": ({"x": X, "y": Y[1:]}, r"y: expected 7 labels, one for each example, got shape \(6,\)"),
    "fewer test labels": ({"x_test": X, "y_test": Y[1:]}, r"y_test: expected 7 labels, one for each example"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_in_a_file_is_refused_by_name(save, kind):
    arrays, message = WRONG[kind]
    with pytest.raises(ValueError, match=rf"some\.npz: .*{message}") as caught:
        stream(save(**arrays))
    assert "\n" not in str(caught.value)


def test_a_file_without_the_training_part_has_none(save):
    with pytest.raises(ValueError, match=r"some\.npz: expected one of x and x_train, got x_test"):
        stream(save(x_test=X), part="train")


def test_what_is_no_zip_is_refused_by_name(tmp_path):
    (tmp_path / "some.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"some\.npz: expected an \.npz file, which is a zip file"):
        stream(tmp_path / "some.npz")


# folders


@pytest.mark.parametrize("part", [None, "train"])
def test_a_folder_of_classes(photos, part):
    photos("ant/x.png", RED)
    data = load(photos.folder)
    examples = stream(photos.folder, part=part)
    assert examples.name == data.name == "photos"
    whole = check_equals_load(examples, data.x, data.y, data.class_names)
    assert whole.names == ["ant/x.png", "cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]


def test_a_folder_of_images(flat):
    examples = stream(flat.folder)
    assert (examples.name, examples.total, examples.shape, examples.classes) == ("photos", 5, (1, 4, 6), ())
    whole = joined(examples)
    assert whole.names == [f"{i}.png" for i in range(5)]
    assert whole.labels is None
    assert whole.x[:, 0, 0, 0] == pytest.approx(np.arange(5) / 5)


def test_the_folder_that_one_is_in(flat, monkeypatch):
    monkeypatch.chdir(flat.folder)
    assert stream(".").name == "photos"
    assert joined(stream(".")).names == joined(stream(flat.folder)).names
    (flat.folder / "digits").mkdir()
    flat("digits/0.png")
    assert stream("./digits").total == 1
    assert stream("digits").total == 1797


def test_images_are_decoded_when_their_batch_comes(flat, decoded):
    batches = stream(flat.folder).batches(2)
    assert decoded == ["0.png"]  # of which the shape is
    decoded.clear()
    assert next(batches).names == decoded == ["0.png", "1.png"]
    assert next(batches).names == decoded[2:] == ["2.png", "3.png"]
    assert len(decoded) == 4


def test_nothing_is_decoded_where_the_shape_is_given(flat, decoded):
    examples = stream(flat.folder, size=(2, 3), channels=3)
    assert (examples.total, examples.shape) == (5, (3, 2, 3))
    assert decoded == []
    assert joined(examples).x.shape == (5, 3, 2, 3)


def test_a_broken_image_is_refused_when_its_batch_comes(flat):
    (flat.folder / "3.png").write_bytes((flat.folder / "3.png").read_bytes()[:50])
    batches = stream(flat.folder).batches(2)
    assert next(batches).names == ["0.png", "1.png"]
    with pytest.raises(ValueError, match=r"photos/3\.png: expected an image, got ") as caught:
        next(batches)
    assert "\n" not in str(caught.value)


def test_an_image_that_is_gone_is_refused_when_its_batch_comes(flat):
    examples = stream(flat.folder)
    (flat.folder / "4.png").unlink()
    batches = examples.batches(4)
    assert len(next(batches).x) == 4
    with pytest.raises(ValueError, match=r"4\.png: expected an image, got "):
        next(batches)


def test_a_broken_first_image_is_refused_at_once(flat):
    (flat.folder / "0.png").write_text("I am no image")
    with pytest.raises(ValueError, match=r"0\.png: expected an image, got none that Pillow can read"):
        stream(flat.folder)


def test_sizes_that_differ_are_refused_by_two_names_as_by_load(photos):
    photos("dog/1.png", np.zeros((6, 4, 3), np.uint8))
    message = r"photos: expected images of one size, got .*cat/0\.png of 4 x 6 and .*dog/1\.png of 6 x 4; give a size"
    with pytest.raises(ValueError, match=message) as expected:
        load(photos.folder)
    batches = stream(photos.folder, channels=3).batches(3)
    next(batches)
    with pytest.raises(ValueError, match=message) as got:
        next(batches)
    assert str(got.value) == str(expected.value)


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("size", [None, (5, 5), (2, 9), [3, 3]])
def test_the_shape_that_is_asked_for(photos, size, channels):
    noise = np.random.RandomState(0).randint(0, 256, (4, 6, 3)).astype(np.uint8)
    photos("cat/0.png", noise)
    if size:
        photos("dog/9.png", np.tile(noise, (2, 3, 1)))
    data = load(photos.folder, size=size, channels=channels)
    check_equals_load(stream(photos.folder, size=size, channels=channels), data.x, data.y, data.class_names)


def test_grey_images_after_a_coloured_one_are_coloured(flat):
    flat("0.png", RED)
    examples = stream(flat.folder)
    assert examples.shape == (3, 4, 6)
    x = joined(examples).x
    assert x[0].mean((1, 2)).tolist() == [1, 0, 0]
    assert x[4] == pytest.approx(0.8)


def test_a_coloured_image_after_a_grey_one_is_refused_unless_channels_are_given(flat):
    flat("3.png", RED)
    batches = stream(flat.folder).batches(2)
    next(batches)
    message = r"photos: expected grey images, as the first is, .*0\.png, got .*3\.png in colour; give channels, 1 to "
    with pytest.raises(ValueError, match=message):
        next(batches)
    assert joined(stream(flat.folder, channels=1)).x[3] == pytest.approx(0.299)
    assert joined(stream(flat.folder, channels=3)).x[3].mean((1, 2)).tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match=message):
        list(stream(flat.folder, size=(2, 2)).batches())


def test_sixteen_bits_transparency_and_exif_are_as_by_load(photos):
    photos("ant/0.png", GREY.astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    photos("ant/1.png", np.ascontiguousarray(np.rot90(GREY)), exif=exif)
    alpha = np.zeros((4, 6, 4), np.uint8)
    alpha[:, 3:] = [255, 0, 0, 255]
    photos("ant/2.png", alpha)
    data = load(photos.folder)
    check_equals_load(stream(photos.folder, channels=3), data.x, data.y, data.class_names)


def test_an_image_is_known_by_its_content(flat):
    flat("a name without suffix", GREY, format="BMP")
    assert joined(stream(flat.folder)).names[-1] == "a name without suffix"


def test_hidden_files_are_passed_over(photos, tmp_path):
    for name in (".DS_Store", "cat/.DS_Store", "cat/Thumbs.db", "dog/desktop.ini", "readme.txt"):
        (photos.folder / name).write_text("no image")
    (photos.folder / ".git").mkdir()
    (photos.folder / "__MACOSX").mkdir()
    assert joined(stream(photos.folder)).names == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    shutil.move(photos.folder / "cat", tmp_path / "flat")
    (tmp_path / "flat" / ".git").mkdir()
    assert joined(stream(tmp_path / "flat")).names == ["0.png", "1.png"]


NAMES = ["<script>alert(1)<:script>", "🐈 cat", "naïve", "a b'c\"d", "日本", "caf\u00e9", "%s {0}"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_of_files_and_folders(photos, name):
    shutil.rmtree(photos.folder)
    photos(f"{name}/{name}.png")
    whole = joined(stream(photos.folder))
    assert whole.names == [f"{name}/{name}.png"]
    assert whole.labels == [name]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("two\nlines", "two\ufffdlines"), ("\x1b[31mred", "\ufffd[31mred"), ("\u202egnp", "\ufffdgnp")],
)
def test_names_are_on_one_line(flat, name, shown):
    shutil.rmtree(flat.folder)
    flat(f"{name}.png")
    assert joined(stream(flat.folder)).names == [f"{shown}.png"]
    (flat.folder / f"{name}.png").write_text("no image")
    with pytest.raises(ValueError, match="expected an image") as caught:
        list(stream(flat.folder, size=(2, 2), channels=1).batches())
    assert "\n" not in str(caught.value)


def test_a_class_is_one_text_however_it_is_composed(photos):
    photos("caf\u0065\u0301/0.png")
    assert stream(photos.folder).classes[0] == "caf\u00e9"
    photos("caf\u00e9/0.png")
    if len(list(photos.folder.iterdir())) == 3:
        pytest.skip("this file system takes both for one name")
    with pytest.raises(ValueError, match="photos: expected one folder for each class, got two .* the same text: café"):
        stream(photos.folder)


@pytest.mark.skipif(os.name == "nt", reason="names of bytes are POSIX's")
def test_names_that_are_no_text_are_still_printable(photos):
    folder = os.path.join(os.fsencode(photos.folder), b"caf\xe9")
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system takes text only")
    os.rename(photos.folder / "dog" / "0.png", os.path.join(folder, b"\xff.png"))
    examples = stream(photos.folder)
    whole = joined(examples)
    assert examples.classes == ("caf\ufffd", "cat", "dog")
    assert whole.names[0] == "caf\ufffd/\ufffd.png"
    assert whole.labels[0] == "caf\ufffd"
    assert "".join(whole.names + whole.labels).encode()
    assert np.array_equal(whole.x, load(photos.folder).x)
    flat = joined(stream(os.fsdecode(folder)))
    assert flat.names == ["\ufffd.png"]


def a_mixture(photos):
    photos("0.png")
    return (
        r"photos: expected images all in sub-folders, one for each class, or all directly inside, got both: the image "
        r"0\.png and the sub-folder cat$"
    )


def a_mixture_of_odd_names(photos):
    photos("two\nlines.png")
    return "got both: the image two\ufffdlines.png and the sub-folder cat$"


def an_empty_folder(photos):
    shutil.rmtree(photos.folder)
    photos.folder.mkdir()
    return "photos: expected images, or one sub-folder of images for each class, got an empty folder$"


def a_folder_of_hidden_files(photos):
    an_empty_folder(photos)
    (photos.folder / ".hidden.png").write_text("")
    (photos.folder / "Thumbs.db").write_text("")
    return "photos: expected images, or one sub-folder"


def a_class_without_image(photos):
    (photos.folder / "eel").mkdir()
    return "photos/eel: expected at least one image in the folder of a class, got none"


def a_folder_of_folders(photos):
    photos("train/cat/0.png")
    return "photos/train/cat: expected images only inside the folder of a class, got a folder"


def a_link_to_nowhere(photos):
    (photos.folder / "cat" / "gone.png").symlink_to(photos.folder / "nowhere.png")
    return r"cat/gone\.png: neither a file nor a folder, or a link that leads nowhere"


def a_pipe(photos):
    os.mkfifo(photos.folder / "pipe.png")
    return r"photos/pipe\.png: neither a file nor a folder"


BREAK = [
    a_mixture, a_mixture_of_odd_names, an_empty_folder, a_folder_of_hidden_files, a_class_without_image,
    a_folder_of_folders, a_link_to_nowhere, a_pipe,
]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="links and pipes are POSIX's")
@pytest.mark.parametrize("damage", BREAK, ids=lambda damage: damage.__name__)
def test_what_is_wrong_in_a_folder_is_refused_by_name_at_once(photos, decoded, damage):
    message = damage(photos)
    with pytest.raises(ValueError, match=message) as caught:
        stream(photos.folder)
    assert "\n" not in str(caught.value)
    assert decoded == []


def test_a_file_that_is_no_image_beside_images_is_refused_when_its_batch_comes(flat):
    (flat.folder / "notes.txt").write_text("which cats these are")
    batches = stream(flat.folder).batches(5)
    next(batches)
    with pytest.raises(ValueError, match=r"notes\.txt: expected an image, got none that Pillow can read"):
        next(batches)


def test_a_batch_larger_than_memory_is_refused_before_it_is_read(flat, monkeypatch, decoded):
    monkeypatch.setattr("hilbertnet.data.memory._machine_memory", lambda: 200.0)  # bytes: two images
    examples = stream(flat.folder)
    decoded.clear()
    with pytest.raises(ValueError, match="photos: 3 x 1 x 4 x 6 numbers take .*: take smaller batches"):
        examples.batches(3)
    assert decoded == []
    assert len(joined(examples, 2).x) == 5


def test_many_files_are_listed_without_being_opened(photos, decoded):
    shutil.rmtree(photos.folder)
    photos.folder.mkdir()
    for i in range(2000):
        (photos.folder / f"{i:04d}.png").touch()
    flat = stream(photos.folder, size=(32, 32), channels=3)
    assert flat.total == 2000
    batches = flat.batches(2**10)
    assert decoded == []
    with pytest.raises(ValueError, match=r"0000\.png: expected an image"):
        next(batches)
    assert decoded == ["0000.png"]


def test_a_flat_folder_is_read_by_a_fresh_process(tmp_path):
    """Pillow learns its formats when asked to, which another test may have done for this process."""
    Image.new("L", (5, 4), 9).save(tmp_path / "a.png")
    code = f"from hilbertnet.data import stream; print(stream({str(tmp_path)!r}).shape)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "(1, 4, 5)\n"
