# SPDX-License-Identifier: Apache-2.0
"""The memory that resuming a file of predictions needs."""
from __future__ import annotations

import os
import tracemalloc

import pytest

from CaiT.data.text import csv_line, json_line
from CaiT.deploy.results import ResultFile


@pytest.mark.parametrize('ending', ['csv', 'jsonl'])
def test_of_a_file_that_is_resumed_only_the_paths_stay_in_memory(tmp_path, ending):
    """At most 400 bytes a row at the peak; with a dictionary for each it was more than 1,000."""
    path, count = tmp_path / f'out.{ending}', 10_000
    first = ResultFile(str(path), 1, False)
    first.close()
    rows = [[f'folder/{index}\n.png', 1, 'name', 0.5, '1', '0.5'] for index in range(count)]
    with open(path, 'a', encoding='utf-8', newline='') as file:
        for row in rows:
            file.write(csv_line(row) if ending == 'csv' else json_line(dict(zip(first.columns, row))))
        file.write('"half a\n' if ending == 'csv' else '{"path": "half')
    whole = path.stat().st_size - (8 if ending == 'csv' else 14)
    tracemalloc.start()
    resumed = ResultFile(str(path), 1, True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    resumed.close()
    assert peak / count < 400
    assert resumed.done == {os.path.abspath(row[0]) for row in rows} and path.stat().st_size == whole
