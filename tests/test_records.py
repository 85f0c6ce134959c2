"""Files are whole or absent, and what is read back is what was written."""

import json
import os
import stat

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hilbertnet.records import RunFolder, atomic_path, environment, load_tensors, save_tensors, write_json


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "er" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["file.txt"]


def write_half(path, failure=RuntimeError):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() or path.read_text() == "old"
        raise failure


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, failure):
    with pytest.raises(failure):
        write_half(tmp_path / "file.txt", failure)
    assert names(tmp_path) == []


def test_a_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write_half(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_success_replaces_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with atomic_path(str(path)) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_pipe_or_a_device_is_written_to_and_stays_what_it_is(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with atomic_path(path) as given:
            given.write_text("whole")
        assert os.read(reader, 100) == b"whole"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert names(tmp_path) == ["pipe"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
    assert len(modes) == 1


def test_json_reads_back(tmp_path):
    content = {"accuracy": 0.1, "name": "κ", "list": [1, None, True]}
    write_json(tmp_path / "record.json", content)
    text = (tmp_path / "record.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert "κ" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {"deep": [-float("inf")]}])
def test_json_refuses_what_it_has_no_word_for_and_keeps_the_old_file(tmp_path, bad):
    path = tmp_path / "record.json"
    write_json(path, {"fine": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"value": bad})
    assert json.loads(path.read_text()) == {"fine": 1}
    assert names(tmp_path) == ["record.json"]


def test_tensors_read_back(tmp_path, generator):
    tensors = {
        "weights": torch.randn(3, 4, dtype=torch.float64, generator=generator, requires_grad=True),
        "turned": torch.randn(3, 4, generator=generator).T,
        "labels": torch.arange(5),
        "empty": torch.zeros(0, 2),
    }
    save_tensors(tmp_path / "model.safetensors", tensors, {"kind": "network", "name": "κ", "sizes": [1, 2]})
    found, header = load_tensors(tmp_path / "model.safetensors", "network")
    assert header == {"kind": "network", "name": "κ", "sizes": [1, 2]}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor.detach(), rtol=0, atol=0)
    assert names(tmp_path) == ["model.safetensors"]


def test_tensors_that_share_memory_read_back(tmp_path):
    whole = torch.arange(6.0)
    save_tensors(tmp_path / "file", {"head": whole[:4], "tail": whole[2:], "again": whole}, {"kind": "network"})
    found, _ = load_tensors(tmp_path / "file", "network")
    assert found["tail"].tolist() == [2.0, 3.0, 4.0, 5.0]
    assert found["again"].tolist() == whole.tolist()


def test_a_header_that_is_no_json_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        save_tensors(tmp_path / "file", {"x": torch.ones(1)}, {"kind": "network", "loss": float("nan")})
    assert names(tmp_path) == []


def test_tensors_of_another_kind_are_refused(tmp_path):
    save_tensors(tmp_path / "file", {"x": torch.ones(1)}, {"kind": "network"})
    with pytest.raises(ValueError, match=r"file: expected a classifier, got a 'network'$"):
        load_tensors(tmp_path / "file", "classifier")


def plain_safetensors(path):
    save_file({"x": torch.ones(1)}, str(path))


def foreign_safetensors(path):
    save_file({"x": torch.ones(1)}, str(path), metadata={"format": "pt"})


def broken_header(path):
    save_file({"x": torch.ones(1)}, str(path), metadata={"hilbertnet": "{"})


def truncated(path):
    save_tensors(path, {"x": torch.ones(100)}, {"kind": "network"})
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.write_bytes(b"garbage, not tensors"),
        lambda path: path.write_bytes(b""),
        lambda path: path.mkdir(),
        plain_safetensors,
        foreign_safetensors,
        broken_header,
        truncated,
    ],
    ids=["absent", "garbage", "empty", "folder", "plain", "foreign", "broken header", "truncated"],
)
def test_other_files_are_refused_by_their_path(tmp_path, write):
    write(tmp_path / "model")
    with pytest.raises(ValueError, match=r"model: expected a safetensors file written by hilbertnet"):
        load_tensors(tmp_path / "model", "network")


def test_a_run_is_finished_by_its_record(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert not run.finished
    with pytest.raises(ValueError, match=r"run: expected a finished run, found no record\.json"):
        run.read_record()
    run.checkpoint_path.parent.mkdir()
    run.checkpoint_path.write_bytes(b"")
    assert not run.finished
    write_json(run.record_path, {"test_accuracy": 0.9})
    assert run.finished
    assert run.read_record() == {"test_accuracy": 0.9}
    assert {run.record_path.name, run.checkpoint_path.name, run.predictions_path.name} == {
        "record.json",
        "model.safetensors",
        "predictions.csv",
    }


@pytest.mark.parametrize(("text", "says"), [("{", "not a JSON record"), ("[1]", "expected a JSON object, got list")])
def test_a_broken_record_is_refused_by_its_path(tmp_path, text, says):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ValueError, match=rf"record\.json: {says}"):
        RunFolder(tmp_path).read_record()


def test_the_environment_is_json_with_versions_and_time():
    found = environment("cpu")
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["device"] == "cpu"
    assert found["time"].endswith("Z")
