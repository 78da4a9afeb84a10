"""Encoders through tasks, every outcome kept, and what they say beside one another."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llava_rad.config import Count, check_ranges
from llava_rad.data import hash_manifest
from llava_rad.encoders import ImageEncoder
from llava_rad.errors import ConfigError, WeightsError
from llava_rad.probing.baselines import load_judged
from llava_rad.probing.comparison import Comparison, Pair
from llava_rad.probing.outcome import OUTCOME_VERSION, Outcome, join_fits, load_outcome
from llava_rad.probing.record import encoder_facts
from llava_rad.probing.tasks import TaskConfig, run_task
from llava_rad.processes import process_state
from llava_rad.statistics import holm


@dataclass(frozen=True)
class EncoderConfig:
    """One row of a table.

    Attributes:
        name: of the row.
        encoder: what :func:`llava_rad.probing.load_judged` takes.
        image_size: side of the input in pixels, where it shall not be the encoder's own.
    """

    name: str
    encoder: str
    image_size: Count | None = None

    def __post_init__(self) -> None:
        check_ranges(self)


class Judge:
    """Runs the same tasks with one encoder after the other.

    Test predictions are kept under a name made from everything that decides them, so that nothing
    is done twice: in this run, in a later one, or with other encoders beside it.

    Args:
        tasks: columns of the table.
        predictions: folder of the test predictions.
        cache: folder for vectors and patch tokens of all encoders.
        progress: called with a line now and then.

    Attributes:
        facts: of each encoder, by the name of its row.
        parts: outcomes by task and row; several where a row has several encoders.
        left_out: rows that could not be made, with the reason.
    """

    def __init__(
        self,
        tasks: Sequence[TaskConfig],
        predictions: Path,
        cache: Path,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.tasks = tasks
        self.predictions = predictions
        self.cache = cache
        self.say = progress or (lambda line: None)
        self.facts: dict[str, dict[str, Any]] = {}
        self.parts: dict[str, dict[str, list[Outcome]]] = {task.name: {} for task in tasks}
        self.left_out: dict[str, str] = {}

    def add(self, name: str, encoders: Iterable[ImageEncoder], **facts: Any) -> None:
        """Make a row.

        Args:
            name: of the row.
            encoders: one, or the same pretrained several times, one in memory at a time.
            facts: further ones of the row.

        Raises:
            ConfigError, DataError, ImageError: a task cannot be done.
        """
        found: dict[str, list[Outcome]] = {task.name: [] for task in self.tasks}
        for encoder in encoders:
            facts = {**encoder_facts(encoder), **facts}
            for task in self.tasks:
                self.say(f"{name}: {task.name}")
                found[task.name].append(self._finished_or_run(encoder, task))
        self.facts[name] = facts
        for task_name, outcomes in found.items():
            self.parts[task_name][name] = outcomes

    def load(self, entry: EncoderConfig, *, require: bool = False) -> None:
        """Load an encoder and make its row, or note why it is left out.

        Raises:
            WeightsError: it cannot be loaded, and ``require`` is set.
        """
        device = process_state().device
        try:
            encoder = load_judged(entry.encoder, image_size=entry.image_size, device=device)
        except WeightsError as error:
            if require:
                raise
            self.left_out[entry.name] = str(error)
            self.say(f"left out: {entry.name}. {error}")
        else:
            self.add(entry.name, [encoder])

    def compare(
        self,
        reference: str,
        *,
        resamples: int,
        seed: int,
    ) -> Comparison:
        """Every value with its interval, and all pairs of rows on each task's headline.

        Args:
            reference: the row that the others are compared with; where it was left out, the first.
            resamples: of the test patients.
            seed: of the resamples.
        """
        if reference not in self.facts:
            reference = next(iter(self.facts))
            self.say(f"the reference is {reference}")
        how = {"resamples": resamples, "seed": seed}
        names = [name for name in self.facts if name != reference] + [reference]
        outcomes = {
            task: {name: join_fits(by_name[name]) for name in self.facts}
            for task, by_name in self.parts.items()
        }
        pairs: list[Pair] = []
        for task, by_name in outcomes.items():
            measure = by_name[reference].headline
            found = [
                (first, second, by_name[first].compare(by_name[second], **how)[measure])
                for first, second in itertools.combinations(names, 2)
            ]
            corrected = holm([difference.p for *_, difference in found])
            pairs += [
                Pair(task, measure, first, second, difference, p)
                for (first, second, difference), p in zip(found, corrected, strict=True)
            ]
        kinds = {task: by_name[reference] for task, by_name in outcomes.items()}
        return Comparison(
            encoders=self.facts,
            estimates={
                task: {name: outcome.estimates(**how) for name, outcome in by_name.items()}
                for task, by_name in outcomes.items()
            },
            headlines={task: kind.headline for task, kind in kinds.items()},
            lower_is_better=tuple(t for t, k in kinds.items() if k.headline in k.lower_is_better),
            pairs=tuple(pairs),
            reference=reference,
            left_out=self.left_out,
        )

    def repeats(self) -> dict[str, dict[str, list[float]]]:
        """The headline of each encoder by task and row, for rows of several encoders."""
        return {
            task: {
                name: [part.measured()[part.headline] for part in parts]
                for name, parts in by_row.items()
                if len(parts) > 1
            }
            for task, by_row in self.parts.items()
        }

    def _finished_or_run(self, encoder: ImageEncoder, task: TaskConfig) -> Outcome:
        """The test predictions, from their folder if the same was done before."""
        asked = {key: value for key, value in asdict(task).items() if key != "name"}
        asked["manifests"] = [hash_manifest(path) for path in task.manifests]
        asked["encoder"] = encoder.fingerprint()
        asked["outcome"] = OUTCOME_VERSION
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]
        path = self.predictions / f"{key}.npz"
        found = path.is_file()
        process_state().wait_for_everyone()  # before the first process may write it
        if found:
            return load_outcome(path)
        outcome = run_task(encoder, task, self.cache, self.say)
        if process_state().is_main_process:
            outcome.save(path)
        return outcome


def require_own_names(what: str, names: Sequence[str]) -> None:
    """Refuse a list that is empty or names something twice.

    Raises:
        ConfigError: saying what the names are.
    """
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"{what} are {', '.join(names) or 'missing'}",
            remedy="Give at least one, each with a name of its own",
        )
