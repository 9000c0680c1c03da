"""``l2rfast-bids``: `l2rfast cohort` of a BIDS data set, called as a BIDS app is (Gorgolewski et al., PLOS Comput Biol
2017): data set, folder of results, level."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from ..errors import InputError
from ..methods.cohort.study import JOBS
from ..output import written_whole
from . import main as run
from .notices import say

DESCRIPTION = "dataset_description.json"


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point: the words of ``l2rfast cohort``, and a description of what it wrote."""
    version = metadata.version("l2rfast")
    parser = ArgumentParser(
        prog="l2rfast-bids",
        description="Register the images of a BIDS data set.",
        epilog="Other options are those of l2rfast cohort, as --fixed TEMPLATE.nii.gz or --bids-pairs sessions.",
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", help="the data set")
    parser.add_argument("output_dir", help="folder of the study, created if absent")
    parser.add_argument(
        "analysis_level",
        choices=["participant", "group"],
        help="participant: register, several tasks at a time in one folder; group: what is missing, and sum up",
    )
    parser.add_argument(
        "--participant-label", "--participant_label", nargs="+", default=[], help="of subjects, without sub-; all"
    )
    parser.add_argument(
        "--skip-bids-validation", "--skip_bids_validation", action="store_true", help="nothing is validated in any case"
    )
    parser.add_argument("-v", "--version", action="version", version=f"l2rfast {version}")
    given, others = parser.parse_known_args(argv)
    labels = [f"--bids-participant={label}" for label in given.participant_label]
    if labels and given.analysis_level == "group":
        parser.error("--participant-label: of the level participant, got it with group")
    if any(word.partition("=")[0] == "--out" for word in others):
        parser.error("--out: expected it not to be given, as output_dir says where results go")
    folder = Path(given.output_dir)
    try:
        run(["cohort", given.bids_dir, f"--out={given.output_dir}", "--resume", *labels, *others])
    finally:
        if given.output_dir and (folder / JOBS).exists():
            _describe(folder, version)


def _describe(folder: Path, version: str) -> None:
    """Write what BIDS asks for of derivatives, where a study is; end in one sentence where that cannot be."""
    try:
        with written_whole(folder / DESCRIPTION, links=False) as file:
            file.write_text(json.dumps(_described(version), indent=1) + "\n")
    except InputError as error:
        say(f"l2rfast-bids: error: {error}")
        raise SystemExit(2) from None


def _described(version: str) -> dict[str, object]:
    made = [{"Name": "l2rfast", "Version": version}]
    return {"Name": "l2rfast", "BIDSVersion": "1.9.0", "DatasetType": "derivative", "GeneratedBy": made}
