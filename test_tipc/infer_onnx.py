# SPDX-License-Identifier: Apache-2.0
"""Predict with an ONNX file that paddle2onnx converted from an exported model, on ONNX Runtime.

    python test_tipc/infer_onnx.py --model-dir=output/digits/infer --onnx-file=model.onnx --img-path=images

--model-dir is the exported model, whose metadata has the preprocessing. Prints what CaiT/infer.py prints.
CaiT/export_model.py --backend=onnxruntime writes ONNX files itself, which CaiT/infer.py runs; this is for other ones.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Optional, Sequence

if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from CaiT.cli import Parser
from CaiT.data.lists import list_images
from CaiT.data.transforms import eval_transform
from CaiT.deploy import metadata
from CaiT.deploy.predictor import Prediction, certification_line, top_classes
from CaiT.errors import InputError, run


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Entry point."""
    parser = Parser(__doc__)
    parser.flag('model_dir', required=True, metavar='FOLDER', help='export whose images and preprocessing are used')
    parser.flag('onnx_file', required=True, metavar='FILE', help='file of paddle2onnx')
    parser.flag('img_path', required=True, metavar='PATH', help='an image, a folder or a list file')
    args = parser.parse_args(arguments)
    try:
        import onnxruntime
    except ImportError:
        raise InputError('infer_onnx needs ONNX Runtime, found none: pip install onnxruntime') from None
    if not Path(args.onnx_file).is_file():
        raise InputError(f'--onnx-file {args.onnx_file}: no such file')
    transform = eval_transform(metadata.read(args.model_dir).data)
    session = onnxruntime.InferenceSession(args.onnx_file, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    for path in list_images(args.img_path):
        logits = session.run(None, {name: transform(path)[None]})[0]
        (class_id, probability), = top_classes(logits, 1)[0]
        print(certification_line(Prediction(path, [(class_id, probability)])))
        print(f'image_name: {path}, class_id: {class_id}, prob: {probability:.4f}')
    return 0


if __name__ == '__main__':
    run(main)
