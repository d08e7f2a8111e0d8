"""Enlarges photographs four times, with the help of sharp photographs of the same place.

python -m rrsr_jax.upscale INPUT [--ref REF [REF ...]] [--out OUT] [--weights WEIGHTS] [--search HOW] [--compare] [--force]
python -m rrsr_jax.upscale --example  # writes a pair to the folder `example`, and uses it, with --compare

INPUT is a photograph or a folder of photographs. REF is a photograph, or a folder of candidates, of which those that match an
INPUT best are used for it. Without --ref, details come from the INPUT itself. Of a folder, finished photographs are skipped when
the command is given again. Exit status: 0; 1 if some photographs of a folder failed; 2 for an error; 130 for Ctrl-C.
"""

import argparse
import contextlib
import functools
import hashlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import tqdm

from rrsr_jax import __version__
from rrsr_jax.console import exit_on_error
from rrsr_jax.errors import FULL_DISK, InputError
from rrsr_jax.inference import LITTLE
from rrsr_jax.inference.jobs import (
    SUFFIX,
    Job,
    Record,
    check_file,
    check_out_folder,
    check_outputs,
    digest,
    jobs_of_folder,
    reference_files,
)
from rrsr_jax.workdir import lock
from rrsr_jax.workdir.files import inside

if TYPE_CHECKING:
    from rrsr_jax.data.pictures import Picture
    from rrsr_jax.inference.references import References

RECORD = "upscaled.jsonl"  # in a folder of results: what each was made from
EXAMPLE = "example"  # the folder


@exit_on_error(interrupted="no unfinished file is left; of a folder, the same command continues")
def main(argv: Sequence[str] | None = None, upscaler: Callable[..., Any] | None = None) -> None:
    """Runs the command.

    Args:
      argv: its arguments; None for those of the process.
      upscaler: what takes the place of the class `Upscaler`.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if (options.input is None) != options.example or (options.example and options.ref):
        parser.error("INPUT expected, or --example without INPUT and --ref")

    @functools.cache
    def open_upscaler():
        if upscaler:
            return upscaler(options.weights, search=options.search)
        from rrsr_jax.inference.upscaler import Upscaler  # JAX: bad paths are told without it

        return Upscaler(options.weights, search=options.search)

    if options.example:
        from rrsr_jax.inference.example import write_example

        options.input, reference = write_example(pathlib.Path(EXAMPLE))
        options.ref, options.compare = [reference], True
    succeeded = (_upscale_folder if options.input.is_dir() else _upscale_one)(options, open_upscaler)
    if not succeeded:
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rrsr_jax.upscale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    path = pathlib.Path
    parser.add_argument("input", type=path, nargs="?", metavar="INPUT", help="photograph, or folder of photographs")
    parser.add_argument(
        "--ref", type=path, nargs="+", action="extend", default=[], help="sharp photographs, or folders of candidates"
    )
    parser.add_argument(
        "--out",
        type=path,
        help=f"file, whose ending chooses the format, or folder (default: NAME{SUFFIX}.png beside INPUT, or NAME{SUFFIX}/)",
    )
    parser.add_argument(
        "--weights", default="photo", help="name of weights, their folder, or a run's workdir (default: %(default)s)"
    )
    parser.add_argument(
        "--search", choices=("auto", "exact", "coarse"), default="auto", help="for matches (default: chosen by size)"
    )
    parser.add_argument("--compare", action="store_true", help="also write a page that shows before and after")
    parser.add_argument("--example", action="store_true", help=f"write a pair to the folder {EXAMPLE}, and use it")
    parser.add_argument("--force", action="store_true", help="replace existing files; do finished photographs again")
    return parser


def _upscale_one(options: argparse.Namespace, open_upscaler: Callable[[], Any]) -> bool:
    source, out = options.input, options.out
    check_file(source)
    files, candidates = reference_files(options.ref)
    name = f"{source.stem}{SUFFIX}.png"
    out = source.with_name(name) if out is None else out / name if out.is_dir() else out
    job = Job(source, out, out.with_suffix(".html") if options.compare else None)

    from rrsr_jax.data.pictures import read_picture
    from rrsr_jax.inference.references import References

    picture = read_picture(source)
    check_outputs(job, picture, [source, *files, *candidates], options.force)
    references = References(files, candidates)
    _say(references.notes)
    print(_upscale(job, picture, references, open_upscaler(), options.force))
    return True


def _upscale_folder(options: argparse.Namespace, open_upscaler: Callable[[], Any]) -> bool:
    """Whether no photograph failed."""
    named = options.input if options.input.name not in ("", "..") else options.input.resolve()
    out = options.out or named.with_name(named.name + SUFFIX)
    check_out_folder(options.input, out)
    files, candidates = reference_files(options.ref)
    jobs = jobs_of_folder(options.input, out, options.compare)
    with lock.only_writer(out / lock.NAME, f"--out={out}"):
        return _upscale_jobs(jobs, out, files, candidates, options, open_upscaler)


def _upscale_jobs(
    jobs: Sequence[Job],
    out: pathlib.Path,
    files: Sequence[pathlib.Path],
    candidates: Sequence[pathlib.Path],
    options: argparse.Namespace,
    open_upscaler: Callable[[], Any],
) -> bool:
    from rrsr_jax.data.pictures import read_picture
    from rrsr_jax.inference.references import References
    from rrsr_jax.weights import released

    common = [__version__, released.fingerprint(options.weights), options.search, *map(digest, [*files, *candidates])]
    record = Record(inside(out, RECORD))
    keys = {job: hashlib.sha256("".join([digest(job.source), *common]).encode()).hexdigest() for job in jobs}
    finished = {job for job in jobs if not options.force and record.has(job, keys[job])}
    failed: dict[pathlib.Path, str] = {}
    if len(finished) < len(jobs):
        references, upscaler = References(files, candidates), open_upscaler()
        _say(references.notes)
    for job in tqdm.tqdm(jobs, unit="photo", disable=not sys.stderr.isatty(), dynamic_ncols=True):
        if job in finished:
            continue
        try:
            check_file(job.source)
            picture, force = read_picture(job.source), options.force or record.may_replace(job, keys[job])
            check_outputs(job, picture, [job.source, *files, *candidates], force)
            record.begin(job, keys[job])
            text = _upscale(job, picture, references, upscaler, force, functools.partial(record.finish, job, keys[job]))
        except (InputError, OSError, MemoryError) as error:
            if _disk_is_full(error):
                raise
            failed[job.source] = f"{job.source}: not enough memory" if isinstance(error, MemoryError) else str(error)
            tqdm.tqdm.write(f"failed: {failed[job.source]}", file=sys.stderr)
        else:
            tqdm.tqdm.write(text, file=sys.stdout)
    print(f"{out}: {len(jobs) - len(finished) - len(failed)} upscaled")
    if finished:
        print(f"skipped, because finished before: {len(finished)}: {_listed(j.source for j in jobs if j in finished)}")
    if failed:
        print(f"failed: {len(failed)} of {len(jobs)}", *failed.values(), sep="\n  ", file=sys.stderr)
    return not failed


def _upscale(
    job: Job,
    picture: "Picture",
    references: "References",
    upscaler: Any,
    force: bool,
    written: Callable[[], None] = lambda: None,
) -> str:
    """Upscales the photograph and writes the result; calls `written` before the page. Returns what to say about it."""
    from rrsr_jax.data.pictures import write_picture

    since = time.perf_counter()
    chosen, lines = references.choose(job.source, picture.rgb, upscaler)
    with _bar(job.source.name) as progress:
        upscaled = upscaler.upscale(picture.rgb, [reference.rgb for reference in chosen.values()], progress=progress)
    for path, used, done in zip(chosen, upscaled.used, upscaled.notes, strict=True):
        hardly = "; it hardly helps" if used < LITTLE else ""
        lines.append(f"reference used for {100 * used:.0f} % of the image: {path}{f', {done}' if done else ''}{hardly}")
    if not chosen:
        lines.append("no reference: details come from the photograph itself")
    lines += [f"note: {path}: {note}" for path, reference in chosen.items() for note in reference.notes]
    notes = write_picture(job.out, picture.enlarged(upscaled.rgb), force=force)
    written()
    lines += [f"note: {note}" for note in (*picture.notes, *notes)]
    (h, w), (height, width) = picture.rgb.shape[:2], upscaled.rgb.shape[:2]
    sizes, seconds = f"{w} x {h} to {width} x {height} pixels", time.perf_counter() - since
    lines.append(f"written: {_listed(job.outputs())}")
    text = "\n  ".join([f"{job.source}: {sizes}, {upscaled.search} search, {seconds:.1f} s", *lines])
    if job.page:
        from rrsr_jax.evaluation.comparison_page import write_before_and_after

        thumbnails = {path.name: reference.rgb for path, reference in chosen.items()}
        write_before_and_after(job.page, job.source.name, text, picture.rgb, upscaled.rgb, thumbnails)
    return text


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Callable[[float, str], None]]:
    """While active, a bar on a terminal shows how much of one photograph is done; yields what is to be told."""
    shape = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}"
    hidden = not sys.stderr.isatty()
    with tqdm.tqdm(total=1.0, leave=False, disable=hidden, dynamic_ncols=True, bar_format=shape) as bar:

        def progress(share: float, what: str) -> None:
            bar.set_description_str(f"{name}, {what}", refresh=False)
            bar.n = share
            bar.refresh()

        yield progress


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        print(note, flush=True)


def _disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or the one behind it, is that of a full disk."""
    while error is not None and not (isinstance(error, OSError) and error.errno in FULL_DISK):
        error = error.__cause__
    return error is not None


def _listed(paths: Iterable[pathlib.Path]) -> str:
    return ", ".join(map(str, paths))


if __name__ == "__main__":
    main()
