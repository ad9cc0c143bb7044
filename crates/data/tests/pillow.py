"""Writes pictures and what Pillow makes of them into the folder that is given as the argument.

index.json lists, for each picture file, its size, and squares `[size, file]` made by the published crop; and for each
resized array its filter and sizes. Arrays are raw bytes, rows of pixels.
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image

out = Path(sys.argv[1])
draw = random.Random(7)
noise = np.random.default_rng(7)


def pixels(height, width, channels):
    """Smooth shapes with noise: JPEG and bicubic overshoot both get something to do."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / draw.uniform(2, 30) + y / draw.uniform(2, 30)) * 110 + 128 for _ in range(channels)]
    values = np.stack(waves, -1) + noise.normal(0, 40, (height, width, channels))
    return np.clip(values, 0, 255).astype(np.uint8)


def raw(name, image):
    (out / name).write_bytes(np.asarray(image).tobytes())
    return name


def center_square(image, size):
    """The published preparation: halve by averaging, then bicubic, then cut out the middle."""
    while min(image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), resample=Image.Resampling.BOX)
    factor = size / min(image.size)
    image = image.resize(tuple(round(side * factor) for side in image.size), resample=Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


resized = []
for number in range(120):
    channels = draw.choice([1, 3])
    old = (draw.randint(1, 90), draw.randint(1, 90))
    new = (draw.randint(1, 90), draw.randint(1, 90)) if number % 3 else (draw.randint(1, 90), old[1])
    kind = draw.choice(["box", "bicubic"])
    array = pixels(old[1], old[0], channels)
    image = Image.fromarray(array[..., 0] if channels == 1 else array)
    result = image.resize(new, resample=Image.Resampling[kind.upper()])
    resized.append(
        {
            "filter": kind,
            "channels": channels,
            "old": old,
            "new": new,
            "input": raw(f"resize-{number}.in", image),
            "output": raw(f"resize-{number}.out", result),
        }
    )

pictures = []


def picture(name, image, **options):
    image.save(out / name, **options)
    with Image.open(out / name) as opened:
        mode = opened.mode
        colour = opened.convert("RGB")
    squares = [[size, raw(f"{name}.{size}", center_square(colour, size))] for size in (16, 40)]
    pictures.append(
        {
            "file": name,
            "mode": mode,
            "size": colour.size,
            "rgb": raw(f"{name}.rgb", colour),
            "grey": raw(f"{name}.grey", colour.convert("L")),
            "squares": squares,
        }
    )


def sized(mode):
    width, height = draw.randint(9, 150), draw.randint(9, 150)
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    array = pixels(height, width, bands)
    return Image.fromarray(array[..., 0]) if bands == 1 else Image.frombytes(mode, (width, height), array.tobytes())


for number in range(4):
    for mode in ("L", "LA", "RGB", "RGBA"):
        picture(f"{mode}-{number}.png", sized(mode))
    picture(f"bits-{number}.png", sized("L").convert("1"))
    picture(f"palette-{number}.png", sized("RGB").quantize(draw.choice([3, 14, 200])))
    picture(f"palette-transparent-{number}.png", sized("RGB").quantize(30), transparency=draw.randint(0, 29))
    picture(f"palette-{number}.gif", sized("RGB").quantize(50))
    picture(f"palette-transparent-{number}.gif", sized("RGB").quantize(50), transparency=draw.randint(0, 49))
    for subsampling in (0, 1, 2):
        for progressive in (False, True):
            options = {"quality": draw.randint(20, 95), "subsampling": subsampling, "progressive": progressive}
            picture(f"rgb-{number}-{subsampling}-{progressive}.jpg", sized("RGB"), **options)
    picture(f"grey-{number}.jpeg", sized("L"), quality=80)
    picture(f"ink-{number}.jpg", sized("CMYK"), quality=80)
frames = [sized("RGB").resize((40, 30)).quantize(20) for _ in range(3)]
picture("moving.gif", frames[0], save_all=True, append_images=frames[1:])

(out / "index.json").write_text(json.dumps({"resized": resized, "pictures": pictures}))
