"""A folder of images: one sub-folder for each class, or, to predict on, images without classes."""

from __future__ import annotations

import os
import unicodedata
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hilbertnet.data.dataset import Dataset, printable
from hilbertnet.data.memory import check_fits

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["check_same_size", "decode", "list_pictures", "load_folder", "stack", "title", "visible"]

_MOST_PIXELS = 2**26  # of one file; more is a mistake or a decompression bomb
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}  # what systems leave behind, hidden or not
_UNSAFE = {"EPS"}  # Pillow hands PostScript to an external program
_GREY = {"1", "L", "LA", "La"}
_NO_RANGE = {"I", "F"}


def load_folder(path: Path, *, size: tuple[int, int] | None = None, channels: int | None = None) -> Dataset:
    """Images of a folder with one sub-folder for each class.

    A file is whatever Pillow makes of its content, whatever its name: its first picture, turned as EXIF says, on white
    where it is transparent. Grey and coloured images together are all taken as coloured. Hidden files are passed over.

    Parameters
    ----------
    path
        The folder. Its sub-folders' names, sorted, are the names of the classes.
    size
        Height and width to resize all images to; without it, images of different sizes are refused.
    channels
        1 for grey and 3 for colour, or ``None`` for what the images are.

    Returns
    -------
    Dataset
        In the sorted order of classes, and of files within a class.

    Raises
    ------
    ValueError
        If there is no class, a class has no image, a file is no image, or sizes differ.
    """
    classes = _classes(path)
    files = [(label, file) for label, (_, folder) in enumerate(classes) for file in _images(folder)]
    pictures: list[NDArray[Any]] = []
    for _, file in files:
        picture = decode(file, size)
        if not pictures:
            shape = (len(files), *picture.shape)
            check_fits(shape, printable(path), "load fewer images, or smaller ones with size")
            first = picture.shape[:2]
        check_same_size(path, files[0][1], first, file, picture.shape[:2])
        pictures.append(picture)
    y = np.array([label for label, _ in files], np.int64)
    return Dataset(title(path), stack(pictures, channels), y, tuple(name for name, _ in classes))


def list_pictures(path: Path) -> list[tuple[str | None, Path]]:
    """Class and file of every image of a folder, by name alone: none is opened.

    Parameters
    ----------
    path
        The folder, with one sub-folder of images for each class, as `load_folder` reads them, or with images directly
        inside.

    Returns
    -------
    list
        In the sorted order of classes, and of files within a class; the class is ``None`` where images lie directly
        inside.

    Raises
    ------
    ValueError
        If there is no image, there are sub-folders as well as images, or the sub-folders are not as `load_folder`
        wants them.
    """
    entries = visible(path)
    folders = [entry for entry in entries if entry.is_dir()]
    if not folders:
        if not entries:
            raise ValueError(
                f"{printable(path)}: expected images, or one sub-folder of images for each class, got an empty folder"
            )
        return [(None, file) for file in entries]
    strays = _strays(entries)
    if strays:
        raise ValueError(
            f"{printable(path)}: expected images all in sub-folders, one for each class, or all directly inside, got "
            f"both: the image {printable(strays[0].name)} and the sub-folder {printable(folders[0].name)}"
        )
    return [(name, file) for name, folder in _classes(path) for file in _images(folder)]


def title(path: Path) -> str:
    """What a folder is called."""
    return path.name or path.resolve().name


def check_same_size(path: Path, first_file: Path, first: tuple[int, ...], file: Path, other: tuple[int, ...]) -> None:
    """Raise if a picture has another height and width than the first one of its folder.

    Raises
    ------
    ValueError
        With both files and both sizes.
    """
    if other != first:
        sizes = [" x ".join(map(str, size)) for size in (first, other)]
        raise ValueError(
            f"{printable(path)}: expected images of one size, got {printable(first_file)} of {sizes[0]} and "
            f"{printable(file)} of {sizes[1]}; give a size to resize them to"
        )


def stack(pictures: list[NDArray[Any]], channels: int | None) -> NDArray[np.float32]:
    """Pictures (height, width, 1 or 3) as images (n, channels, height, width) in [0, 1].

    With ``channels=None`` they are coloured if one of them is.
    """
    channels = channels or max(picture.shape[2] for picture in pictures)
    height, width, _ = pictures[0].shape
    x = np.empty((len(pictures), channels, height, width), np.float32)
    for image, picture in zip(x, pictures, strict=True):
        if channels == 1 and picture.shape[2] == 3:
            picture = picture @ np.array([[0.299], [0.587], [0.114]])  # ITU-R 601, as Pillow's
        image[:] = picture.transpose(2, 0, 1)  # one channel goes to all
        image /= 255
    return np.clip(x, 0, 1, out=x)


def _classes(path: Path) -> list[tuple[str, Path]]:
    """Names and folders of the classes, sorted by name."""
    found: dict[str, Path] = {}
    entries = visible(path)
    for stray in _strays(entries):
        raise ValueError(f"{printable(stray)}: expected images in sub-folders, one for each class; this has none")
    for entry in entries:
        if not entry.is_dir():
            continue
        name = unicodedata.normalize("NFC", os.fsencode(entry.name).decode("utf-8", "replace"))
        if name in found:
            raise ValueError(
                f"{printable(path)}: expected one folder for each class, got two whose names are the same text: "
                f"{printable(name)}"
            )
        found[name] = entry
    if not found:
        raise ValueError(f"{printable(path)}: expected one sub-folder of images for each class, got no sub-folder")
    return sorted(found.items())


def _strays(entries: list[Path]) -> list[Path]:
    """Files that are images by their suffix, where the images of classes are expected in sub-folders."""
    from PIL import Image

    Image.init()
    suffixes = Image.registered_extensions()
    return [entry for entry in entries if entry.suffix.lower() in suffixes and not entry.is_dir()]


def visible(path: Path) -> list[Path]:
    """Files and folders in a folder, sorted, without the hidden ones. No walk goes deeper: no link leads in circles."""
    entries = [
        entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.name.lower() not in _LITTER
    ]
    for entry in entries:
        if not (os.path.isdir(entry) or os.path.isfile(entry)):
            raise ValueError(f"{printable(entry)}: neither a file nor a folder, or a link that leads nowhere")
    return sorted(entries)


def _images(folder: Path) -> list[Path]:
    files = visible(folder)
    for file in files:
        if file.is_dir():
            raise ValueError(f"{printable(file)}: expected images only inside the folder of a class, got a folder")
    if not files:
        raise ValueError(f"{printable(folder)}: expected at least one image in the folder of a class, got none")
    return files


def decode(path: Path, size: tuple[int, int] | None) -> NDArray[Any]:
    """Pixels 0..255 of one picture (height, width, 1 or 3): bytes, or float32 where the file has 16 bits for each.

    Parameters
    ----------
    path
        The file.
    size
        Height and width to resize it to, or ``None`` for its own.

    Raises
    ------
    ValueError
        If it is no image, or one that is cut, corrupted or too large; the message names the file.
    """
    from PIL import Image, UnidentifiedImageError

    Image.init()  # Pillow knows no format before
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=[name for name in Image.OPEN if name not in _UNSAFE]) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise ValueError(f"{image.height} x {image.width} pixels, which is too much")
                return _pixels(image, size)
    except Exception as error:  # decoders raise every kind on a broken file, SyntaxError and struct.error among them
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "none that Pillow can read" if unknown else printable(error) or type(error).__name__
        raise ValueError(f"{printable(path)}: expected an image, got {reason}") from None


def _pixels(image: Image, size: tuple[int, int] | None) -> NDArray[Any]:
    from PIL import Image as images
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in _NO_RANGE:
        raise ValueError("32 bits for each pixel, whose range is not known")
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float32) / 257
        image = images.fromarray(values)
    else:
        grey = image.mode in _GREY
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = images.alpha_composite(images.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if grey else "RGB")
    if size is not None and size != (image.height, image.width):
        image = image.resize((size[1], size[0]), images.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]
