"""Reports per minute and peak memory of a report model on this machine.

    python benchmarks/generation.py IMAGES --model mini --batch-sizes 1 8 --dtypes float32 bfloat16

Each row is measured in a process of its own, so that its peak memory is its own: first one batch
that is not timed, then --count images read from disk, preprocessed, encoded and decoded. Prints a
Markdown table on stdout.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time


def main() -> None:
    """Measure every combination, or one of them in a child process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", help="image files, folders, globs or manifests")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--count", type=int, default=64, help="images to time")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return

    rows = []
    for dtype in arguments.dtypes:
        for size in arguments.batch_sizes:
            command = [
                sys.executable, __file__, *arguments.images, "--one", "--model", arguments.model,
                "--count", str(arguments.count), "--batch-sizes", str(size), "--dtypes", dtype,
                "--device", arguments.device,
            ]  # fmt: skip
            print(f"measuring {dtype}, batch {size} ...", file=sys.stderr)
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit(done.returncode)
            rows.append(json.loads(done.stdout.splitlines()[-1]))

    first = rows[0]
    print(
        f"Model `{first['model']}`, {first['count']} images, {first['device']}, "
        f"{first['threads']} threads, mean report {first['tokens']:.0f} tokens.\n"
    )
    print("| dtype | batch | reports per minute | against the first row | peak memory, GiB |")
    print("|---|---|---|---|---|")
    for row in rows:
        ratio = row["per_minute"] / first["per_minute"]
        print(
            f"| {row['dtype']} | {row['batch']} | {row['per_minute']:.0f} | {ratio:.2f} x | "
            f"{row['peak_gib']:.2f} |"
        )


def measure(arguments: argparse.Namespace) -> dict:
    """Time one combination in this process."""
    import torch

    from llava_rad import load
    from llava_rad.data import expand_inputs
    from llava_rad.errors import LlavaRadError
    from llava_rad.reports.report import Report
    from llava_rad.reports.study import report_studies

    try:
        size, dtype = arguments.batch_sizes[0], arguments.dtypes[0]
        studies = expand_inputs(arguments.images)[: arguments.count]
        model = load(arguments.model, dtype=getattr(torch, dtype), device=arguments.device)
        list(report_studies(model, studies[:size], batch_size=size))
        start = time.perf_counter()
        results = list(report_studies(model, studies, batch_size=size))
        seconds = time.perf_counter() - start
    except LlavaRadError as error:
        sys.exit(f"error: {error}")
    reports = [r for r in results if isinstance(r, Report)]
    if not reports:
        sys.exit("error: none of the images could be read")
    if arguments.device.startswith("cuda"):
        peak, device = torch.cuda.max_memory_allocated(), torch.cuda.get_device_name()
    else:
        # in KiB on Linux, in bytes on macOS
        unit = 1 if platform.system() == "Darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        device = "CPU"
    return {
        "model": model.config.name,
        "dtype": dtype,
        "batch": size,
        "count": len(reports),
        "device": device,
        "threads": torch.get_num_threads(),
        "tokens": sum(r.tokens for r in reports) / len(reports),
        "per_minute": 60 * len(reports) / seconds,
        "peak_gib": peak / 2**30,
    }


if __name__ == "__main__":
    main()
