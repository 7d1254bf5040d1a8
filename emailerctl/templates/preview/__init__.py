"""The page of `emailerctl templates preview`: plain HTML, CSS and JavaScript, nothing built."""

from pathlib import Path

FOLDER = Path(__file__).parent
