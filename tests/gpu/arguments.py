"""The command line that all stages share."""

import argparse
from pathlib import Path


def parsed(description):
    """The folder for the results (``out``), the device, and whether this is a rehearsal with the smallest sizes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--miniature", action="store_true")
    return parser.parse_args()
