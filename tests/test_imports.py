"""The house: no room imports a room above it, and the package imports light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hilbertnet

SOURCE = Path(hilbertnet.__file__).parent
FLOORS = [
    {"text", "progress", "records", "metrics", "protocols", "signals", "losses", "named"},
    {"states", "ascent", "threads"},
    {"architecture", "data"},
    {"deformations"},
    {"solvers", "training"},
    {"complexity"},
    {"robustness"},
    {"regularization"},
    {"kernels", "networks"},
    {"estimators", "stability"},
    {"experiments"},
    {"report"},
    {"cli"},
    {"__init__", "__main__"},
]
HEIGHT = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))
HEAVY = {"sklearn", "scipy", "numba", "matplotlib", "pooch", "typer", "pandas", "triton", "dask", "zarr", "cyanure"}


def room_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def rooms_imported(tree: ast.AST) -> set[str]:
    """Rooms named by every import of the file, also those inside functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            modules = [node.module]
            if node.module == "hilbertnet":
                modules = [f"hilbertnet.{alias.name}" for alias in node.names if alias.name != "__version__"]
        else:
            continue
        for module in modules:
            package, _, rest = module.partition(".")
            if package == "hilbertnet":
                found.add(rest.split(".")[0] or "__init__")
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_rooms_import_nothing_above_them(path):
    room = room_of(path)
    assert room in HEIGHT, f"{room} has no floor: give it one in FLOORS"
    for other in rooms_imported(ast.parse((SOURCE / path).read_text(encoding="utf-8"))) - {room}:
        assert HEIGHT.get(other, len(FLOORS)) < HEIGHT[room], f"{path} imports {other}, which is not below it"


def test_the_walk_sees_every_spelling():
    tree = ast.parse(
        "import hilbertnet.text\nfrom hilbertnet import kernels, __version__\n"
        "def f():\n    from hilbertnet.data.sources import load\n    import hilbertnet\n"
    )
    assert rooms_imported(tree) == {"text", "kernels", "data", "__init__"}


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import hilbertnet", "from hilbertnet import Architecture, ConvKernel, CKN"])
def test_importing_is_light(statement):
    loaded = modules_after(statement)
    assert "hilbertnet" in loaded
    assert loaded & HEAVY == set()


def test_public_names_are_what_they_are_called():
    for name in hilbertnet.__all__:
        assert getattr(hilbertnet, name) is not None
        assert name in dir(hilbertnet)
    with pytest.raises(AttributeError, match="has no attribute 'Kernel'"):
        hilbertnet.Kernel  # noqa: B018
