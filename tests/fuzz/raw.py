"""Damage to bytes that knows no format."""

from collections.abc import Callable
from random import Random

# What lengths, counts and offsets go wrong at.
NUMBERS = (0, 1, 2, 3, 7, 8, 16, 32, 127, 128, 255, 256, 1000, 4096, 32767, 32768, 65535, 65536)
LARGE = (2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**48, 2**63 - 1, 2**63, 2**64 - 1)


def number(rng: Random, size: int) -> int:
    """A number of ``size`` bytes, often a border value."""
    if rng.random() < 0.2:
        return rng.getrandbits(8 * size)
    return rng.choice([n for n in (*NUMBERS, *LARGE) if n < 256**size])


def _flip(data: bytearray, rng: Random, at: int) -> None:
    for _ in range(rng.randint(1, 12)):
        position = min(len(data) - 1, at + rng.randrange(64)) if rng.random() < 0.5 else None
        position = rng.randrange(len(data)) if position is None else position
        data[position] = (
            rng.randrange(256) if rng.random() < 0.5 else data[position] ^ (1 << rng.randrange(8))
        )


def _cut(data: bytearray, rng: Random, at: int) -> None:
    del data[at:]


def _hole(data: bytearray, rng: Random, at: int) -> None:
    del data[at : at + _length(rng, data)]


def _zeros(data: bytearray, rng: Random, at: int) -> None:
    length = min(_length(rng, data), len(data) - at)
    data[at : at + length] = bytes([rng.choice((0, 0, 255, 32))]) * length


def _insert(data: bytearray, rng: Random, at: int) -> None:
    length = _length(rng, data)
    block = bytes(length) if rng.random() < 0.5 else rng.randbytes(length)
    data[at:at] = block


def _repeat(data: bytearray, rng: Random, at: int) -> None:
    data[at:at] = data[at : at + _length(rng, data)]


def _number(data: bytearray, rng: Random, at: int) -> None:
    size = rng.choice((1, 2, 2, 4, 4, 8))
    value = number(rng, size).to_bytes(size, rng.choice(("little", "big")))
    data[at : at + size] = value


def _tail(data: bytearray, rng: Random, at: int) -> None:
    data += rng.randbytes(_length(rng, data)) if rng.random() < 0.5 else bytes(1000)


def _length(rng: Random, data: bytearray) -> int:
    return rng.choice((1, 2, 4, 16, 64, 200, 1000, 5000, max(1, len(data) // 2)))


_WAYS: tuple[Callable[[bytearray, Random, int], None], ...] = (
    *(_flip, _flip, _flip, _cut, _hole, _zeros, _insert, _repeat, _number, _number, _tail),
)


def damaged(data: bytes, rng: Random, *, head: int = 1024) -> bytes:
    """Bytes with one to three damages, half of them within the first ``head`` bytes."""
    if not data or rng.random() < 0.01:
        return rng.choice((b"", b"\0", bytes(5000), rng.randbytes(500)))
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        reach = min(head, len(found)) if rng.random() < 0.5 else len(found)
        rng.choice(_WAYS)(found, rng, rng.randrange(reach))
        if not found:
            break
    return bytes(found)


def one_damaged(files: dict[str, bytes], rng: Random, name: str | None = None) -> dict[str, bytes]:
    """An input with one of its files damaged."""
    name = name or rng.choice(sorted(files))
    return {**files, name: damaged(files[name], rng)}
