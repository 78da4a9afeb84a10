"""PNG, JPEG, TIFF and other pictures, damaged along their own structure."""

import io
import struct
import zlib
from pathlib import Path
from random import Random
from typing import Any

from fuzz.inputs import Files, Kind, only_file
from fuzz.raw import damaged, number

_PNG = b"\x89PNG\r\n\x1a\n"


def damaged_png(data: bytes, rng: Random) -> bytes:
    """A PNG with a chunk changed, doubled, moved, left out or added; its checksums are right."""
    chunks = []
    position = len(_PNG)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        name, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        chunks.append((name, body))
        position += 12 + length
    at = rng.randrange(len(chunks))
    name, body = chunks[at]
    way = rng.randrange(8)
    if way == 0 and rng.random() < 0.02:  # as large a picture as is read, nearly all of it black
        chunks[0] = b"IHDR", struct.pack(">IIBBBBB", 8000, 8000, 16, 0, 0, 0, 0)
        rows = b"\0\0\1" + bytes((1 + 2 * 8000) * 8000 - 3)
        chunks = [chunks[0], (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    elif way == 0:  # a field of the header
        header = bytearray(chunks[0][1])
        place = rng.choice((0, 4, 8, 9, 10, 11, 12))
        size = 4 if place < 8 else 1
        header[place : place + size] = number(rng, size).to_bytes(size, "big")
        chunks[0] = chunks[0][0], bytes(header)
    elif way == 1:  # rows of the picture
        raw = bytearray(zlib.decompress(b"".join(b for n, b in chunks if n == b"IDAT")))
        rows = rng.choice(
            (
                bytes(raw[: len(raw) // 2]),
                damaged(bytes(raw), rng),
                bytes(raw) * 3,
                bytes(rng.choice((1, 50_000_000))),
            )
        )
        packed = zlib.compress(rows)
        if rng.random() < 0.2:
            packed = packed[:-4] + rng.randbytes(4)
        others = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
        chunks = [*others[:-1], (b"IDAT", packed), others[-1]]
    elif way == 2:
        chunks[at] = name, damaged(body, rng)
    elif way == 3:
        del chunks[at]
    elif way == 4:
        chunks.insert(rng.randrange(len(chunks)), (name, body))
    elif way == 5:
        other = rng.randrange(len(chunks))
        chunks[at], chunks[other] = chunks[other], chunks[at]
    else:
        added = rng.choice(
            (
                (b"PLTE", rng.randbytes(rng.choice((1, 3, 768, 800)))),
                (b"tRNS", rng.randbytes(rng.choice((0, 1, 2, 6, 300)))),
                (b"zTXt", b"a\0\0" + zlib.compress(bytes(20_000_000))),
                (b"iCCP", b"a\0\0" + zlib.compress(rng.randbytes(300))),
                (b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(2_000_000))),
                (b"eXIf", b"II*\0\x08\0\0\0" + rng.randbytes(40)),
                (b"gAMA", rng.randbytes(4)),
                (b"sBIT", rng.randbytes(2)),
                (b"acTL", struct.pack(">II", number(rng, 4), 0)),
                (b"pHYs", rng.randbytes(rng.choice((2, 9)))),
                (b"IEND", b""),
                (b"ABCD", b"?"),
            )
        )
        chunks.insert(rng.randrange(len(chunks) + 1), added)
    return _PNG + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def damaged_jpeg(data: bytes, rng: Random) -> bytes:
    """A JPEG with a segment or its entropy-coded data changed."""
    segments, rest = [], b""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:
            break
        segments.append((marker, data[position + 4 : position + 2 + length]))
        position += 2 + length
    rest = data[position:]
    if not segments:
        return damaged(data, rng)
    at = rng.randrange(len(segments))
    marker, body = segments[at]
    way = rng.randrange(9)
    frames = [n for n, (m, _) in enumerate(segments) if 0xC0 <= m <= 0xCF and m not in (0xC4, 0xC8)]
    if way == 0 and frames:  # precision, rows, columns, components
        frame = bytearray(segments[frames[0]][1])
        place, size = rng.choice(((0, 1), (1, 2), (3, 2), (5, 1), (7, 1), (8, 1)))
        frame[place : place + size] = number(rng, size).to_bytes(size, "big")
        segments[frames[0]] = segments[frames[0]][0], bytes(frame)
    elif way == 1 and frames:  # another process
        segments[frames[0]] = rng.choice((0xC1, 0xC2, 0xC3, 0xC9, 0xF7)), segments[frames[0]][1]
    elif way == 2:
        segments[at] = marker, damaged(body, rng)
    elif way == 3:
        del segments[at]
    elif way == 4:
        segments.insert(rng.randrange(len(segments)), (marker, body))
    elif way == 5:  # the entropy-coded data
        cut = rng.randrange(len(rest)) if rest else 0
        hole = rng.choice((1, 20, 500))
        rest = rng.choice(
            (
                damaged(rest, rng),
                rest[:cut] + b"\xff\xd9",
                rest[:cut] + rest[cut + hole :],
                rest[:cut] + bytes(hole) + rest[cut + hole :],
                rest[:cut] + bytes([0xFF, rng.randrange(0xD0, 0xD8)]) + rest[cut:],
                rest + rest,
            )
        )
    elif way == 6:
        segments.insert(0, (0xDD, number(rng, 2).to_bytes(2, "big")))  # restart interval
    else:
        segments.insert(
            0,
            rng.choice(
                (
                    (0xE1, b"Exif\0\0II*\0\x08\0\0\0" + rng.randbytes(60)),
                    (0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
                    (0xE2, b"ICC_PROFILE\0\1\1" + rng.randbytes(50)),
                    (0xE2, b"MPF\0II*\0\x08\0\0\0" + rng.randbytes(60)),
                    (0xEE, b"Adobe\0d\0\0\0\0" + bytes([rng.randrange(4)])),
                    (0xFE, rng.randbytes(3000)),
                )
            ),
        )
    return (
        b"\xff\xd8"
        + b"".join(bytes([0xFF, m]) + struct.pack(">H", len(b) + 2) + b for m, b in segments)
        + rest
    )


def damaged_tiff(data: bytes, rng: Random) -> bytes:
    """A TIFF with an entry of its first directory changed."""
    found = bytearray(data)
    order = "<" if data.startswith(b"II") else ">"
    if len(data) < 16 or data[2:4] not in (b"*\0", b"\0*"):
        return damaged(data, rng)
    (place,) = struct.unpack_from(f"{order}I", data, 4)
    if place + 2 > len(data):
        return damaged(data, rng)
    (count,) = struct.unpack_from(f"{order}H", data, place)
    entry = place + 2 + 12 * rng.randrange(max(1, count))
    way = rng.randrange(6)
    if way == 0:
        struct.pack_into(f"{order}H", found, entry, rng.choice((0, 256, 258, 259, 273, 320, 34675)))
    elif way == 1:
        struct.pack_into(f"{order}H", found, entry + 2, rng.randrange(20))
    elif way == 2:
        struct.pack_into(f"{order}I", found, entry + 4, number(rng, 4))
    elif way == 3:
        struct.pack_into(f"{order}I", found, entry + 8, number(rng, 4))
    elif way == 4:
        struct.pack_into(f"{order}H", found, entry + 8, number(rng, 2))
    else:  # the next directory: itself, somewhere, nowhere
        after = place + 2 + 12 * count
        struct.pack_into(f"{order}I", found, after, rng.choice((place, 8, number(rng, 4))))
    return bytes(found)


def check_radiograph(found: Any) -> None:
    """What every radiograph that is handed out holds to."""
    import numpy as np

    assert found.pixels.dtype == np.uint8
    assert found.pixels.ndim == 2
    assert min(found.pixels.shape) >= 1
    assert np.ptp(found.pixels) > 0
    assert found.view in ("frontal", "lateral", "unknown")
    assert all(str(warning).isprintable() for warning in found.warnings)


def _structured(name: str, data: bytes, rng: Random) -> bytes:
    if data.startswith(_PNG):
        return damaged_png(data, rng)
    if data.startswith(b"\xff\xd8"):
        return damaged_jpeg(data, rng)
    if data[:2] in (b"II", b"MM"):
        return damaged_tiff(data, rng)
    return damaged(data, rng, head=64)


def _mutate(files: Files, rng: Random) -> Files:
    ((name, data),) = files.items()
    if rng.random() < 0.35:
        return {name: damaged(data, rng, head=300)}
    for _ in range(rng.choice((1, 1, 2))):
        try:
            data = _structured(name, data, rng)
        except (ValueError, IndexError, struct.error, zlib.error):  # damaged by the first change
            data = damaged(data, rng)
    return {name: data}


def _read(folder: Path, rng: Random) -> None:
    import numpy as np

    from llava_rad.images import load_mask, load_radiograph

    file = only_file(folder)
    if rng.random() < 0.25:
        mask = load_mask(file, value=rng.choice((None, None, 1, 200)))
        assert mask.dtype == np.bool_ and mask.ndim == 2
        return
    frame = rng.choice((1, None, None, 2))
    check_radiograph(load_radiograph(file, rendering=rng.choice(("minmax", "voi")), frame=frame))


def _ready() -> None:
    import llava_rad.images  # noqa: F401


def _seeds() -> dict[str, Files]:
    import numpy as np
    from PIL import Image

    rows, columns = np.mgrid[0:48, 0:56]
    deep = (400 + 40 * columns + 20 * rows).astype(np.uint16)
    gray = (deep // 16).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (150, 170), dtype=np.uint8)
    color = np.stack([gray, gray, gray], axis=-1)
    turned = Image.Exif()
    turned[0x0112] = 6
    palette = Image.fromarray(gray).convert("P")
    with_alpha = Image.fromarray(np.dstack([color, gray]))
    pages = {"save_all": True, "append_images": [Image.fromarray(gray)]}
    pictures: dict[str, tuple[Any, str, dict[str, Any]]] = {
        "gray.png": (gray, "PNG", {}),
        "deep.png": (deep, "PNG", {}),
        "color.png": (color, "PNG", {}),
        "alpha.png": (with_alpha, "PNG", {"exif": turned}),
        "palette.png": (palette, "PNG", {"transparency": 3}),
        "one.png": (Image.fromarray(gray).convert("1"), "PNG", {}),
        "gray.jpg": (noise, "JPEG", {}),
        "progressive.jpg": (noise, "JPEG", {"progressive": True, "exif": turned}),
        "color.jpg": (color, "JPEG", {"subsampling": 2}),
        "cmyk.jpg": (Image.fromarray(color).convert("CMYK"), "JPEG", {}),
        "restart.jpg": (noise, "JPEG", {"restart_marker_blocks": 4}),
        "raw.tif": (deep, "TIFF", {}),
        "lzw.tif": (deep, "TIFF", {"compression": "tiff_lzw"}),
        "deflate.tif": (gray, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "packbits.tif": (gray, "TIFF", {"compression": "packbits"}),
        "jpeg.tif": (noise, "TIFF", {"compression": "jpeg"}),
        "float.tif": (deep.astype(np.float32), "TIFF", {}),
        "pages.tif": (gray, "TIFF", pages),
        "big.tif": (deep, "TIFF", {"big_tiff": True}),
        "gray.bmp": (gray, "BMP", {}),
        "gray.gif": (gray, "GIF", {}),
        "frames.gif": (gray, "GIF", pages),
        "lossy.webp": (color, "WEBP", {"quality": 90}),
        "lossless.webp": (color, "WEBP", {"lossless": True}),
        "gray.jp2": (deep, "JPEG2000", {}),
        "tiles.j2k": (noise, "JPEG2000", {"tile_size": (64, 64), "no_jp2": True}),
        "gray.pgm": (gray, "PPM", {}),
        "deep.pgm": (deep, "PPM", {}),
    }
    seeds: dict[str, Files] = {}
    for name, (picture, file_format, options) in pictures.items():
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        file = io.BytesIO()
        image.save(file, file_format, **options)
        seeds[name] = {f"picture{Path(name).suffix}": file.getvalue()}
    return seeds


RASTER = Kind("raster", _seeds, _mutate, _read, _ready)
