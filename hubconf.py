# SPDX-License-Identifier: Apache-2.0
"""Entry points for ``paddle.hub``: every model by its public name.

    paddle.hub.list(FOLDER, source='local')
    paddle.hub.load(FOLDER, 'cait_xxs24_224', source='local', pretrained='cait_xxs24_224.pth', num_classes=1000)

FOLDER is a clone of this repository. ``pretrained=True`` downloads published weights (docs/weights.md).
"""
from functools import partial as _partial
from functools import update_wrapper as _update_wrapper

# Without an underscore, whatever can be called would be taken for an entry point.
from CaiT.models.registry import create_model as _create_model
from CaiT.models.registry import list_models as _list_models
from CaiT.weights.zoo import local_path as _local_path

dependencies = ['paddle', 'numpy', 'safetensors', 'tqdm']


def _build(name, pretrained=False, strict=True, **overrides):
    """Build this model, a ``paddle.nn.Layer`` that takes images [B, 3, S, S] and gives logits [B, num_classes].

    pretrained: False for random weights, anyone's checkpoint by its path, True or a source ('timm', 'passl', ...) for
    published weights, which are downloaded and kept. strict: whether the weights must be all of the model's, and no
    others. overrides: constructor arguments (num_classes, image_size, drop_path_rate, ...). Raises
    CaiT.errors.InputError, one line, for weights that cannot be had or do not fit and for unknown arguments.
    """
    return _create_model(name, _local_path(pretrained, name) if pretrained else None, strict, **overrides)


for _name in _list_models():
    globals()[_name] = _update_wrapper(_partial(_build, _name), _build)
    globals()[_name].__name__ = _name
del _name
