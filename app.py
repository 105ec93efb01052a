# SPDX-License-Identifier: Apache-2.0
"""A web page, with Gradio, that classifies images with an exported model.

    python app.py                                      the model in output/infer, http://127.0.0.1:7860
    python app.py --model-dir=model --host=0.0.0.0     in a container; a Space says the same in its environment

Classes and probabilities are infer.py's. The page also shows what the class token attends to in the last block, when
the model was exported with --attention (or --client gradio) and ONNX Runtime is installed.
"""
from __future__ import annotations

import inspect
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from PIL import Image

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.deploy.attention import Attention
from CaiT.deploy.clients import gradio as attention_of
from CaiT.deploy.engines import Options, backends
from CaiT.deploy.metadata import PRECISIONS
from CaiT.deploy.predictor import Predictor
from CaiT.errors import InputError

MODEL_DIR = 'output/infer'
MAX_BYTES = 10 << 20  # of an uploaded file
WAITING = 64  # requests in the queue; later ones are told that it is full
TOPK = 5


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.flag('model_dir', default=os.environ.get('MODEL_DIR', MODEL_DIR), metavar='FOLDER',
               help=f'an exported model; default $MODEL_DIR, else {MODEL_DIR}')
    flags.flag('backend', default='paddle', help=f'{" | ".join(backends())}; default paddle')
    flags.flag('precision', default='fp32', help=f'{" | ".join(PRECISIONS)}; default fp32')
    flags.flag('cpu_threads', type=int, default=0, metavar='N', help='default: all cores')
    flags.flag('host', default=os.environ.get('GRADIO_SERVER_NAME', '127.0.0.1'), metavar='ADDRESS',
               help='default $GRADIO_SERVER_NAME, else 127.0.0.1')
    flags.flag('port', type=int, default=0, metavar='N', help='default $GRADIO_SERVER_PORT, else 7860 or the next free')
    return flags


class Result(NamedTuple):
    """Of one image: {class name: probability}, the image under its attention, and a sentence."""
    classes: Optional[Dict[str, float]]
    attention: Optional[Image.Image]
    sentence: str


class Classifier:
    """Any number of threads may call it."""

    def __init__(self, predictor: Predictor, attention: Optional[Attention]) -> None:
        self.predictor, self.attention = predictor, attention

    def __call__(self, path: Optional[str]) -> Result:
        """The answer for an image file; of one that cannot be decoded only the sentence."""
        if not path:
            return Result(None, None, 'Drop an image, or choose one below.')
        if os.path.getsize(path) > MAX_BYTES:
            return Result(None, None, f'This file has {os.path.getsize(path) / (1 << 20):.1f} MB, expected at most '
                          f'{MAX_BYTES >> 20}.')
        content, started = Path(path).read_bytes(), time.perf_counter()
        prediction = next(iter(self.predictor.predict([content], TOPK)))
        if isinstance(prediction, InputError):
            return Result(None, None, f'This file {str(prediction).split(": ", 1)[1]}.')
        milliseconds = 1000 * (time.perf_counter() - started)
        shown = attention_of.overlay(*attention_of.last_block(self.attention, content)) if self.attention else None
        return Result(self.names(prediction.best), shown, f'{milliseconds:.0f} ms.')

    def names(self, best: List[Tuple[int, float]]) -> Dict[str, float]:
        """{class name: probability}; of classes with the same name the later ones get their ids."""
        found: Dict[str, float] = {}
        for class_id, probability in best:
            name = self.predictor.class_name(class_id) or f'class {class_id}'
            found[name if name not in found else f'{name} ({class_id})'] = probability
        return found


def examples(folder: Path) -> List[str]:
    """The two sample photographs of scikit-learn (CC BY 2.0) as files; none where it is not installed."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        return []
    found = []
    for name, pixels in zip(('china.jpg', 'flower.jpg'), load_sample_images().images):
        found.append(str(folder / name))
        Image.fromarray(pixels).save(found[-1], quality=95)
    return found


def uploaded(payload: Any) -> Optional[str]:
    """The path of an uploaded file as it is: Gradio would rotate, convert and save it again."""
    return payload.path if payload else None


def page(model: Classifier, samples: List[str], concurrency: int) -> Any:
    """The Gradio page, with its queue."""
    import gradio

    name = model.predictor.meta.model
    with gradio.Blocks(title=name, analytics_enabled=False) as blocks:
        gradio.Markdown(f'# {name}\nDrop an image: its {TOPK} most probable classes'
                        + (', and what the class token attends to in the last block, from blue to yellow.'
                           if model.attention else '.'))
        with gradio.Row():
            with gradio.Column():
                image = gradio.Image(type='filepath', sources=['upload', 'clipboard'], label='Image')
                image.preprocess = uploaded
                if samples:
                    gradio.Examples(samples, image, label='Sample photographs')
            with gradio.Column():
                sentence = gradio.Textbox(label='Status', interactive=False, max_lines=3)
                classes = gradio.Label(num_top_classes=TOPK, label='Classes')
                overlay = gradio.Image(label='Class attention', interactive=False, visible=bool(model.attention))
        image.change(model, image, [classes, overlay, sentence], api_name='classify')
    return blocks.queue(max_size=WAITING, default_concurrency_limit=concurrency)


def main() -> None:
    args = parser().parse_args()
    try:
        import gradio
    except ImportError:
        raise InputError('app.py: gradio is not installed; install it with: pip install gradio') from None
    if args.precision not in PRECISIONS:
        raise InputError(f'--precision: found {args.precision!r}, expected one of {", ".join(PRECISIONS)}')
    if args.cpu_threads < 0 or not 0 <= args.port < 65536:
        raise InputError(f'--cpu-threads {args.cpu_threads}, --port {args.port}: expected no negative numbers, and a '
                         'port below 65536')
    threads = args.cpu_threads or runtime.cores()
    predictor = Predictor(args.model_dir, args.backend, Options(args.precision, threads=threads))
    print('app: ' + ', '.join(f'{key}={value}' for key, value in predictor.describe().items()))
    list(predictor.predict([Image.new('RGB', (8, 8))]))  # engines compile their kernels in the first run
    attention = None
    try:
        attention = Attention(args.model_dir, predictor.meta, threads)
    except InputError as error:
        print(f'app: no attention is shown: {error}')
    with tempfile.TemporaryDirectory() as folder:
        blocks = page(Classifier(predictor, attention), examples(Path(folder)), max(1, runtime.cores() // threads))
        options: Dict[str, Any] = {'server_name': args.host, 'server_port': args.port or None, 'share': False,
                                   'allowed_paths': [folder]}
        if 'max_file_size' in inspect.signature(gradio.Blocks.launch).parameters:  # since 4.27; else after the upload
            options['max_file_size'] = MAX_BYTES
        blocks.launch(**options)


if __name__ == '__main__':
    errors.run(main)
