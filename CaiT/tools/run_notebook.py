# SPDX-License-Identifier: Apache-2.0
"""Run the quick-start notebook from top to bottom; with --write, render it to docs/quickstart.md.

    python -m CaiT.tools.run_notebook            run it; the exit status is not 0 when a cell fails
    python -m CaiT.tools.run_notebook --write    and write docs/quickstart.md with its images in docs/images

The notebook itself is not changed, so that its outputs stay out of the repository. Needs the extra ``notebook``
(nbclient, ipykernel).
"""
from __future__ import annotations

import base64
import io
import re
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

if __package__ in (None, ''):  # run by path: the package's parent, not this folder, belongs on the path
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from PIL import Image

from CaiT.cli import Parser
from CaiT.errors import InputError, run
from CaiT.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / 'notebooks/cait_quickstart.ipynb'
PAGE = ROOT / 'docs/quickstart.md'
HEAD = """<!-- written by `python -m CaiT.tools.run_notebook --write`; edit notebooks/cait_quickstart.ipynb instead -->
"""


def execute(path: Path, timeout: int) -> Any:
    """The notebook with the outputs of this run; InputError when a cell fails, after printing the cell's error."""
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError, CellTimeoutError
    except ImportError as error:
        raise InputError(f"{error.name} is not installed: pip install -e '.[notebook,digits,plots]'") from None
    notebook = nbformat.read(path, as_version=4)
    try:
        NotebookClient(notebook, timeout=timeout, resources={'metadata': {'path': str(path.parent)}}).execute()
    except CellExecutionError as error:
        print(error, file=sys.stderr)
        raise InputError(f'{path}: a cell failed, see above') from None
    except CellTimeoutError:
        raise InputError(f'{path}: a cell took more than {timeout} seconds') from None
    return notebook


def render(cells: List[Dict[str, Any]]) -> Tuple[str, Dict[str, bytes]]:
    """The executed cells as Markdown, printed output before figures, and the figures: {name in docs/images: PNG}.
    Output to stderr (warnings about the machine) is omitted."""
    parts, images = [HEAD], {}
    for cell in cells:
        if cell['cell_type'] == 'markdown':
            parts.append(cell['source'].replace('](../docs/', '](') + '\n')
            continue
        parts.append(f'```python\n{cell["source"]}\n```\n')
        printed = ''.join(output['text'] for output in cell['outputs'] if output.get('name') == 'stdout')
        printed = re.sub(r'\x1b\[[\d;]*m', '', printed).rstrip()
        if printed:
            parts.append(f'```\n{printed}\n```\n')
        for output in cell['outputs']:
            if 'image/png' in output.get('data', {}):
                name = f'quickstart-{len(images) + 1}.png'
                images[name] = base64.b64decode(output['data']['image/png'])
                parts.append(f'![{name[:-4]}](images/{name})\n')
    return '\n'.join(parts), images


def compact(png: bytes) -> bytes:
    """The image with at most 256 colors: half the size or less, for a repository."""
    image = Image.open(io.BytesIO(png)).convert('RGB')
    image = image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, 'PNG', optimize=True)
    return file.getvalue()


def main(arguments: Optional[List[str]] = None) -> int:
    parser = Parser(__doc__)
    parser.switch('write', help=f'write {PAGE.relative_to(ROOT)} and its images')
    parser.flag('timeout', type=int, default=600, metavar='SECONDS', help='for one cell; default 600')
    options = parser.parse_args(arguments)
    started = time.monotonic()
    notebook = execute(NOTEBOOK, options.timeout)
    print(f'{NOTEBOOK.relative_to(ROOT)}: {len(notebook["cells"])} cells ran in {time.monotonic() - started:.0f} s')
    if options.write:
        text, images = render(notebook['cells'])
        for name, content in images.items():
            with atomic_write(PAGE.parent / 'images' / name, 'wb') as file:
                file.write(compact(content))
        with atomic_write(PAGE) as file:
            file.write(text)
        print(f'{PAGE.relative_to(ROOT)}: written, with {len(images)} images')
    return 0


if __name__ == '__main__':
    run(main)
