# SPDX-License-Identifier: Apache-2.0
"""Serve an exported model over HTTP.

    python -m CaiT.serve.command --model-dir=output/infer                          http://127.0.0.1:8000
    python -m CaiT.serve.command --model-dir=output/infer --backend=openvino --precision=bf16 --port=9000
    curl -F image=@image.jpg 'http://127.0.0.1:8000/classify?topk=3'

POST /classify takes an image; /v2 is the Open Inference Protocol (KServe, Triton), /metrics is for Prometheus, / a form
for browsers, /docs describes them. Requests that wait at the same time are computed together. SIGTERM ends the server
with status 0 after the last answer. With the environment variable CAIT_SERVE_TOKEN, or --token-file, clients need that
token. Needs FastAPI and uvicorn, the extra "serve".
"""
from __future__ import annotations

import importlib.util
import os
import socket
import sys
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from CaiT import errors, runtime
from CaiT.cli import Parser
from CaiT.deploy import engine_flags
from CaiT.errors import InputError

PACKAGES = {'fastapi': 'fastapi', 'uvicorn': 'uvicorn', 'httptools': 'httptools',
            'python_multipart': 'python-multipart', 'prometheus_client': 'prometheus-client'}
TOKEN = 'CAIT_SERVE_TOKEN'
MIN_TOKEN, MAX_TOKEN = 8, 4096
MEBIBYTE = 1 << 20


def parser() -> Parser:
    flags = Parser(__doc__)
    engine_flags.add(flags, threads_help='CPU threads of each stream; default: $OMP_NUM_THREADS, else the '
                     'cores, divided by the streams')
    flags.flag('host', default='127.0.0.1', metavar='ADDRESS', help='default 127.0.0.1: this machine only')
    flags.flag('port', type=int, default=8000, metavar='N', help='default 8000; 0: a free one, which is printed')
    flags.flag('model_name', default='', metavar='NAME', help="in addresses of /v2; default: the model's")
    flags.flag('streams', type=int, default=0, metavar='N', help='batches computed at a time; default: the cores, '
               'divided by --cpu-threads; 1 on a GPU')
    flags.flag('batch_size', type=int, default=0, metavar='N', help='images computed together at most; default: what '
               'is fastest on the engine; 1: no batching')
    flags.flag('batch_window', type=float, default=0, metavar='MS', help='milliseconds for which an image waits for '
               'others even while the engine is idle; default 0')
    flags.flag('decoders', type=int, default=0, metavar='N', help='threads that decode images; default: the cores')
    flags.flag('queue', type=int, default=128, metavar='N', help='requests that wait at a time, further ones are '
               'answered with 503; default 128')
    flags.flag('topk', type=int, default=5, metavar='K', help='classes in an answer of /classify; default 5')
    flags.flag('max_body', type=float, default=16, metavar='MB', help='largest body of a request; default 16')
    flags.flag('max_pixels', type=float, default=50, metavar='MILLIONS', help='pixels of the largest image; default 50')
    flags.flag('head_seconds', type=float, default=10, metavar='S', help='for the head of a request; default 10')
    flags.flag('body_seconds', type=float, default=30, metavar='S', help='for the body of a request; default 30')
    flags.flag('drain_seconds', type=float, default=30, metavar='S', help='for the requests that are being answered '
               'when the server is told to end; default 30')
    flags.flag('token_file', metavar='FILE', help=f'a file with the token that clients need; default: ${TOKEN}')
    flags.switch('access_log', metavar='True|False', help='print a line for every request')
    return flags


def check(args: Any) -> None:
    """InputError for flags out of range."""
    engine_flags.check(args)
    for name, least, most in (('port', 0, 65535), ('streams', 0, 1024), ('batch_size', 0, 4096), ('decoders', 0, 1024),
                              ('queue', 1, 1_000_000), ('topk', 1, 1_000_000), ('max_body', 1 / 1024, 1024),
                              ('max_pixels', 0.001, 1000), ('head_seconds', 0.1, 3600), ('body_seconds', 0.1, 3600),
                              ('drain_seconds', 0, 3600), ('batch_window', 0, 10_000)):
        value = getattr(args, name)
        if not least <= value <= most:
            raise InputError(f'--{name.replace("_", "-")}: found {value:g}, expected {least:g} to {most:g}')
    if '/' in args.model_name:
        raise InputError(f'--model-name: found {args.model_name!r}, expected a name without /')


def check_packages() -> None:
    """InputError when a package of the extra is missing."""
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(f'serve: {", ".join(missing)} is not installed; install it with: '
                         f'pip install {" ".join(missing)}')


def token(path: Any) -> str:
    """The token of the file or the environment variable, '' for none; InputError for one that is easily guessed."""
    source = f'--token-file {path}' if path else TOKEN
    if path:
        try:
            with open(path, encoding='utf-8') as file:
                found = file.read(MAX_TOKEN + 1).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f'{source}: {getattr(error, "strerror", None) or "not text"}') from None
    else:
        found = os.environ.get(TOKEN, '').strip()
        if not found:
            return ''
    if not MIN_TOKEN <= len(found) <= MAX_TOKEN or not all('!' <= character <= '~' for character in found):
        raise InputError(f'{source}: found {len(found)} characters, expected {MIN_TOKEN} to {MAX_TOKEN} letters, '
                         'digits and signs of ASCII without blanks')
    return found


def listening(host: str, port: int) -> socket.socket:
    """A socket at that address; InputError when it is taken or not of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With its protocol: asyncio asks for it before it sets TCP_NODELAY, without which answers wait for 40 ms.
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(1024)  # a second server at the same port fails here at the latest
        return found
    except OSError as error:
        raise InputError(f'--host {host} --port {port}: cannot be used ({error.strerror or error}); choose another '
                         '--port') from None
    except UnicodeError:
        raise InputError(f'--host: found {host!r}, expected an address or a name of this machine') from None


def main() -> int:
    args = parser().parse_args()
    check(args)
    check_packages()
    secret = token(args.token_file)
    from CaiT.deploy.predictor import Predictor
    from CaiT.serve import server
    from CaiT.serve.guard import Limits
    from CaiT.serve.metrics import Metrics
    from CaiT.serve.service import Batching, Service, automatic
    threads = args.cpu_threads or runtime.user_threads()
    options = automatic(engine_flags.options(args, threads, batch=0), args.streams, args.batch_size)
    batching = Batching(options.batch, args.batch_window / 1000, args.decoders or runtime.cores())
    address = listening(args.host, args.port)
    service = Service(lambda: Predictor(args.model_dir, args.backend, options, engine_flags.metadata(args, options)),
                      batching, Metrics(), round(args.max_pixels * 1e6), args.model_name)
    limits = Limits(round(args.max_body * MEBIBYTE), args.body_seconds, args.queue, secret)
    args.cpu_threads = options.threads
    return server.serve(service, limits, address, args)


if __name__ == '__main__':
    errors.run(main, fast_exit=True)
