"""Data sets as they are published: CSV, CSV.GZ, XML and report texts, through the conversion."""

import csv
import gzip
import io
from pathlib import Path
from random import Random

from fuzz.inputs import Files, Kind
from fuzz.raw import damaged

_ADAPTER = "adapter"  # a file of the input that names the adapter
_CELLS = (
    *(
        "",
        " ",
        "nan",
        "None",
        "N/A",
        "-",
        "1e999",
        "-1",
        "7" * 5000,
        "a" * 200_000,
        "\0",
        "é\u2028",
    ),
    *('"', '""', '"open', "a,b", "a\nb", "a\r\nb", "=1+1", "../../..", "/", "x" * 5000, "[", "{}"),
    *("['a', 1, None]", "[" * 3000, "(" * 500, "9" * 10 + "Y", "PA and lateral", "\ud800"),
    *("FINDINGS: " * 5000, "\n" * 100_000, "_" * 100_000, "test", "True", "18991231", "2e5"),
)
_REPORTS = (
    *("FINDINGS:\nClear lungs.\nIMPRESSION:\nNormal.", "FIDNINGS: clear. IMPRESSION: normal."),
    *("", "No header at all.", "FINDINGS AND IMPRESSION: Normal.", "IMPRESSION:" * 3000),
    *("\n" * 100_000, "a" * 100_000, "a: " * 30_000, "__ " * 30_000, " \t" * 50_000, "A" * 100_000),
    *("ADDENDUM: " * 10_000, "1. " * 30_000, "As compared to ___, " * 5000, "(" * 50_000),
    *(". " * 50_000, "Dr. ___ " * 12_000, "[**2010-1-1**] " * 6000, "FINDINGS\n" * 10_000),
    *("\x00\x01\x02", "\u2028\u2029\x85" * 1000, "éü" * 50_000, "-\n" * 50_000, "X" * 50_000),
)


def _damaged_cells(data: bytes, rng: Random) -> bytes:
    """A CSV file with cells, rows or its header changed."""
    csv.field_size_limit(2**31 - 1)
    rows = list(csv.reader(io.StringIO(data.decode("utf-8"))))
    for _ in range(rng.choice((1, 1, 2, 4))):
        row = rng.choice(rows)
        way = rng.random()
        if way < 0.5 and row:
            row[rng.randrange(len(row))] = rng.choice((*_CELLS, *_REPORTS))
        elif way < 0.6:
            row += ["more"] * rng.choice((1, 3, 2000))
        elif way < 0.7 and row:
            del row[rng.randrange(len(row)) :]
        elif way < 0.8:
            rows.insert(rng.randrange(len(rows) + 1), list(row))
        elif way < 0.9:
            rows.remove(row)
            rows = rows or [[]]
        else:
            name = rng.choice(rows[0]) if rows[0] else "x"
            rows[0] = [cell + rng.choice((" ", "s", "")) for cell in rows[0]] + [name]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=rng.choice(("\n", "\n", "\r\n", "\r")))
    writer.writerows(rows)
    found = text.getvalue().encode("utf-8", "surrogatepass")
    way = rng.random()
    if way < 0.05:
        return b'"' + found
    if way < 0.1:
        return found + b'x,"an open quote'
    if way < 0.15:
        return found.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-8-sig")))
    return found


def _damaged_gzip(content: bytes, rng: Random) -> bytes:
    """Gzip with a trailer, member or stream that is not right."""
    data = gzip.compress(content)
    return rng.choice(
        (
            lambda: data[: rng.randrange(len(data))],
            lambda: data[:-8] + rng.randbytes(8),
            lambda: data[:-4],
            lambda: data + b"rubbish",
            lambda: data + gzip.compress(content)[:-5],
            lambda: data + bytes(100),
            lambda: damaged(data, rng, head=12),
            lambda: content,
            lambda: gzip.compress(content + b"a" * 60_000_000, 9),
            lambda: gzip.compress(content + b"\n" * 60_000_000, 9),
        )
    )()


def _mutate(files: Files, rng: Random) -> Files:
    names = sorted(name for name in files if name != _ADAPTER and not name.endswith(".png"))
    tables = [name for name in names if ".csv" in name]
    name = rng.choice(tables if tables and rng.random() < 0.7 else names)
    data = files[name]
    zipped = name.endswith(".gz")
    content = gzip.decompress(data) if zipped else data
    way = rng.random()
    if way < 0.05:
        return {other: value for other, value in files.items() if other != name}
    if zipped and way < 0.4:
        return {**files, name: _damaged_gzip(content, rng)}
    if name in tables and way < 0.75:
        content = _damaged_cells(content, rng)
    elif name.endswith(".txt") and way < 0.75:
        content = "\n".join(rng.choices(_REPORTS, k=rng.choice((1, 2)))).encode()
    else:
        content = damaged(content, rng)
    return {**files, name: gzip.compress(content, 1) if zipped else content}


def _read(folder: Path, rng: Random) -> None:
    from llava_rad.data import convert, load_manifest

    name = (folder / _ADAPTER).read_text(encoding="utf-8")
    output = folder / f"out.{rng.choice(('jsonl', 'parquet'))}"
    options: dict[str, str | bool] = {}
    if name == "csv":
        options = {"labels": "Edema,Pneumonia"} if rng.random() < 0.5 else {}
    report = convert(name, folder / "set", output, **options)
    assert report.studies == len(load_manifest(output)) > 0


def _ready() -> None:
    import pyarrow.parquet  # noqa: F401

    import llava_rad.data
    import llava_rad.metrics.rules  # noqa: F401


def _seeds() -> dict[str, Files]:
    report = "FINDINGS: Clear lungs on ___. No effusion. IMPRESSION: Normal."
    studies = [f"s{n}" for n in range(6)]
    pictures = {f"set/{study}.png": b"\x89PNG\r\n\x1a\n" for study in studies}

    def table(header: str, rows: list[str]) -> bytes:
        return "\n".join([header, *rows, ""]).encode()

    plain = table(
        "image,study_id,patient_id,split,view,report,sex,age,Edema,Pneumonia",
        [f'{s}.png,{s},p{s},train,PA,"{report}",F,5{s[1:]},1.0,0' for s in studies],
    )
    padchest = table(
        "ImageID,ImageDir,StudyID,PatientID,StudyDate_DICOM,PatientBirth,PatientSex_DICOM,"
        "Projection,Report,Labels",
        [
            f"{s}.png,,{s},p{int(s[1:]) // 2},2012010{s[1:]},1950,M,PA,sin hallazgos,\"['normal']\""
            for s in studies
        ],
    )
    ids = [(f"1000000{n}", f"5000000{n}", f"d{n}") for n in range(4)]
    metadata = table(
        "dicom_id,subject_id,study_id,ViewPosition,StudyDate,StudyTime",
        [f"{d},{p},{s},PA,21500101,93015.25" for p, s, d in ids],
    )
    split = table("dicom_id,study_id,subject_id,split", [f"{d},{s},{p},train" for p, s, d in ids])
    texts = {f"set/files/p10/p{p}/s{s}.txt": f"{report}\n".encode() for p, s, _ in ids}
    films = {f"set/files/p10/p{p}/s{s}/{d}.png": b"\x89PNG\r\n\x1a\n" for p, s, d in ids}
    xml = (
        '<eCitation><uId id="CXR1"/><MedlineCitation><Article><Abstract>'
        '<AbstractText Label="FINDINGS">Clear. XXXX.</AbstractText>'
        '<AbstractText Label="IMPRESSION">Normal.</AbstractText></Abstract></Article>'
        '</MedlineCitation><MeSH><major>normal</major></MeSH><parentImage id="CXR1_1_IM-0001"/>'
        "</eCitation>"
    )
    return {
        "csv": {_ADAPTER: b"csv", "set/table.csv": plain, **pictures},
        "padchest": {
            _ADAPTER: b"padchest",
            "set/PADCHEST_x.csv.gz": gzip.compress(padchest),
            **pictures,
        },
        "mimic-cxr": {
            _ADAPTER: b"mimic-cxr",
            "set/mimic-cxr-2.0.0-metadata.csv.gz": gzip.compress(metadata),
            "set/mimic-cxr-2.0.0-split.csv": split,
            **texts,
            **films,
        },
        "openi": {
            _ADAPTER: b"openi",
            "set/1.xml": xml.encode(),
            "set/2.xml": xml.replace("CXR1", "CXR2").encode(),
        },
        "folder": {
            _ADAPTER: b"folder",
            **{f"set/{study}.txt": report.encode() for study in studies},
            **pictures,
        },
    }


TABLES = Kind("csv", _seeds, _mutate, _read, _ready)
