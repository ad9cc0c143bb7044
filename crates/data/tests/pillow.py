"""Writes pictures and what Pillow makes of them into the folder that is given as the argument.

index.json lists, for each picture file, its size, and squares `[size, file]` made by the published crop; files that
Pillow refuses; for each resized array its filter and sizes; and photographs of which only the files are needed. Arrays
are raw bytes, rows of pixels.
"""

import json
import random
import shutil
import struct
import sys
import zlib
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
    described(name)


def described(name):
    """Adds a file that is there."""
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


def png(name, width, height, depth, kind, rows, *, interlaced=False, chunks=()):
    """Writes a png that Pillow itself cannot write. `rows` are the bytes of each row, of whole bytes per pixel."""
    step = len(rows[0]) // width
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    content = b""
    for x, y, every_x, every_y in passes if interlaced else [(0, 0, 1, 1)]:
        for row in rows[y::every_y] if width > x else []:
            content += b"\0" + b"".join(row[at * step : (at + 1) * step] for at in range(x, width, every_x))

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, int(interlaced))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(content)), (b"IEND", b"")]
    (out / name).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    described(name)


GREY, COLOUR, PALETTE, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 3, 4, 6
for number in range(3):
    width, height = draw.randint(1, 90), draw.randint(41, 90)
    for kind, bands in ((GREY, 1), (COLOUR, 3), (GREY_ALPHA, 2), (COLOUR_ALPHA, 4)):
        for interlaced in (False, True):
            name = f"png-{number}-{kind}-{interlaced}"
            array = pixels(height, width, bands)
            png(f"{name}-8.png", width, height, 8, kind, [row.tobytes() for row in array], interlaced=interlaced)
            if bands > 1:  # Pillow clips grey of 16 bits.
                deep = noise.integers(0, 65536, (height, width, bands)).astype(">u2")
                png(f"{name}-16.png", width, height, 16, kind, [row.tobytes() for row in deep], interlaced=interlaced)
    clear = [(b"tRNS", struct.pack(">HHH", *(int(value) for value in array[0, 0, :3])))]
    png(f"clear-{number}.png", width, height, 8, COLOUR, [row[:, :3].tobytes() for row in array], chunks=clear)
    clear = [(b"tRNS", struct.pack(">H", int(array[0, 0, 0])))]
    png(f"clear-grey-{number}.png", width, height, 8, GREY, [row[:, 0].tobytes() for row in array], chunks=clear)
    table = [(b"PLTE", bytes(draw.randbytes(768))), (b"tRNS", bytes(range(256)))]
    png(f"clear-palette-{number}.png", width, height, 8, PALETTE, [row[:, 0].tobytes() for row in array], chunks=table)

for number in range(6):
    for mode in ("L", "RGB", "RGBA"):
        for method in (0, 6):
            options = {"quality": draw.randint(5, 100), "method": method}
            picture(f"lossy-{number}-{mode}-{method}.webp", sized(mode), **options)
        picture(f"lossless-{number}-{mode}.webp", sized(mode), lossless=True, exact=number % 2 == 0)
    for lossless in (False, True):
        for mode in ("RGB", "RGBA"):
            frames = [sized(mode).resize((60, 50)) for _ in range(3)]
            options = {"save_all": True, "append_images": frames[1:], "lossless": lossless}
            picture(f"moving-{number}-{mode}-{lossless}.webp", frames[0], background=(9, 99, 199, 255), **options)

for path in (Path(__file__).resolve().parents[3] / "fuzz/seeds/image").iterdir():
    shutil.copy(path, out / f"seed-{path.name}")
    described(f"seed-{path.name}")

refused = []


def damaged_png(name, image, place, *, is_crc_right):
    """Writes a png whose pixels are stored, not compressed, with one byte of its pixel data changed."""
    image.save(out / name, compress_level=0)
    content = bytearray((out / name).read_bytes())
    start = content.index(b"IDAT")
    length = int.from_bytes(content[start - 4 : start], "big")
    content[start + 4 + place % length] ^= 0xFF
    if is_crc_right:
        end = start + 4 + length
        content[end : end + 4] = struct.pack(">I", zlib.crc32(content[start:end]))
    (out / name).write_bytes(content)
    try:
        described(name)
    except (OSError, SyntaxError, ValueError):
        refused.append(name)


for number in range(4):
    for is_crc_right in (False, True):
        # A pixel, and the Adler-32 at the end.
        for place in (draw.randint(100, 150), -1 - number):
            damaged_png(f"damaged-{number}-{is_crc_right}-{place}.png", sized("RGB"), place, is_crc_right=is_crc_right)


def gif(name, screen, box, *, table=b"", own=b"", blocks=b"", interlaced=False, bits=4, cut=0):
    """Writes a gif that Pillow itself cannot write, of random values of so many bits. Tables have the bytes of colors."""

    def flags(table):
        return 0x80 | (len(table) // 3 - 1).bit_length() - 1 if table else 0

    content = b"GIF89a" + struct.pack("<HHBBB", *screen, flags(table), 5, 0) + table + blocks
    content += b"," + struct.pack("<HHHHB", *box, flags(own) | 0x40 * interlaced) + own
    clear, codes = 1 << bits, []
    for place in range(box[2] * box[3]):
        # The table is cleared before codes get longer.
        codes += [clear] * (place % (clear - 2) == 0) + [draw.randrange(clear)]
    number = sum(code << place * (bits + 1) for place, code in enumerate([*codes, clear + 1]))
    packed = number.to_bytes(((len(codes) + 1) * (bits + 1) + 7) // 8, "little")
    parts = [packed[place : place + 255] for place in range(0, len(packed), 255)]
    content += bytes([bits]) + b"".join(bytes([len(part)]) + part for part in parts) + b"\0;"
    (out / name).write_bytes(content[: len(content) - cut])
    try:
        described(name)
    except (OSError, SyntaxError, ValueError):
        refused.append(name)


def control(transparent, length=4, has_color=True):
    """A graphic control extension of so many bytes."""
    return b"!\xf9" + bytes([length]) + bytes([int(has_color), 0, 0, transparent, 0])[:length] + b"\0"


colors, others = draw.randbytes(48), draw.randbytes(24)
whole, part = (0, 0, 16, 12), (4, 5, 8, 6)
for number, blocks in enumerate((b"", control(3), control(200), control(3, has_color=False), control(1) + control(2))):
    gif(f"screen-{number}.gif", (16, 12), part, table=colors, blocks=blocks)
    gif(f"screen-own-{number}.gif", (16, 12), part, table=colors, own=others, blocks=blocks)
    gif(f"screen-only-own-{number}.gif", (16, 12), part, own=others, blocks=blocks)
    gif(f"screen-gray-{number}.gif", (16, 12), part, blocks=blocks)
gif("beyond.gif", (8, 8), part, table=colors)
gif("beyond-empty.gif", (0, 0), part, table=colors)
gif("beyond-table.gif", (16, 12), whole, table=others)
gif("gray.gif", (16, 12), whole)
gif("gray-8.gif", (16, 12), whole, bits=8)
gif("gray-table.gif", (16, 12), whole, table=bytes(value for level in range(16) for value in [level] * 3))
gif("gray-own.gif", (16, 12), whole, table=colors, own=bytes(value for level in range(8) for value in [level] * 3))
gif("gray-levels.gif", (16, 12), whole, table=bytes(value for level in range(16) for value in [level * 17] * 3))
for number, height in enumerate((1, 2, 3, 5, 8, 13)):
    gif(f"interlaced-{number}.gif", (16, 20), (1, 2, 7, height), table=colors, interlaced=True)
strange = {
    "stray": b"\0\0\7",
    "control-5": control(3, 5),
    "control-3": control(3, 3),
    "control-3-plain": control(3, 3, has_color=False),
    "control-2": control(3, 2, has_color=False),
    "control-0": b"!\xf9\0\0",
    "comment": b"!\xfe\2hi\0",
    "comment-0": b"!\xfe\0",
    "text": b"!\1\3abc\2hi\0",
    "unknown-0": b"!\x33\0\1a\0",
    "loop": b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0",
    "loop-0": b"!\xff\x0bNETSCAPE2.0\0\1a\0",
    "end": b";",
}
for name, blocks in strange.items():
    gif(f"strange-{name}.gif", (16, 12), part, table=colors, blocks=blocks)
for cut in (1, 2, 3, 40):
    gif(f"cut-{cut}.gif", (16, 12), whole, table=colors, cut=cut)
gif("nothing.gif", (16, 12), (0, 0, 0, 0), table=colors)

turned = Image.Exif()
turned[0x112] = 6
for name in ("turned.jpg", "turned.png", "turned.webp"):
    picture(name, sized("RGB"), exif=turned)
for number in range(3):
    # The same bytes, read as YCCK: 2 instead of 0 in Adobe's marker.
    picture(f"ycck-{number}.jpg", sized("CMYK"), quality=90)
    content = (out / f"ycck-{number}.jpg").read_bytes()
    place = content.index(b"Adobe") + 11
    pictures.pop()
    (out / f"ycck-{number}.jpg").write_bytes(content[:place] + b"\2" + content[place + 1 :])
    described(f"ycck-{number}.jpg")
    picture(f"restarts-{number}.jpg", sized("RGB"), restart_marker_blocks=draw.randint(1, 9))
    picture(f"optimized-{number}.jpg", sized("L"), optimize=True, progressive=True)

for number in range(3):
    picture(f"plain-{number}.ppm", sized("RGB"))
    picture(f"plain-{number}.pgm", sized("L"))
for kind, bands, white in (("P6", 3, 100), ("P6", 3, 1000), ("P6", 3, 65535), ("P5", 1, 15), ("P5", 1, 200)):
    array = noise.integers(0, white + 1, (50, 60, bands)).astype(">u2" if white > 255 else "u1")
    (out / f"white-{white}-{bands}.ppm").write_bytes(f"{kind} # white\n60 50\n{white}\n".encode() + array.tobytes())
    described(f"white-{white}-{bands}.ppm")


def photograph(width, height):
    """Octaves of noise whose amplitude falls with frequency, as in photographs, with edges of discs."""
    values = np.zeros((height, width, 3))
    for octave in range(1, 8):
        side = 2**octave + 2
        cells = noise.normal(0, 1, (side, side, 1)) + noise.normal(0, 0.4, (side, side, 3))
        layers = [Image.fromarray(cells[..., band].astype(np.float32)) for band in range(3)]
        layers = [np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC)) for layer in layers]
        values += np.stack(layers, -1) * 90 / octave**1.3
    y, x = np.mgrid[0:height, 0:width]
    for _ in range(12):
        inside = (x - draw.uniform(0, width)) ** 2 + (y - draw.uniform(0, height)) ** 2 < draw.uniform(8, 90) ** 2
        values[inside] += noise.normal(0, 45, 3)
    return Image.fromarray(np.clip(values + 128, 0, 255).astype(np.uint8))


photographs = []
for number, (width, height) in enumerate([(500, 375), (375, 500), (640, 480), (511, 301), (1024, 769)]):
    photographs.append(f"photograph-{number}.jpg")
    options = {"quality": 90, "subsampling": (2, 0)[number % 2], "progressive": number == 3}
    photograph(width, height).save(out / photographs[-1], **options)

index = {"resized": resized, "pictures": pictures, "refused": refused, "photographs": photographs}
(out / "index.json").write_text(json.dumps(index))
