# SPDX-License-Identifier: Apache-2.0
"""The names of classes: those of a configuration, and how pages say them."""
from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Dict, List, Mapping, Optional

from yacs.config import CfgNode

from CaiT.data.datasets import CLASS_FILE
from CaiT.data.lists import read_label_map
from CaiT.errors import InputError


def class_names(config: CfgNode) -> Optional[List[str]]:
    """Those of DATA.LABEL_MAP, or of the file beside the dataset's lists where it fits the head; None: no names."""
    classes = config.MODEL.NUM_CLASSES
    if config.DATA.LABEL_MAP:
        return read_label_map(config.DATA.LABEL_MAP, classes)
    path = Path(config.DATA.DATA_PATH) / CLASS_FILE
    try:
        return read_label_map(path, classes) if path.is_file() else None
    except InputError:
        return None


def titles(names: Mapping[int, str]) -> Dict[int, str]:
    """Names that can be told apart: with the class id behind one that several classes have (ImageNet has two cranes).
    Blank ones are left out."""
    count = Counter(names.values())
    return {i: f'{name} ({i})' if count[name] > 1 else name for i, name in names.items() if name.strip()}
