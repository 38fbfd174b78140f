"""Kinds of files that hold one sample each: their endings, and the words and columns for them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileKind:
    """One kind of files."""

    noun: str
    """Word for a sample."""
    file: str
    """Word for its file."""
    endings: frozenset[str]
    """Endings of such files, in lower case."""
    columns: frozenset[str]
    """Usual names of columns that hold them."""
    feature: str
    """The hub's type for such a column."""
    setting: str
    """Setting of a matrix that names the column."""


IMAGES = FileKind(
    noun="image",
    file="picture",
    endings=frozenset(
        {".apng", ".avif", ".bmp", ".bw", ".dds", ".dib", ".gif", ".icns", ".ico", ".j2c", ".j2k"}
        | {".jfif", ".jif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".msp", ".pbm"}
        | {".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".psd", ".qoi", ".ras", ".rgb", ".sgi"}
        | {".tga", ".tif", ".tiff", ".webp", ".xbm", ".xpm"}
    ),
    columns=frozenset({"image", "images", "img", "imgs", "picture", "photo", "image_bytes"}),
    feature="Image",
    setting="data.image_column",
)

SOUNDS = FileKind(
    noun="sound",
    file="sound",
    endings=frozenset(
        {".wav", ".wave", ".aif", ".aifc", ".aiff", ".au", ".flac", ".m4a", ".mp3", ".ogg", ".opus"}
        | {".snd", ".wma"}
    ),
    columns=frozenset({"audio", "sound", "sounds", "wav", "speech", "recording", "clip", "file"}),
    feature="Audio",
    setting="audio_column in data.task",
)
"""All but wav are listed, too, so that they are refused by name instead of left out unseen."""
