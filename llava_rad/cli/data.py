"""``llava-rad data``: data sets as manifests, and whether a manifest's images can be read."""

from pathlib import Path
from typing import Annotated, Any

import typer

from llava_rad.cli.common import progress, say, say_left_out, user_errors, write_out
from llava_rad.cli.options import Overwrite

# What the command has an option of its own for.
_OWN = ("validation", "test", "keep_identifiers", "key", "tell")


def data(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The data set's name, see --list; or check, for a manifest."
        ),
    ] = "",
    root: Annotated[
        Path | None,
        typer.Argument(
            metavar="ROOT", help="The folder it was unpacked into; for check, the manifest."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The manifest to write, .jsonl or .parquet; for check, a list of failures.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-O", metavar="KEY=VALUE", help="An option of the data set's own."
        ),
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0, max=1, help="The share of training patients for validation.")
    ] = 0.0,
    test: Annotated[
        float, typer.Option(min=0, max=1, help="The share of training patients for the test.")
    ] = 0.0,
    overwrite: Overwrite = False,
    keep_identifiers: Annotated[
        bool,
        typer.Option(
            "--keep-identifiers",
            help="Write patient ids, study UIDs and dates of DICOM headers as they are.",
        ),
    ] = False,
    id_key: Annotated[
        Path | None,
        typer.Option(help="The .key file of a manifest whose patients are to be found again."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="For check, how many processes read images.")
    ] = None,
    list_: Annotated[
        bool,
        typer.Option("--list", help="Say what the data sets (or NAME) are, and their options."),
    ] = False,
) -> None:
    """Turn a data set into a manifest, or check that a manifest's images can be read.

    Example:
        llava-rad data --list
        llava-rad data csv xrays.csv -O image=file -O labels=Edema,Pneumonia -o xrays.jsonl
        llava-rad data check xrays.jsonl
    """
    with user_errors("nothing was written"):
        from llava_rad.data import ADAPTERS, ConversionLog, convert, describe
        from llava_rad.errors import ConfigError
        from llava_rad.wording import counted

        if list_:
            write_out("\n\n".join(describe(known) for known in ([name] if name else ADAPTERS)))
            return
        if name == "check" and root is not None:
            _check(root, output, workers, overwrite=overwrite)
            return
        if not name or root is None or output is None:
            raise ConfigError(
                "a data set, its folder and --output are needed",
                remedy="llava-rad data NAME ROOT -o FILE; llava-rad data check MANIFEST; "
                "llava-rad data --list names the sets",
            )
        given = [item.partition("=") for item in option or []]
        pairs: dict[str, Any] = {key: value if sign else "true" for key, sign, value in given}
        for key in pairs.keys() & set(_OWN):
            raise ConfigError(
                f"{key} is no option of a data set", where="-O", remedy="See llava-rad data --help"
            )
        result = convert(
            name,
            root,
            output,
            validation=validation,
            test=test,
            overwrite=overwrite,
            keep_identifiers=keep_identifiers,
            key=id_key,
            tell=lambda text: say(f"warning: {text}"),
            **pairs,
        )
        say_left_out(ConversionLog(result.left_out, result.noted))
        say(f"every id is listed in {result.output}.report.json")
        if result.key is not None:
            say(
                f"the key of the ids is {result.key}: keep it apart from the manifest, or delete it"
            )
        splits = ", ".join(f"{count} {split}" for split, count in result.splits.items())
        say(
            f"{counted(result.studies, 'study', 'studies')} ({splits}), "
            f"{counted(result.images, 'image')}, {result.with_findings} with findings -> "
            f"{result.output}"
        )
        write_out(result.sha256)


def _check(manifest: Path, output: Path | None, workers: int | None, *, overwrite: bool) -> None:
    """Open every image of a manifest; exits with 1 if one cannot be read."""
    from llava_rad.data import load_manifest
    from llava_rad.data.checking import by_reason, check_images, images_of
    from llava_rad.names import escape_name, one_line
    from llava_rad.outputs import refuse_foreign, refuse_inputs, write_result
    from llava_rad.wording import counted

    images = images_of(load_manifest(manifest))
    if output is not None:
        refuse_inputs(output, [manifest, *images])
        refuse_foreign(output, _is_list, "list of failures", overwrite=overwrite)
    with progress("Images", len(images)) as advance:
        failures = check_images(images, workers=workers, progress=advance)
    lines = []
    for path, error in failures.items():
        parts = (error.kind, images[path], escape_name(path), error.what)
        lines.append("\t".join(one_line(part) for part in parts))
    if output is not None:
        write_result(output, (line + "\n" for line in lines))
    elif lines:
        write_out("\n".join(lines))
    for kind, count, example in by_reason(failures):
        say(f"{count:>8}  {kind:<22} first: {example}")
    place = output if output is not None else "stdout"
    count = len(failures)
    good = "it can be read" if len(images) == 1 else "all can be read"
    listed = f", {count} cannot be read -> {place}" if count else f", {good}"
    say(f"{counted(len(images), 'image')} opened{listed}")
    if failures:
        raise typer.Exit(1)


def _is_list(path: Path) -> bool:
    """Whether every line has the four columns of a list of failures."""
    with path.open("rb") as file:
        return all(line.count(b"\t") == 3 for line in file)
