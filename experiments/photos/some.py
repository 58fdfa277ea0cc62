"""Write a captioned folder of 350 validation photographs of Flickr8k, as somebody's own pictures.

250 are to train on (50 of them held back), 100 to evaluate on:

    python experiments/photos/some.py <flickr8k> <folder>
"""

import csv
import json
import sys
from pathlib import Path

flickr8k, folder = map(Path, sys.argv[1:])
images = json.loads((flickr8k / "dataset_flickr8k.json").read_text())["images"]
validation = [image for image in images if image["split"] == "val"][:350]
folder.mkdir(parents=True, exist_ok=True)
with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
    table = csv.writer(file)
    table.writerow(["image", "caption", "split"])
    for number, image in enumerate(validation):
        split = "train" if number < 250 else "val"
        table.writerows([image["filename"], one["raw"], split] for one in image["sentences"])
