"""Pretrain an encoder several times with one thing changed, and judge each of them.

    python eval/ablation.py mini_quantity --dry-run
    python eval/ablation.py mine.yaml output=runs/mine

The configuration names a recipe of configs/encoder, what is changed, and tasks as
eval/compare_encoders.py takes them. Each change is a pretraining by training/pretrain_encoder.py,
of the same number of optimiser steps whatever the number of images; shares of the patients lie
inside one another. Beside them stand the same architecture with random weights, and further
encoders if the configuration names some. --dry-run says what would be done.

The output folder gets ablation.md, .csv, .json, .html, .png and .svg. What is finished stays under
a name made of all that decided it (settings, images): the same command resumes a stopped run, and a
changed one does again what the change concerns. A pretraining that fails is named with the end of
its log, and the others go on. Several machines can share an ablation: --only NAME pretrains just
that one, and whoever runs last gets the whole table. `launcher` starts each pretraining on several
processes.

Intervals are over the test patients alone. How far equal pretrainings lie apart, `seeds` shows:
a value is then the mean, with a point for each pretraining.

The table goes to standard output, progress to standard error.
"""

if __name__ == "__main__":  # the imports below take seconds
    from llava_rad.ending import leave_quietly

    leave_quietly()

import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_rad.cli.command import program_app
from llava_rad.cli.common import say_once
from llava_rad.cli.options import Config, Overrides, Overwrite
from llava_rad.config import load_config, save_config, to_dict
from llava_rad.ending import program_ending
from llava_rad.errors import ConfigError, TrainingError
from llava_rad.files import write_json
from llava_rad.programs import find_config
from llava_rad.wording import counted, failed_of

if TYPE_CHECKING:
    from llava_rad.comparisons import AblationConfig
    from llava_rad.dinov2.config import PretrainingConfig
    from llava_rad.dinov2.variants import Variant
    from llava_rad.encoders import ImageEncoder
    from llava_rad.probing.judging import Judge

PROGRAM = Path(__file__).parents[1] / "training" / "pretrain_encoder.py"
FINISHED = "finished.json"  # in the folder of a pretraining that came to its end
TAIL = 12  # lines of a failed pretraining's log
STEM = "ablation"


def main(
    config: Config,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the pretrainings, and train nothing.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Pretrain just this cell; give it again for several."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Plan, pretrain, judge, write, print."""
    with program_ending("the same command goes on from there"):
        # Heavy imports wait until the options are read.
        from llava_rad.comparisons import AblationConfig
        from llava_rad.outputs import is_our_picture, own_results, refuse_results
        from llava_rad.probing.comparison import comparison_files, save_comparison, to_markdown
        from llava_rad.probing.curves import Curves, draw_curves, save_curves
        from llava_rad.probing.judging import Judge

        inputs = [find_config(config, "ablation")]
        settings = load_config(AblationConfig, inputs[0], overrides or [])
        results = {
            **comparison_files(STEM),
            **{f"{STEM}.{ending}": is_our_picture for ending in ("png", "svg")},
        }
        # 1. Everything that can be wrong is found before the first pretraining.
        begin = launch(settings.launcher)
        variants = plan(settings)
        check(settings, variants, only or [])
        refuse_results(settings.output, results, inputs, overwrite=overwrite)
        if dry_run:
            print(describe(variants), end="")
            return

        # 2. The pretrainings, each in processes of its own.
        judge = Judge(settings.tasks, settings.output / "predictions", settings.cache, say_once)
        folders: dict[str, list[Path]] = {}
        failed = 0
        for variant in variants:
            recipe, hashes = variant.place(settings.output, settings.launcher)
            if not (recipe.output / FINISHED).is_file():
                if only and variant.name not in only:
                    judge.left_out[variant.name] = "not pretrained yet"
                    continue
                try:
                    pretrain(variant, recipe, hashes, begin)
                except TrainingError as error:
                    judge.left_out[variant.name] = str(error)
                    failed += 1
                    say_once(f"FAILED: {variant.name}, seed {variant.seed}. {error}")
                    continue
            folders.setdefault(variant.name, []).append(recipe.output)

        # 3. Every task with what was pretrained, with random weights, with the further encoders.
        folders = {name: found for name, found in folders.items() if name not in judge.left_out}
        if not folders:
            raise TrainingError("no pretraining is finished", where=settings.output)
        for name, found in folders.items():
            encoders = (load(str(folder / "encoder")) for folder in found)
            judge.add(name, encoders, **facts_of(name, variants), folders=[*map(str, found)])
        baselines = add_baselines(judge, folders, settings.seeds)
        for entry in settings.encoders:
            judge.load(entry)

        # 4. Values, intervals, differences; the table and the curves.
        comparison = replace(
            judge.compare(settings.reference, resamples=settings.resamples, seed=0),
            row="pretraining",
            columns=("patients", "images", "steps", "input_size"),
        )
        places = {cell.name: cell.x for cell in settings.cells}
        curves = Curves(comparison, settings.axis, places, settings.log, baselines, judge.repeats())
        stem = settings.output / STEM
        # Not before: machines that share an ablation write into its folder together.
        with own_results(settings.output, results, inputs, what="ablation", overwrite=overwrite):
            svg = save_curves(draw_curves(curves), stem, settings.title)
            save_comparison(comparison, stem, settings.title, to_dict(settings), svg)
        print(to_markdown(comparison), end="")
        say_once(f"written to {settings.output}: ablation.md, .csv, .json, .html, .png, .svg")
    if failed:
        told = failed_of(failed, len(variants), "pretraining", "pretrainings", "in the table")
        say_once(f"{told}; the same command tries again")
        raise typer.Exit(1)


def plan(settings: "AblationConfig") -> "list[Variant]":
    """Every cell with every seed."""
    from llava_rad.dinov2.variants import make_variant, open_pool

    if not settings.sources:
        raise ConfigError(
            "there are no images to learn from",
            where="sources",
            remedy="Set for example sources='{mine: mine.jsonl}'",
        )
    pools = {name: open_pool(source) for name, source in settings.sources.items()}
    return [
        make_variant(
            cell.name,
            find_config(settings.recipe, "encoder"),
            (settings.overrides, cell.overrides),
            steps=settings.steps,
            pools={name: pools[name] for name in cell.sources or pools},
            share=cell.patients,
            seed=seed,
        )
        for cell in settings.cells
        for seed in settings.seeds
    ]


def check(settings: "AblationConfig", variants: "list[Variant]", only: list[str]) -> None:
    """Refuse what would fail, or mislead, after hours of pretraining."""
    from llava_rad.dinov2.image_sources import ImageFiles
    from llava_rad.probing.tasks import check_task
    from llava_rad.probing.unseen import require_unseen

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "this program runs as one process",
            remedy="Start it with plain Python, and set launcher for its pretrainings",
        )
    if unknown := set(only) - {cell.name for cell in settings.cells}:
        raise ConfigError(
            f"there is no cell {', '.join(sorted(unknown))}",
            where="--only",
            remedy=f"There are {', '.join(cell.name for cell in settings.cells)}",
        )
    drawn = [drawn for variant in variants for drawn in variant.drawn.values()]
    studies = {id(study): study for d in drawn for study in d.studies or ()}
    folders = [d.images for d in drawn if d.studies is None and isinstance(d.images, ImageFiles)]
    files = {str(path) for images in folders for path in images.paths}
    for task in settings.tasks:
        require_unseen(check_task(task), studies.values(), files, where=f"task {task.name!r}")


def describe(variants: "list[Variant]") -> str:
    """The pretrainings as a table."""
    titles = ["pretraining", "seed", "patients", "images", "steps", "images a step and process"]
    lines = [[*titles, "passes", "crops"], ["---"] * (len(titles) + 2)]
    for variant in variants:
        optimiser, crops = variant.recipe.optimiser, variant.recipe.crops
        batch = optimiser.batch_size * optimiser.accumulate
        cells = [variant.name, variant.seed, variant.patients or "", variant.images]
        cells += [variant.steps, batch, f"{variant.steps * batch / variant.images:.1f}"]
        cells += [f"{crops.global_size} and {crops.local_size} px"]
        lines.append([str(cell) for cell in cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def facts_of(name: str, variants: "list[Variant]") -> dict[str, int]:
    """What the table says of a cell; with several seeds, of the first."""
    variant = next(variant for variant in variants if variant.name == name)
    facts = {"images": variant.images, "steps": variant.steps}
    return facts if variant.patients is None else {"patients": variant.patients, **facts}


def launch(launcher: str | None) -> list[str]:
    """What a pretraining's command begins with; programs of this environment come first."""
    if launcher is None:
        return [sys.executable]
    program, *options = shlex.split(launcher)
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    found = shutil.which(program, path=os.pathsep.join(places))
    if found is None:
        raise ConfigError(
            f"there is no program {program!r}", where="launcher", remedy="Use for example torchrun"
        )
    return [found, *options]


def pretrain(
    variant: "Variant", recipe: "PretrainingConfig", hashes: dict[str, str], begin: list[str]
) -> None:
    """Run the program; by itself it goes on from its last checkpoint.

    Raises:
        TrainingError: it failed; the end of its log was printed.
    """
    who, folder = f"{variant.name}, seed {variant.seed}", recipe.output
    save_config(recipe, folder / "recipe.yaml")
    log = folder / "log.txt"
    say_once(
        f"{who}: {counted(variant.steps, 'step')} on {counted(variant.images, 'image')}, see {log}"
    )
    started = time.perf_counter()
    code = run([*begin, str(PROGRAM), str(folder / "recipe.yaml")], log)
    if code:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        for line in tail:
            say_once(f"    {line}")
        what = f"the pretraining ended with exit code {code} ({''.join(tail[-1:])})"
        raise TrainingError(what, where=log)
    say_once(f"{who}: done in {(time.perf_counter() - started) / 60:.1f} min")
    facts = {"pretraining": variant.name, "seed": variant.seed, "sources": hashes}
    write_json(folder / FINISHED, facts)


def run(command: list[str], log: Path) -> int:
    """Run a command, what it says added to a file; its exit code."""
    with log.open("ab") as stream:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    return done.returncode


def load(name: str) -> "ImageEncoder":
    """An encoder on this process's device."""
    from llava_rad.probing import load_judged
    from llava_rad.processes import process_state

    return load_judged(name, device=process_state().device)


def add_baselines(
    judge: "Judge", folders: dict[str, list[Path]], seeds: list[int]
) -> dict[str, str]:
    """A row of random weights for each architecture and input size; which row has which."""
    from llava_rad.comparisons import RANDOM_WEIGHTS

    alike: dict[tuple[int, ...], list[str]] = {}
    for name in folders:
        facts = judge.facts[name]
        kind = (facts["input_size"], facts["tokens"], facts["parameters"])
        alike.setdefault(kind, []).append(name)
    baselines: dict[str, str] = {}
    for (size, _, parameters), names in alike.items():
        row = (
            RANDOM_WEIGHTS
            if len(alike) == 1
            else f"{RANDOM_WEIGHTS}, {size} px, {parameters:,} parameters"
        )
        encoder = folders[names[-1]][0] / "encoder"
        judge.add(row, (load(f"random:{encoder}:{seed}") for seed in seeds))
        baselines |= dict.fromkeys(names, row)
    return baselines


app = program_app(main, __doc__, "eval/ablation.py")

if __name__ == "__main__":
    app()
