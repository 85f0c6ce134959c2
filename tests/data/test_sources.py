"""`load` by name, what it says of what it cannot load, and downloads from a server on this machine."""

import functools
import gzip
import hashlib
import http.server
import threading

import numpy as np
import pytest
from layouts import Small, idx_bytes

from hilbertnet.data import DNA, Dataset, IncompleteDataWarning, load, mnist
from hilbertnet.data.files import RemoteFile, fetch


def test_digits_need_no_file():
    data = load("digits")
    assert str(data) == "digits: 1,797 grey images of 8 x 8, 10 classes"
    assert data.x.shape == (1797, 1, 8, 8)
    assert data.x.dtype == np.float32
    assert (data.x.min(), data.x.max()) == (0, 1)
    assert data.y[:5].tolist() == [0, 1, 2, 3, 4]
    assert data.class_names == tuple("0123456789")
    assert data.to_dict()["official"] == {}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digitz", "DATA: expected one of digits, mnist, cifar10, a folder .* got 'digitz'; did you mean 'digits'"),
        ("cifar-10", "did you mean 'cifar10'"),
        ("no/such/folder", "or an .npz file, got 'no/such/folder'$"),
        ("", "got ''"),
        ("a\0b", "got 'a\ufffdb'"),
        ("x" * 5000, "DATA: expected one of"),
    ],
)
def test_what_there_is_not_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        load(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 4)}, r"size: expected height and width, two positive whole numbers, got \(0, 4\)"),
        ({"size": (4,)}, "size: expected"),
        ({"size": (4.5, 4)}, "size: expected"),
        ({"size": (28, 28)}, "size: only a folder of images is resized; digits has 8 x 8, got 28 x 28"),
        ({"channels": 2}, "channels: expected 1 .* or 3 .*, got 2"),
        ({"channels": 3}, "channels: only a folder of images is converted; digits has 1, got 3"),
        ({"axes": 1}, "axes: only for an .npz file, which digits is not, got 1"),
        ({"label": "a"}, "label: only for FASTA files, which digits is not, got 'a'"),
        ({"label": "("}, r"label: expected a regular expression, got '\(' \("),
        ({"label": "(a)(b)"}, "label: expected a regular expression with one group, the class, .* 2 groups"),
        ({"label": 3}, "label: expected a regular expression with one group, .* got 3, no text"),
        ({"alphabet": "rn"}, r"alphabet: expected one of dna, rna, protein, or letters .* did you mean 'rna'\? \("),
        ({"alphabet": 3}, "alphabet: expected a name or letters such as 'ACGT[+]N', got 3"),
        ({"alphabet": ""}, "alphabet: expected one of dna, rna, protein"),
        ({"length": 0}, "length: expected a whole number of letters, at least 1, got 0"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **options)


def test_wishes_that_are_met_already():
    assert load("digits", size=(8, 8), channels=1).x.shape == (1797, 1, 8, 8)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_the_variable_must_name_a_folder(monkeypatch, tmp_path, name):
    monkeypatch.setenv("HILBERTNET_DATA", str(tmp_path / "none"))
    with pytest.raises(
        ValueError, match=r"HILBERTNET_DATA: expected a folder of data sets, got '.*none', which is none"
    ):
        load(name)


def test_shapes_that_do_not_agree_make_no_dataset():
    x, y = np.zeros((3, 1, 4, 4), np.float32), np.zeros(3, int)
    for arguments, message in (
        ((x[0, 0], y), r"x: expected images \(n, channels, height, width\)"),
        ((x[:0], y[:0]), "x: expected images"),
        ((x, y[1:]), "y: expected 3 labels"),
        ((x, y, (), x), "expected both or neither"),
        ((x, y, (), x, y[1:]), "test_y: expected 3 labels"),
        ((x, y, (), x[..., 1:], y), "test_x: expected shape"),
        ((x, y, (), None, None, {}, DNA), r"x: expected sequences \(n, 4, length\), got shape \(3, 1, 4, 4\)"),
        ((x, y, (), None, None, {}, None, ("a",)), "names: expected 3, one for each example, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Dataset("some", *arguments)


def test_a_name_is_shown_on_one_line():
    data = Dataset("a\nb\x1b[31m\u202e", np.zeros((3, 2, 4, 4), np.float32), np.zeros(3, int))
    assert str(data) == "a\ufffdb\ufffd[31m\ufffd: 3 2-channel images of 4 x 4, 1 class"


class Handler(http.server.SimpleHTTPRequestHandler):
    served: list = []  # noqa: RUF012  emptied for each server

    def log_message(self, *_):
        self.served.append(self.path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of the four small files of MNIST, the address that the loader knows, and pooch's cache elsewhere."""
    import pooch

    monkeypatch.delenv("HILBERTNET_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    folder = Small(tmp_path).write_mnist(tmp_path / "served")
    monkeypatch.setattr(mnist, "_MD5", {path.stem: md5_of(path.read_bytes()) for path in folder.iterdir()})
    Handler.served.clear()
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    httpd.folder, httpd.cache = folder, tmp_path / "cache" / "hilbertnet" / "mnist"
    httpd.url = f"http://127.0.0.1:{httpd.server_port}/"
    monkeypatch.setattr(mnist, "_MIRRORS", (httpd.url,))
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def md5_of(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def load_small():
    with pytest.warns(IncompleteDataWarning, match="20 of the 60,000"):
        return load("mnist")


def test_files_are_downloaded_once(server):
    data = load_small()
    assert data.found == {"train": 20, "test": 10}
    assert sorted(path.name for path in server.cache.iterdir()) == sorted(f"{name}.gz" for name in mnist._MD5)
    assert len(server.RequestHandlerClass.func.served) == 4
    load_small()
    assert len(server.RequestHandlerClass.func.served) == 4


def test_a_damaged_file_in_the_cache_is_downloaded_again(server):
    load_small()
    path = next(server.cache.iterdir())
    path.write_bytes(path.read_bytes()[:50])
    load_small()
    assert len(server.RequestHandlerClass.func.served) == 5


def test_a_second_address_is_asked_where_the_first_fails(server, monkeypatch):
    monkeypatch.setattr(mnist, "_MIRRORS", (f"{server.url}no/such/folder/", server.url))
    assert load_small().found == {"train": 20, "test": 10}


def test_a_file_with_a_wrong_hash_is_refused_and_not_kept(server):
    name = next(iter(mnist._MD5))
    (server.folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(np.zeros((20, 28, 28)))))
    with pytest.raises(ValueError, match=rf"mnist: could not download {name}\.gz .*hash.*HILBERTNET_DATA") as caught:
        load("mnist")
    assert "\n" not in str(caught.value)
    assert list(server.cache.iterdir()) == []


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_without_a_network_the_error_names_the_variable(server, monkeypatch, name):
    def fail(*arguments, **options):
        raise OSError("no route to host\nand no more")

    monkeypatch.setattr("pooch.retrieve", fail)
    message = rf"{name}: could not download .*no route to host and no more.*set HILBERTNET_DATA to that folder$"
    with pytest.raises(ValueError, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_an_address_that_nobody_serves_is_one_error(server):
    address = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(ValueError, match=r"some: could not download file\.gz \(http://127.0.0.1:.*HILBERTNET_DATA"):
        fetch(RemoteFile("file.gz", (f"{address}file.gz",), "0" * 32), "some")


def test_a_folder_without_the_files_is_no_obstacle_to_a_download(server, monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("HILBERTNET_DATA", str(tmp_path / "empty"))
    assert load_small().found == {"train": 20, "test": 10}
