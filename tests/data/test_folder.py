"""A folder of images by class: what is read, and what is refused by name."""

import os
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image, features

from hilbertnet.data import load, split

RED = np.zeros((4, 6, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
GREY = (np.arange(24) * 10).astype(np.uint8).reshape(4, 6)


def test_classes_are_sorted_and_pixels_are_in_the_unit_interval(photos):
    photos("ant/x.png", RED)
    data = load(photos.folder)
    assert str(data) == "photos: 5 3-channel images of 4 x 6, 3 classes"
    assert data.class_names == ("ant", "cat", "dog")
    assert data.y.tolist() == [0, 1, 1, 2, 2]
    assert data.x.shape == (5, 3, 4, 6)
    assert data.x.dtype == np.float32
    assert data.x[0].mean((1, 2)).tolist() == [1, 0, 0]
    assert data.x[2] == pytest.approx(0.2)
    assert data.test_x is None
    assert data.to_dict()["official"] == {}


FORMATS = {
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "PPM": {},
    "TGA": {},
    "GIF": {},
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 100, "subsampling": 0},
}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_are_known_by_content(photos, kind):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("Pillow was built without WebP")
    suffix = "tga" if kind == "TGA" else "picture"  # TGA has no magic number that is sure
    photos(f"ant/odd name.{suffix}", RED, format=kind, **FORMATS[kind])
    data = load(photos.folder)
    assert data.x[0].mean((1, 2)) == pytest.approx([1, 0, 0], abs=0.02)


def test_many_photos_of_two_formats_and_sizes(tmp_path):
    rng = np.random.RandomState(0)
    for i in range(30):
        path = tmp_path / "data" / f"class {i % 3}" / f"{i}.{'png' if i % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.randint(0, 256, (20 + i, 50 - i, 3)).astype(np.uint8)).save(path)
    data = load(tmp_path / "data", size=(16, 12))
    assert data.x.shape == (30, 3, 16, 12)
    assert data.x.min() >= 0
    assert data.x.max() <= 1
    assert abs(data.x.mean() - 0.5) < 0.02


def test_sizes_that_differ_are_refused_by_two_names(photos):
    photos("dog/9.png", np.zeros((6, 4, 3), np.uint8))
    message = r"photos: expected images of one size, got .*cat/0\.png of 4 x 6 and .*dog/9\.png of 6 x 4; give a size"
    with pytest.raises(ValueError, match=message):
        load(photos.folder)
    assert load(photos.folder, size=(5, 5)).x.shape == (5, 3, 5, 5)


def test_a_resized_image_is_averaged(photos):
    shutil.rmtree(photos.folder)
    photos("a/0.png", np.kron(np.array([[0, 255], [255, 0]]), np.ones((8, 8))).astype(np.uint8))
    small = load(photos.folder, size=(2, 2)).x[0, 0]
    assert small == pytest.approx(np.array([[0.2, 0.8], [0.8, 0.2]]), abs=0.05)


def test_grey_stays_grey_unless_there_is_colour(photos):
    shutil.rmtree(photos.folder)
    photos("a/0.png", GREY)
    assert load(photos.folder).x.shape == (1, 1, 4, 6)
    assert np.array_equal(load(photos.folder).x[0, 0], GREY / np.float32(255))
    assert load(photos.folder, channels=3).x.shape == (1, 3, 4, 6)
    photos("b/0.png", RED)
    data = load(photos.folder)
    assert data.x.shape == (2, 3, 4, 6)
    assert np.array_equal(data.x[0], np.repeat(GREY[None] / np.float32(255), 3, axis=0))
    grey = load(photos.folder, channels=1)
    assert grey.x.shape == (2, 1, 4, 6)
    assert grey.x[1] == pytest.approx(0.299)


def test_sixteen_bits_black_and_white_and_palettes(photos):
    shutil.rmtree(photos.folder)
    photos("a/0.png", GREY.astype(np.uint16) * 257)
    photos("a/1.png", GREY > 99)
    data = load(photos.folder)
    assert data.x[0, 0] == pytest.approx(GREY / 255)
    assert np.array_equal(data.x[1, 0], GREY > 99)
    Image.fromarray(RED).convert("P").save(photos.folder / "a" / "2.png")
    Image.fromarray(RED).convert("CMYK").save(photos.folder / "a" / "3.tif")
    data = load(photos.folder)
    assert data.x[2:].mean((2, 3)) == pytest.approx(np.array([[1, 0, 0], [1, 0, 0]]), abs=0.02)


def test_transparent_pixels_are_on_white(photos):
    shutil.rmtree(photos.folder)
    alpha = np.zeros((4, 6, 4), np.uint8)
    alpha[:, 3:] = [255, 0, 0, 255]
    photos("a/0.png", alpha)
    assert load(photos.folder).x[0, :, 0, [0, 5]].tolist() == [[1, 1, 1], [1, 0, 0]]
    shutil.rmtree(photos.folder)
    photos("a/0.png", np.stack([GREY, np.where(GREY > 99, 255, 0).astype(np.uint8)], axis=2))
    grey = load(photos.folder).x
    assert grey.shape == (1, 1, 4, 6)
    assert np.array_equal(grey[0, 0], np.where(GREY > 99, GREY, 255) / np.float32(255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_exif_says(photos, orientation):
    shutil.rmtree(photos.folder)
    turned = {
        1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T,
        6: np.rot90(GREY), 7: GREY[::-1, ::-1].T, 8: np.rot90(GREY, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    photos("a/0.png", np.ascontiguousarray(turned), exif=exif)
    assert np.array_equal(load(photos.folder).x[0, 0], GREY / np.float32(255))


def test_hidden_files_are_passed_over(photos):
    for name in (".DS_Store", "cat/.DS_Store", "cat/Thumbs.db", "dog/desktop.ini", "readme.txt"):
        (photos.folder / name).write_text("no image")
    (photos.folder / ".git").mkdir()
    (photos.folder / "__MACOSX").mkdir()
    assert len(load(photos.folder).x) == 4


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>".replace("/", ":"), "🐈‍⬛ cat", "naïve", "a b'c\"d", "日本"]
)
def test_a_class_has_the_name_of_its_folder(photos, name):
    photos(f"{name}/0.png")
    data = load(photos.folder)
    assert name in data.class_names
    assert "\n" not in str(data)


def test_names_are_one_text_however_they_are_composed(photos):
    photos("caf\u0065\u0301/0.png")
    assert load(photos.folder).class_names[0] == "caf\u00e9"
    photos("caf\u00e9/0.png")
    if len(list(photos.folder.iterdir())) == 3:
        pytest.skip("this file system takes both for one name")
    with pytest.raises(ValueError, match="photos: expected one folder for each class, got two .* the same text: café"):
        load(photos.folder)


@pytest.mark.skipif(os.name == "nt", reason="names of bytes are POSIX's")
def test_a_name_that_is_no_text_is_still_printable(photos, tmp_path):
    path = os.path.join(os.fsencode(photos.folder), b"caf\xe9\n")
    try:
        os.mkdir(path)
    except OSError:
        pytest.skip("this file system takes text only")
    with pytest.raises(ValueError, match="caf��: expected at least one image") as caught:
        load(photos.folder)
    assert str(caught.value).encode()
    os.rename(photos("x/0.png"), os.path.join(path, b"0.png"))
    (photos.folder / "x").rmdir()
    assert load(photos.folder).class_names[0] == "caf\ufffd\n"


def an_image_without_class(photos):
    photos("0.png")
    return r"photos/0\.png: expected images in sub-folders, one for each class"


def a_class_without_image(photos):
    (photos.folder / "eel").mkdir()
    return r"photos/eel: expected at least one image in the folder of a class, got none"


def a_class_of_hidden_files(photos):
    (photos.folder / "eel").mkdir()
    (photos.folder / "eel" / ".hidden.png").write_text("")
    return r"photos/eel: expected at least one image"


def a_folder_of_folders(photos):
    photos("train/cat/0.png")
    return r"photos/train/cat: expected images only inside the folder of a class, got a folder"


def a_link_to_itself(photos):
    (photos.folder / "cat" / "loop.png").symlink_to("loop.png")
    return r"cat/loop\.png: neither a file nor a folder, or a link that leads nowhere"


def a_class_that_links_to_itself(photos):
    (photos.folder / "eel").symlink_to("eel")
    return r"photos/eel: neither a file nor a folder, or a link that leads nowhere"


def links_in_a_circle(photos):
    (photos.folder / "eel").symlink_to("fox")
    (photos.folder / "fox").symlink_to("eel")
    return r"photos/eel: neither a file nor a folder"


def a_class_that_links_above(photos):
    (photos.folder / "eel").symlink_to(photos.folder)
    return r"photos/eel/cat: expected images only"


def a_link_above_in_a_class(photos):
    (photos.folder / "cat" / "up").symlink_to(photos.folder)
    return r"cat/up: expected images only"


def a_link_to_nowhere(photos):
    (photos.folder / "cat" / "gone.png").symlink_to(photos.folder / "nowhere.png")
    return r"cat/gone\.png: neither a file nor a folder"


def a_pipe(photos):
    os.mkfifo(photos.folder / "cat" / "pipe.png")
    return r"cat/pipe\.png: neither a file nor a folder"


def a_text(photos):
    (photos.folder / "cat" / "text.png").write_text("I am no image")
    return r"cat/text\.png: expected an image, got none that Pillow can read"


def a_note(photos):
    (photos.folder / "cat" / "notes.txt").write_text("which cats these are")
    return r"cat/notes\.txt: expected an image"


def nothing(photos):
    (photos.folder / "cat" / "empty.jpg").write_bytes(b"")
    return r"cat/empty\.jpg: expected an image"


def postscript(photos):
    (photos.folder / "cat" / "page.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\nshowpage\n")
    return r"cat/page\.eps: expected an image, got none that Pillow can read"


def thirty_two_bits(photos):
    Image.fromarray(np.zeros((4, 6), np.float32)).save(photos.folder / "cat" / "float.tif")
    return r"cat/float\.tif: expected an image, got 32 bits for each pixel"


def a_bomb(photos):
    path = photos("cat/bomb.png")
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    return r"cat/bomb\.png: expected an image, got .*pixels"


def pixels_by_the_million(photos):
    Image.new("1", (9000, 9000)).save(photos.folder / "cat" / "large.png")
    return r"cat/large\.png: expected an image, got 9000 x 9000 pixels, which is too much"


BREAK = [
    an_image_without_class, a_class_without_image, a_class_of_hidden_files, a_folder_of_folders, a_link_to_itself,
    a_class_that_links_to_itself, links_in_a_circle, a_class_that_links_above, a_link_above_in_a_class,
    a_link_to_nowhere, a_pipe, a_text, a_note, nothing, postscript, thirty_two_bits, a_bomb, pixels_by_the_million,
]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="links and pipes are POSIX's")
@pytest.mark.parametrize("damage", BREAK, ids=lambda damage: damage.__name__)
def test_what_is_wrong_is_refused_by_name(photos, damage):
    message = damage(photos)
    with pytest.raises(ValueError, match=message) as caught:
        load(photos.folder)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path.name}: expected one sub-folder of images for each class, got no"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_cut_image_is_refused_by_name(photos, kind, share):
    noise = np.random.RandomState(0).randint(0, 256, (4, 6, 3)).astype(np.uint8)
    path = photos("cat/cut", noise, format=kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"cat/cut: expected an image, got "):
        load(photos.folder)


def test_links_to_images_and_to_classes_are_images_and_classes(photos, tmp_path):
    shutil.move(photos.folder / "dog", tmp_path / "elsewhere")
    (photos.folder / "dog").symlink_to(tmp_path / "elsewhere")
    (photos.folder / "cat" / "2.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    data = load(photos.folder)
    assert data.class_names == ("cat", "dog")
    assert data.y.tolist() == [0, 0, 0, 1, 1]


def test_a_class_with_one_image_is_refused_when_it_is_split(photos):
    photos("eel/0.png")
    data = load(photos.folder)
    with pytest.raises(ValueError, match="expected at least two examples of every class, got a class with one: eel"):
        split(data.y, 0.5, 0, class_names=data.class_names)


def test_more_than_memory_is_refused_before_it_is_read(photos, monkeypatch):
    monkeypatch.setattr("hilbertnet.data.memory._machine_memory", lambda: 1000.0)
    with pytest.raises(ValueError, match=r"photos: 4 x 4 x 6 x 3 numbers take 1\.15 kB of 1 kB: load fewer"):
        load(photos.folder)
