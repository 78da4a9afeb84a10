"""Requests to `llava-rad serve` from several clients at once, against one client alone.

    python benchmarks/serve.py IMAGES --minutes 5 --clients 8 [--output folder]

Starts the server on a free port of this machine, warms it up, then lets one client ask again and
again for --alone minutes and --clients clients for --minutes, in --rounds turns, so that both see
the same machine. Every request is one study of IMAGES. Prints a table; --output also gets
results.json. Ends with 1 where a request was lost: answered by an error, or not at all. Where other
work shares the machine, processor seconds of the server are what says most.
"""

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llava_rad.data import expand_inputs
from llava_rad.errors import LlavaRadError
from llava_rad.outputs import write_result

_BOUNDARY = "llava-rad-benchmark"


@dataclass
class Measured:
    """What clients saw.

    Attributes:
        clients: at once.
        seconds: from the first request to the last answer.
        latencies: seconds of each answer.
        lost: requests without a report, in words.
        memory: (seconds of the run, MB of the server) again and again.
        processor: seconds of the server's processors.
        texts: by study, all findings that were written of it.
    """

    clients: int
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    processor: float = 0.0
    texts: dict[int, set[str]] = field(default_factory=dict)

    @property
    def per_minute(self) -> float:
        """Reports a minute."""
        return 60 * len(self.latencies) / self.seconds

    @property
    def slope(self) -> float:
        """MB a minute, by least squares over the second half, when caches are full."""
        half = [point for point in self.memory if point[0] > self.seconds / 2]
        if len(half) < 3:
            return 0.0
        times, sizes = zip(*half, strict=True)
        return 60 * statistics.linear_regression(times, sizes).slope

    def row(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        cuts = statistics.quantiles(self.latencies, n=20) if len(self.latencies) > 1 else [0.0] * 19
        return {
            "clients": self.clients,
            "requests": len(self.latencies) + len(self.lost),
            "lost": len(self.lost),
            "reports_per_minute": self.per_minute,
            "processor_seconds_per_report": self.processor / max(1, len(self.latencies)),
            "p50_seconds": cuts[9],
            "p95_seconds": cuts[18],
            "memory_mb": self.memory[-1][1] if self.memory else 0.0,
            "memory_mb_per_minute": self.slope,
        }


def body_of(files: list[bytes]) -> bytes:
    """A form with the files of one study."""
    head = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name=files; filename=a\r\n\r\n"
    parts = [head.encode() + content + b"\r\n" for content in files]
    return b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()


def ask(connection: http.client.HTTPConnection, body: bytes) -> str:
    """The findings of one request. Raises OSError or ValueError where there are none."""
    kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    connection.request("POST", "/v1/report", body, kind)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise ValueError(f"{answer.status} {content[:200]!r}")
    return str(json.loads(content)["findings"])


def resident_mb(pid: int) -> float:
    """Memory of a process, on Linux; 0 elsewhere."""
    status = Path(f"/proc/{pid}/status")
    match = re.search(r"VmRSS:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(match[1]) / 1000 if match else 0.0


def processor_seconds(pid: int) -> float:
    """Time of a process on processors, on Linux; 0 elsewhere."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def measure(found: Measured, port: int, pid: int, bodies: list[bytes], minutes: float) -> None:
    """Let clients ask, each again as soon as it has its answer."""
    clients, before = found.clients, processor_seconds(pid)
    lock, begun = threading.Lock(), time.monotonic()
    end = begun + 60 * minutes

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        turn = number
        while turn == number or time.monotonic() < end:
            study, asked = turn % len(bodies), time.monotonic()
            turn += clients
            try:
                text = ask(connection, bodies[study])
            except (OSError, ValueError, http.client.HTTPException) as error:
                connection.close()
                with lock:
                    found.lost.append(f"{type(error).__name__}: {error}")
                continue
            with lock:
                found.latencies.append(time.monotonic() - asked)
                found.texts.setdefault(study, set()).add(text)
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found.memory.append((found.seconds + time.monotonic() - begun, resident_mb(pid)))
        time.sleep(0.5)
    found.seconds += time.monotonic() - begun
    found.processor += processor_seconds(pid) - before


def start(model: str) -> tuple[subprocess.Popen[str], int]:
    """The server's process and port, when it takes requests."""
    command = [sys.executable, "-m", "llava_rad", "serve", model, "--port", "0"]
    environment = os.environ | {"COLUMNS": "500"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        ready = re.search(r"serving .* on http://127\.0\.0\.1:(\d+)", line)
        if ready:
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, int(ready[1])
    sys.exit(said.strip() or "error: the server did not start")


def table(rows: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    lines = [
        "| clients | requests | lost | reports per minute | against one | "
        "processor seconds a report | against one | p50, s | p95, s | memory, MB | MB per minute |",
        f"|{'---|' * 11}",
    ]
    for row in rows:
        ratio = row["reports_per_minute"] / rows[0]["reports_per_minute"]
        processor = row["processor_seconds_per_report"]
        spared = rows[0]["processor_seconds_per_report"] / processor if processor else 0.0
        lines.append(
            f"| {row['clients']} | {row['requests']} | {row['lost']} | "
            f"{row['reports_per_minute']:.0f} | {ratio:.2f} x | {processor:.2f} | {spared:.2f} x | "
            f"{row['p50_seconds']:.2f} | {row['p95_seconds']:.2f} | {row['memory_mb']:.0f} | "
            f"{row['memory_mb_per_minute']:+.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", help="image files, folders, globs or manifests")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=5.0, help="of all clients together")
    parser.add_argument("--alone", type=float, default=1.0, help="minutes of one client")
    parser.add_argument("--rounds", type=int, default=5, help="turns that both come to")
    parser.add_argument("--count", type=int, default=32, help="studies that are asked for in turn")
    parser.add_argument("--output", type=Path, help="a folder for results.json")
    chosen = parser.parse_args()
    try:
        studies = expand_inputs(chosen.images)[: chosen.count]
    except LlavaRadError as error:
        sys.exit(f"error: {error}")
    bodies = [body_of([Path(image.path).read_bytes() for image in s.images]) for s in studies]
    process, port = start(chosen.model)
    try:
        measure(Measured(chosen.clients), port, process.pid, bodies, 0.05)  # warm
        found = [Measured(1), Measured(chosen.clients)]
        for _ in range(chosen.rounds):
            for one, minutes in zip(found, (chosen.alone, chosen.minutes), strict=True):
                measure(one, port, process.pid, bodies, minutes / chosen.rounds)
    finally:
        process.terminate()
        code = process.wait()
    rows = [one.row() for one in found]
    print(table(rows))
    texts = [one.texts for one in found]
    same = all(len(written) == 1 for one in texts for written in one.values()) and all(
        texts[0][study] == texts[1][study] for study in texts[0].keys() & texts[1].keys()
    )
    print(f"\nTexts of one study {'are all the same' if same else 'DIFFER'}; exit code {code}.")
    lost = [line for one in found for line in one.lost]
    for line in lost[:5]:
        print(f"lost: {line}", file=sys.stderr)
    if chosen.output is not None:
        values = {"rows": rows, "texts_the_same": same, "server_exit_code": code}
        chosen.output.mkdir(parents=True, exist_ok=True)
        write_result(chosen.output / "results.json", json.dumps(values, indent=1) + "\n")
    sys.exit(1 if lost or not same else 0)


if __name__ == "__main__":
    main()
