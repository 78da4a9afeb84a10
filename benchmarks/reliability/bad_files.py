"""Files that are damaged, hostile, or somebody else's."""

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import MINI, Bench, content, difference
from processes import Row


def flip(path: Path, share: float = 0.5) -> None:
    """Change one byte of a file."""
    damaged = bytearray(path.read_bytes())
    damaged[int(len(damaged) * share)] ^= 0xFF
    path.write_bytes(damaged)


def damage(bench: Bench) -> Iterator[Row]:
    """What a run left behind is damaged: it is told, and made again or taken from before."""
    shares = (0.6,) if bench.short else (0.02, 0.3, 0.6, 0.98)
    programs = bench.programs()
    for name, pattern, said in (
        ("train report", "checkpoints/*/*.safetensors", "is damaged"),
        ("train report", "checkpoints/*/state.json", "is damaged"),
        ("train encoder", "checkpoints/*/*.safetensors", "is damaged"),
        ("train encoder", "cache/*.uint8", ""),
        ("train encoder", "cache/*.json", ""),
        ("feature cache", "../cache/*/*.safetensors", ""),
        ("feature cache", "../cache/files.json", ""),
    ):
        row = Row("damaged", f"{name}: {Path(pattern).name}")
        program, whole = programs[name], bench.new()
        if bench.late:
            yield row
            continue
        if trouble := bench.run(program.work(whole)).trouble(0, lines=False):
            row.count(trouble)
            yield row
            continue
        for share in shares:
            if bench.late:
                break
            folder = bench.new()
            shutil.copytree(whole, folder, dirs_exist_ok=True)
            base = folder if pattern.startswith("../") else folder / "out"
            flip(sorted(base.glob(pattern.removeprefix("../")))[-1], share)
            for made in folder.glob("out.*"):
                made.unlink()
            ended = bench.run(program.work(folder))
            trouble = ended.trouble(0, lines=False)
            if not trouble and said not in ended.out + ended.err:
                trouble = "the damage was not told"
            row.count(trouble or difference(folder, whole))
        yield row


class Planted:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def hostile(bench: Bench) -> Iterator[Row]:
    """Files that were made to do harm end in one line, and do none."""
    planted = bench.folder / "PLANTED"
    attack = pickle.dumps(Planted(planted))
    picture = bench.images[0].read_bytes()
    row = Row("hostile", "files given to report")
    for name, what in {
        "cut.png": picture[:200],
        "bit.png": picture[:100] + bytes([picture[100] ^ 255]) + picture[101:],
        "empty.png": b"",
        "text.dcm": b"not an image",
        "huge.png": picture[:16] + b"\x7f\xff\xff\xff" * 2 + picture[24:],
        "pickle.png": attack,
        "deep.jsonl": b"[" * 100_000,
        "binary.jsonl": bytes(range(256)),
        "zero.parquet": b"PAR1" + bytes(100) + b"PAR1",
    }.items():
        file = bench.new() / name
        file.write_bytes(what)
        asked = ["report", file, "--model", bench.model(), "-o", file.with_name("out.jsonl")]
        if not bench.late:
            row.count(named(name, bench.run(asked).trouble(1, 2)))
    yield row

    row = Row("hostile", "encoders, configurations, features")
    template = b"{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}"
    yaml = b"!!python/object/apply:os.mkdir [" + str(planted).encode() + b"]"
    for name, what, command in (
        (
            "e.pth",
            attack,
            lambda f: ["encode", *bench.six, "--encoder", f, "-o", f"{f}.safetensors"],
        ),
        (
            "e.bin",
            attack,
            lambda f: ["encode", *bench.six, "--encoder", f, "-o", f"{f}.safetensors"],
        ),
        ("r.yaml", yaml, lambda f: ["train", "report", f]),
        ("p.yaml", yaml, lambda f: ["train", "encoder", f]),
        ("f.npz", attack, lambda f: ["score", bench.pairs, "--features", f, "-o", f"{f}.out"]),
        ("m.jsonl", attack, lambda f: ["data", "check", f]),
        ("pairs.jsonl", attack, lambda f: ["score", f, "-o", f"{f}.out"]),
    ):
        file = bench.new() / name
        file.write_bytes(what)
        if not bench.late:
            row.count(named(name, bench.run(command(file)).trouble(1, 2, lines=False)))
    yield row

    row = Row("hostile", "parts of a model")
    for part, change in {
        "adapter.safetensors": flip,
        "config.json": flip,
        "processor.json": flip,
        "encoder/model.safetensors": flip,
        "tokenizer/tokenizer.json": flip,
        "tokenizer/chat_template.jinja": lambda path: path.write_bytes(template),
    }.items():
        if bench.late:
            break
        model = bench.new() / "model"
        shutil.copytree(bench.model(), model)
        change(model / part)
        asked = ["report", bench.images[0], "--model", model, "--max-new-tokens", 2]
        # A template that is not asked may lie there as it is.
        codes = (0, 1, 2) if part.endswith(".jinja") else (1, 2)
        row.count(named(part, bench.run(asked).trouble(*codes)))
    row.count("a pickle ran" if planted.exists() else "")
    yield row


def named(name: str, trouble: str) -> str:
    """Trouble with the name of the file."""
    return f"{name}: {trouble}" if trouble else ""


def strangers(bench: Bench) -> Iterator[Row]:
    """Outputs that are inputs, or somebody else's, are refused and stay as they are."""
    picture, note = bench.images[0], bench.folder / "note.txt"
    note.write_text("mine")
    encoder = ["--encoder", MINI / "encoder"]
    probe = [*encoder, "--manifest", bench.learning, "--cache", bench.folder / "cache"]
    row = Row("inputs and strangers", "outputs that are refused")
    commands: list[list[Any]] = [
        command
        for output in (picture, note)
        for command in (
            ["report", picture, "--model", bench.model(), "-o", output],
            ["encode", picture, "-o", output, *encoder],
            ["data", "csv", bench.table, "-o", output],
            ["score", bench.pairs, "-o", output],
            ["probe", "classification", *probe, "-o", output],
            ["convert", bench.model(), "--to", "transformers", "-o", output],
        )
    ]
    for command in commands[:: 3 if bench.short else 1]:
        if bench.late:
            break
        before = content(bench.folder)
        trouble = bench.run(command).trouble(1, 2)
        after = content(bench.folder)
        lost = [name for name, old in before.items() if after.get(name) != old]
        row.count(
            named(" ".join(map(str, command[:2])), trouble) or (f"changed: {lost}" * bool(lost))
        )
    yield row


CASES: tuple[Callable[[Bench], Iterator[Row]], ...] = (damage, hostile, strangers)
