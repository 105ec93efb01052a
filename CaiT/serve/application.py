# SPDX-License-Identifier: Apache-2.0
"""The routes of a server and the description of its interface."""
from __future__ import annotations

import asyncio
import re
import sys
import traceback
from pathlib import Path
from typing import Any, Dict, Optional

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

import CaiT
from CaiT.errors import InputError, shown
from CaiT.serve import metrics, open_inference, uploads
from CaiT.serve.guard import Guard, Limits, Refused, error_body
from CaiT.serve.service import EngineError, Service

PAGES = Path(__file__).resolve().parent / 'pages'
PAGE_HEADERS = {'content-security-policy': "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; "
                "frame-ancestors 'none'", 'x-content-type-options': 'nosniff'}
BYTES = {'schema': {'type': 'string', 'format': 'binary'}}
IMAGE_BODY = {'requestBody': {'required': True, 'content': {
    'multipart/form-data': {'schema': {'type': 'object', 'required': ['image'], 'properties': {
        'image': {'type': 'string', 'format': 'binary'}}}}, 'image/*': BYTES, 'application/octet-stream': BYTES}}}
TENSOR_BODY = {'requestBody': {'required': True, 'content': {
    'application/json': {'schema': {'type': 'object'}}, 'application/octet-stream': BYTES}}}


def application(service: Service, limits: Limits, topk: int) -> Guard:
    """The ASGI application. ``topk``: how many classes an answer has unless it asks for another number."""
    app = FastAPI(title='cait serve', version=CaiT.__version__, docs_url=None, redoc_url=None)
    _add_pages(app)
    _add_routes(app, service, topk)
    _add_protocol(app, service)
    app.add_exception_handler(InputError, lambda request, error: _error(400, str(error)))
    app.add_exception_handler(Refused, lambda request, error: _error(error.status, str(error), error.headers))
    app.add_exception_handler(HTTPException, _http_error)
    guard = Guard(app, limits, lambda: service.ready, service.metrics)
    service.metrics.follow(lambda: guard.in_flight, lambda: guard.buffered, lambda: service.ready)
    return guard


def _error(status: int, sentence: str, headers: Optional[Dict[str, str]] = None) -> Response:
    return Response(error_body(sentence), status, headers, 'application/json')


def _http_error(request: Request, error: HTTPException) -> Response:
    """No such route, or not with this method."""
    path = shown(request.url.path)
    sentence = {404: f'{path}: no such address', 405: f'{path}: no {shown(request.method, 10)} here'}
    return _error(error.status_code, sentence.get(error.status_code, str(error.detail)), error.headers)


def _add_pages(app: FastAPI) -> None:
    for path, name in (('/', 'index.html'), ('/docs', 'docs.html')):
        page = HTMLResponse((PAGES / name).read_text(encoding='utf-8'), headers=PAGE_HEADERS)
        app.add_api_route(path, lambda page=page: page, include_in_schema=False, response_class=HTMLResponse)


async def _computed(waiting: Any) -> Any:
    """What ``waiting`` gives; a fault of the engine, which is not the client's, is printed and answered with 500."""
    try:
        return await waiting
    except InputError:
        raise
    except EngineError as error:
        print(f'serve: {error}', file=sys.stderr)
        raise Refused(500, 'the engine failed; the log of the server says why') from None
    except Exception:
        traceback.print_exc()
        raise Refused(500, 'the server failed; its log says why') from None


def _add_routes(app: FastAPI, service: Service, default: int) -> None:
    @app.post('/classify', summary='The most probable classes of an image', openapi_extra=IMAGE_BODY)
    async def predict(request: Request, topk: Optional[str] = None) -> JSONResponse:
        """The body is an encoded image (JPEG, PNG, …), or a form with one file. topk: how many classes.
        prob is the softmax probability (of a model for images of several classes a sigmoid); class_name is empty
        when the model was exported without names."""
        classes = service.predictor.meta.num_classes
        count = min(default, classes)
        if topk is not None:
            if not (re.fullmatch('[0-9]{1,7}', topk) and 1 <= int(topk) <= classes):
                raise InputError(f'topk: found {shown(topk, 20)!r}, expected 1 to {classes}')
            count = int(topk)
        kind, body = request.headers.get('content-type', ''), await request.body()
        best = await _computed(service.best(lambda: uploads.image_bytes(kind, body), count))
        return JSONResponse({'model': service.name, 'predictions': [
            {'class_id': k, 'class_name': service.predictor.class_name(k), 'prob': p} for k, p in best]})

    @app.get('/metrics', summary='Counters in the format of Prometheus')
    async def counters() -> Response:
        return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)


def _add_protocol(app: FastAPI, service: Service) -> None:
    """The Open Inference Protocol v2."""
    def check(model: str, version: str) -> None:
        if not service.ready:
            raise Refused(503, 'the model is being loaded', **{'retry-after': '1'})
        if model != service.name:
            raise Refused(404, f'model: found {shown(model)!r}, expected {service.name!r}')
        if version != open_inference.VERSION:
            raise Refused(404, f'version: found {shown(version)!r}, expected {open_inference.VERSION!r}')

    @app.get('/v2', summary='Name and version of the server')
    async def server() -> Dict[str, Any]:
        return {'name': 'cait', 'version': CaiT.__version__, 'extensions': ['binary_tensor_data', 'classification']}

    @app.get('/v2/health/live', summary='Whether the server runs')
    async def live() -> Response:
        return Response(status_code=200)

    @app.get('/v2/health/ready', summary='Whether the model is loaded and warm')
    async def ready() -> Response:
        return Response(status_code=200 if service.ready else 503)

    def described() -> Any:
        predictor = service.predictor
        return open_inference.datatype(predictor.options.input), predictor.input_shape

    async def metadata(model: str, version: str = open_inference.VERSION) -> Dict[str, Any]:
        """Inputs and outputs of the model."""
        check(model, version)
        predictor = service.predictor
        return open_inference.model_metadata(service.name, predictor.engine.name, *described(),
                                             predictor.meta.num_classes)

    async def model_ready(model: str, version: str = open_inference.VERSION) -> Response:
        """Whether the model is loaded and warm."""
        check(model, version)
        return Response(status_code=200)

    async def infer(request: Request, model: str, version: str = open_inference.VERSION) -> Response:
        """Logits and probabilities of images in the form of the graph's input."""
        check(model, version)
        body, parsed = await request.body(), []

        def images() -> Any:
            parsed.append(open_inference.parse(body, request.headers.get(open_inference.HEADER), *described()))
            return parsed[0].images
        logits = await _computed(service.logits(images))
        meta = service.predictor.meta
        content, length = await asyncio.get_running_loop().run_in_executor(  # many numbers take their time
            service.decoders, open_inference.response, parsed[0], logits, service.name, meta.class_names,
            meta.activation)
        if length is None:
            return Response(content, media_type='application/json')
        return Response(content, media_type='application/octet-stream', headers={open_inference.HEADER: str(length)})

    for prefix in ('/v2/models/{model}', '/v2/models/{model}/versions/{version}'):
        shown_in_schema = 'version' not in prefix
        app.add_api_route(prefix, metadata, summary='The model', include_in_schema=shown_in_schema)
        app.add_api_route(f'{prefix}/ready', model_ready, summary='Whether it is ready',
                          include_in_schema=shown_in_schema)
        app.add_api_route(f'{prefix}/infer', infer, methods=['POST'], summary='Logits of tensors',
                          openapi_extra=TENSOR_BODY, include_in_schema=shown_in_schema)
