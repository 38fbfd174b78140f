"""Readers of pictures, texts and sounds, whose source goes into programs beside exported files.

Each does what the task does with its data, needs nothing of ktbench, and runs on Python 3.6.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ktbench.tasks._contract import Reading


def read_picture(name: str, about: Any) -> Any:
    """Return a picture as the file's input: upright, on white, of its size and channels."""
    from PIL import Image, ImageOps

    last = about["input"]["layout"] == "NHWC"
    height, width, channels = np.roll(about["input"]["shape"][1:], 0 if last else -1).tolist()
    mode = "L" if channels == 1 else "RGB"
    image = ImageOps.exif_transpose(Image.open(name))
    if image.mode[0] in "IF":
        raise ValueError("has more than 8 bits a channel: save it with 8")
    page = Image.new(mode, image.size, "white")  # what is transparent is white
    page.paste(image.convert(mode), mask=image.convert("RGBA").getchannel("A"))
    fit = about["provenance"]["cell"]["data"].get("fit", "crop")
    if page.size != (width, height):  # 2 is bilinear in every Pillow
        ways: Any = {"crop": ImageOps.fit, "pad": ImageOps.pad, "stretch": Image.Image.resize}
        page = ways[fit](page, (width, height), 2)
    pixels = np.asarray(page, np.float32).reshape(height, width, channels)
    return {"image": (pixels if last else pixels.transpose(2, 0, 1))[None]}


def read_text(text: str, about: Any) -> Any:
    """Return a text as the file's inputs; of a pair, both stand with a tab between them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))
    pair = any(each["name"] == "segments" for each in about["inputs"])
    first, tab, second = text.partition("\t")
    if bool(tab) != pair:
        raise ValueError("must be two texts with a tab between them" if pair else "holds a tab")
    read = tokenizer.encode(first, second if pair else None)
    given = {"ids": read.ids, "mask": read.attention_mask, "segments": read.type_ids}
    return {i["name"]: np.array([given[i["name"]]], i["dtype"]) for i in about["inputs"]}


def read_sound(name: str, about: Any) -> Any:
    """Return a wav file as the file's input: one channel, of its rate and length, 16-bit values."""
    import math
    import wave

    about = about["input"]
    rate, length = about["rate"], about["shape"][1]
    with wave.open(name) as file:
        width, channels, own_rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
        data = np.frombuffer(file.readframes(file.getnframes()), np.uint8).reshape(-1, width)
    wide = np.zeros((len(data), 4), np.uint8)
    wide[:, 4 - width :] = data ^ 128 if width == 1 else data  # 8 bits have no sign in a wav file
    sound = (wide.view("<i4") / 65536).reshape(-1, channels).mean(1)
    if own_rate != rate:
        from scipy.signal import resample_poly

        shared = math.gcd(rate, own_rate)
        sound = resample_poly(sound, rate // shared, own_rate // shared)
    start = abs(len(sound) - length) // 2
    if len(sound) < length:
        sound = np.pad(sound, (start, length - len(sound) - start), "constant")
    sound = sound[start : start + length] if len(sound) > length else sound
    return {about["name"]: np.rint(sound).clip(-32768, 32767).astype(np.float32)[None]}


PICTURE = Reading(read_picture, "picture.jpg", ("pillow",))
TEXT = Reading(read_text, '"a text"', ("tokenizers",))
SOUND = Reading(read_sound, "sound.wav")
