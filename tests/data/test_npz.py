"""An .npz file: what its arrays may be, and what is refused by name."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbertnet.data import load

X = np.random.RandomState(0).randint(0, 256, (6, 4, 5)).astype(np.uint8)
X[0, 0, :2] = 0, 255
Y = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def save(tmp_path):
    def write(name="some.npz", **arrays):
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return write


def test_bytes_become_the_unit_interval(save):
    data = load(save(x=X, y=Y))
    assert str(data) == "some.npz: 6 grey images of 4 x 5, 3 classes"
    assert np.array_equal(data.x[:, 0], X / np.float32(255))
    assert data.x.dtype == np.float32
    assert data.y.tolist() == Y.tolist()
    assert data.class_names == ("0", "1", "2")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64, ">i4"])
def test_whole_numbers_are_pixels_of_a_byte(save, dtype):
    assert np.array_equal(load(save(x=X.astype(dtype), y=Y)).x[:, 0], X / np.float32(255))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_real_numbers_are_kept(save, dtype):
    x = (X / 255).astype(dtype)
    assert np.array_equal(load(save(x=x, y=Y)).x[:, 0], x.astype(np.float32))


def test_truth_is_one(save):
    assert np.array_equal(load(save(x=X > 99, y=Y)).x[:, 0], X > 99)


LAYOUTS = [
    ((2, 4, 5), (2, 1, 4, 5)),
    ((2, 1, 4, 5), (2, 1, 4, 5)),
    ((2, 4, 5, 1), (2, 1, 4, 5)),
    ((2, 3, 4, 5), (2, 3, 4, 5)),
    ((2, 7, 5, 3), (2, 3, 7, 5)),
    ((2, 13, 8, 8), (2, 13, 8, 8)),
    ((2, 3, 32, 3), (2, 3, 32, 3)),  # both could be channels: the house's own layout
    ((2, 1, 28, 1), (2, 1, 28, 1)),
    ((2, 8, 3, 8), (2, 8, 3, 8)),
]


@pytest.mark.parametrize(("shape", "expected"), LAYOUTS)
def test_four_axes_are_resolved_by_rule(save, shape, expected):
    x = np.random.RandomState(0).rand(*shape).astype(np.float32)
    data = load(save(x=x, y=np.arange(2)))
    assert data.x.shape == expected
    assert data.x.flags.c_contiguous
    if len(shape) == 4 and shape != expected:
        assert np.array_equal(data.x, np.moveaxis(x, -1, 1))
    else:
        assert np.array_equal(data.x.ravel(), x.ravel())


@pytest.mark.parametrize(
    ("y", "names", "labels"),
    [
        (np.array([7, 3, 7, 3, 3, 3]), ("3", "7"), [1, 0, 1, 0, 0, 0]),
        (np.array([-1, 1, 1, 1, 1, 1]), ("-1", "1"), [0, 1, 1, 1, 1, 1]),
        (np.array(list("bacabc")), ("a", "b", "c"), [1, 0, 2, 0, 1, 2]),
        (np.array([b"<b>", b"a", b"a", b"a", b"a", b"a"]), ("<b>", "a"), [0, 1, 1, 1, 1, 1]),
        (np.array(["🐈", "🐕"] * 3), ("🐈", "🐕"), [0, 1] * 3),
        (np.array([2.0, 1.0] * 3), ("1", "2"), [1, 0] * 3),
        (np.array([True, False] * 3), ("0", "1"), [1, 0] * 3),
        (Y[:, None], ("0", "1", "2"), Y.tolist()),
    ],
)
def test_labels_are_places_in_the_names_of_classes(save, y, names, labels):
    data = load(save(x=X, y=y))
    assert data.class_names == names
    assert data.y.tolist() == labels
    assert data.y.dtype == np.int64


def test_an_official_test_set_and_other_spellings(save):
    data = load(save(x_train=X, y_train=Y, x_test=X[:2], y_test=np.array([2, 5]), more=np.array([None], object)))
    assert str(data) == "some.npz: 6 grey images of 4 x 5 and 2 official test images, 4 classes"
    assert data.class_names == ("0", "1", "2", "5")
    assert data.test_y.tolist() == [2, 3]
    assert np.array_equal(data.test_x, data.x[:2])


def test_rows_are_signals_of_one_position(save):
    rows = np.array([[0.5, -3.0, 400.0]] * 6)
    data = load(save(x=rows, y=Y, x_test=rows[:2], y_test=Y[:2]))
    assert str(data) == "some.npz: 6 rows of 3 numbers and 2 official test rows, 3 classes"
    assert data.kind == data.to_dict()["kind"] == "rows"
    assert data.x.dtype == np.float32
    np.testing.assert_array_equal(data.x[:, :, 0], rows)
    assert load(save(x=rows.astype(int), y=Y), axes=1).x[0, 2, 0] == 400


def test_signals_are_asked_for_by_their_one_axis(save):
    signals = np.random.RandomState(0).randn(6, 2, 7)
    data = load(save(x=signals, y=Y), axes=1)
    assert str(data) == "some.npz: 6 2-channel signals of 7 positions, 3 classes"
    assert data.kind == "signals"
    np.testing.assert_array_equal(data.x, signals.astype(np.float32))
    assert load(save(x=abs(signals) % 1, y=Y), axes=2).kind == "images"
    for x, axes, message in (
        (signals, None, r"x: expected real numbers in \[0, 1\]"),
        (signals[:, :, :, None], 1, r"x: expected signals \(n, channels, length\) or rows .*, as axes is 1"),
        (signals[:, :, 0], 2, r"x: expected images \(n, height, width\), .*\(n, height, width, channels\), got"),
        (signals, 3, r"axes: expected 1 \(signals\) or 2 \(images\), got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            load(save(x=x, y=Y), axes=axes)


def test_a_compressed_file_of_zeros(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros((1000, 28, 28), np.uint8), y=np.arange(1000) % 10)
    assert load(tmp_path / "zeros.npz").x.max() == 0


OBJECTS = np.array([{}, None], object)
WRONG = {
    "no x": ({"y": Y}, "expected one of x and x_train, got y$"),
    "no y": ({"x": X}, "expected one of y and y_train, got x$"),
    "nothing": ({}, "expected one of x and x_train, got nothing"),
    "two x": ({"x": X, "x_train": X, "y": Y}, "expected one of x and x_train, got both"),
    "half a test set": ({"x": X, "y": Y, "x_test": X}, "expected both of x_test and y_test or neither, got x_test"),
    "objects in x": ({"x": OBJECTS, "y": Y}, "x: expected an array of numbers, got an array of objects"),
    "objects in y": ({"x": X, "y": OBJECTS}, "y: expected an array of numbers, got an array of objects"),
    "one axis": ({"x": X[0, 0], "y": Y}, r"x: expected images \(n, height, width\), .*, or rows .*, got shape \(5,\)"),
    "fewer rows": ({"x": X[0], "y": Y}, r"y: expected 4 labels, one for each example, got shape \(6,\)"),
    "rows not finite": ({"x": np.full((6, 2), np.nan), "y": Y}, "x: expected finite numbers, as float32 has them"),
    "rows too large": ({"x": np.full((6, 2), 1e40), "y": Y}, "x: expected finite numbers, as float32 has them"),
    "rows of complex numbers": ({"x": np.full((6, 2), 1j), "y": Y}, "x: expected numbers, got complex128"),
    "five axes": ({"x": X[None, None], "y": Y}, "x: expected images"),
    "no image": ({"x": X[:0], "y": Y[:0]}, "x: expected images"),
    "text as x": ({"x": X.astype(str), "y": Y}, "x: expected numbers, got <U"),
    "complex": ({"x": X * 1j, "y": Y}, "x: expected numbers, got complex128"),
    "more than a byte": ({"x": X.astype(int) + 1, "y": Y}, "x: expected whole numbers 0 to 255, got 1 to 256"),
    "less than nothing": ({"x": X.astype(int) - 1, "y": Y}, "x: expected whole numbers 0 to 255, got -1 to 254"),
    "not divided": ({"x": X.astype(float), "y": Y}, r"x: expected real numbers in \[0, 1\], got 0 to 255; divide"),
    "centred": ({"x": X / 255 - 0.5, "y": Y}, r"x: expected real numbers in \[0, 1\], got -0.5 to 0.5"),
    "NaN": ({"x": np.where(X > 9, np.nan, 0), "y": Y}, r"x: expected real numbers in \[0, 1\], got nan"),
    "infinity": ({"x": np.where(X > 9, np.inf, 0), "y": Y}, r"x: expected real numbers in \[0, 1\], got 0 to inf"),
    "fewer labels": ({"x": X, "y": Y[1:]}, r"y: expected 6 labels, one for each example, got shape \(5,\)"),
    "one-hot labels": ({"x": X, "y": np.eye(3)[Y]}, r"y: expected labels \(n,\), got shape \(6, 3\)"),
    "one label": ({"x": X, "y": np.array(1)}, r"y: expected labels \(n,\), got shape \(\)"),
    "real labels": ({"x": X, "y": Y + 0.5}, "y: expected labels as whole numbers or text, got float64"),
    "NaN labels": ({"x": X, "y": Y * np.nan}, "y: expected labels as whole numbers or text, got float64"),
    "dates": ({"x": X, "y": Y.astype("M8[D]")}, "y: expected labels as whole numbers or text, got datetime64"),
    "two kinds of labels": (
        {"x": X, "y": Y, "x_test": X, "y_test": Y.astype(str)},
        "expected y and y_test both as whole numbers or both as text",
    ),
    "other test images": ({"x": X, "y": Y, "x_test": X[:, 1:], "y_test": Y}, "test_x: expected shape"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_refused_by_name(save, kind):
    arrays, message = WRONG[kind]
    with pytest.raises(ValueError, match=rf"some\.npz: .*{message}") as caught:
        load(save(**arrays))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04", b"PK\x05\x06" + bytes(10), b"\x93NUMPY\x01\x00"])
def test_what_is_no_zip_is_refused_by_name(tmp_path, content):
    path = tmp_path / "some.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"some\.npz: expected an \.npz file, which is a zip file"):
        load(path)


def header(text, version=(1, 0)):
    text = text.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text


HEADERS = {
    "terabytes": header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000)}"),
    "negative": header("{'descr': '|u1', 'fortran_order': False, 'shape': (-2, -3)}") + bytes(6),
    "no shape": header("{'descr': '|u1', 'fortran_order': False}"),
    "a program": header("__import__('os').abort()"),
    "nested": header("(" * 5000),
    "pickle": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + b"cos\nabort\n(tR.",
    "version 3": header("{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}", (3, 0)) + b"0",
    "version 9": header("{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}", (9, 0)) + b"0",
    "cut": header("{'descr': '|u1', 'fortran_order': False, 'shape': (6, 4, 5)}")[:30],
    "short": header("{'descr': '|u1', 'fortran_order': False, 'shape': (6, 4, 5)}") + bytes(119),
    "empty": b"",
    "a pickle alone": b"cos\nabort\n(tR.",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_is_not_believed(tmp_path, kind):
    path = tmp_path / "some.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", HEADERS[kind])
        archive.writestr("y.npy", b"")
    with pytest.raises(ValueError, match=r"some\.npz: x: expected an array of numbers, got ") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_size_that_no_packing_reaches_is_refused_by_name(tmp_path):
    path = tmp_path / "some.npz"
    np.savez(path, x=X, y=Y)
    shape = header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000, 1000, 1000)}")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("x.npy", shape)
        archive.writestr("y.npy", b"")
    claimed = bytearray(content.getvalue())
    central = claimed.rindex(b"PK\x01\x02", 0, claimed.rindex(b"PK\x01\x02"))
    claimed[central + 24 : central + 28] = struct.pack("<I", len(shape) + 10**9)  # its size when unpacked
    path.write_bytes(claimed)
    with pytest.raises(ValueError, match=r"some\.npz: x: expected an array of numbers, got a header of shape"):
        load(path)


def bytes_of(**arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


GOOD = bytes_of(x=X, y=Y)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("npz") / "fuzzed.npz"


def load_or_refuse(path, content):
    path.write_bytes(content)
    try:
        return load(path)
    except ValueError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return None


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_does_no_harm(scratch, place, change):
    content = bytearray(GOOD)
    content[place] ^= change
    data = load_or_refuse(scratch, bytes(content))
    if data is not None:
        assert np.array_equal(data.x[:, 0], X / np.float32(255))
        assert data.y.tolist() == Y.tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(GOOD) - 1))
def test_a_cut_file_is_refused(scratch, end):
    assert load_or_refuse(scratch, GOOD[:end]) is None
