# SPDX-License-Identifier: Apache-2.0
"""The baseline of cold_start.py: one image with ONNX Runtime and Pillow alone.

    python benchmarks/bare_onnxruntime.py model.onnx image.jpg 224 1.0       image size, crop fraction
"""
import sys

if sys.argv[1:2] == ['--help']:
    print(__doc__)
    sys.exit()

import numpy as np
import onnxruntime
from PIL import Image

model, path, size, crop = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
image = Image.open(path).convert('RGB')
scale = int(size / crop) / min(image.size)
image = image.resize([int(side * scale) for side in image.size], Image.BICUBIC)
left, top = ((side - size) // 2 for side in image.size)
image = image.crop((left, top, left + size, top + size))
pixels = (np.asarray(image, np.float32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
logits = session.run(None, {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None].astype(np.float32)})[0]
print(logits.argmax())
