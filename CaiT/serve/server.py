# SPDX-License-Identifier: Apache-2.0
"""The process of a server: it listens, loads the model, answers, and ends when it is told to."""
from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from typing import Any, Callable

import uvicorn

from CaiT import runtime
from CaiT.serve.application import application
from CaiT.serve.connection import Connection, Server
from CaiT.serve.guard import Limits
from CaiT.serve.service import Service


def serve(service: Service, limits: Limits, address: socket.socket, args: Any) -> int:
    """Answer requests at ``address`` until SIGTERM; returns the exit status. Raises InputError when the model cannot be
    loaded. Until it is, health checks are answered and other requests get 503."""
    class Timed(Connection):
        head_seconds = args.head_seconds

    config = uvicorn.Config(application(service, limits, args.topk), http=Timed, ws='none', lifespan='off',
                            proxy_headers=False, server_header=False, access_log=args.access_log,
                            log_level='info' if args.access_log else 'error',
                            timeout_graceful_shutdown=args.drain_seconds)
    server = Server(config)
    host, port = address.getsockname()[:2]
    shown = f'[{host}]' if ':' in host else host
    print(f'serve: http://{shown}:{port}, loading {args.model_dir}', flush=True)
    try:
        asyncio.run(_run(server, service, address, args))
    finally:
        server.should_exit = True
    print('serve: ended', flush=True)
    return 0


async def _run(server: Server, service: Service, address: socket.socket, args: Any) -> None:
    loading: Future = Future()
    loop = asyncio.get_running_loop()

    def take_signals() -> None:
        loop.call_soon_threadsafe(server.take_signals)
    # No thread of a pool: an end while the model is being loaded would wait for it.
    threading.Thread(target=_load, args=(service, loading, args, take_signals), daemon=True).start()
    serving = asyncio.ensure_future(server.serve(sockets=[address]))
    loaded = asyncio.wrap_future(loading)
    await asyncio.wait([loaded, serving], return_when=asyncio.FIRST_COMPLETED)
    if loaded.done() and loaded.exception():
        server.should_exit = True
        await serving
        raise loaded.exception()
    await serving
    if loaded.done():
        await asyncio.get_running_loop().run_in_executor(None, service.close)


def _load(service: Service, loading: Future, args: Any, take_signals: Callable[[], None]) -> None:
    try:
        if args.backend == 'paddle':
            runtime.prepare(args.cpu_threads, 'gpu' if args.use_gpu else 'cpu')
            import paddle  # noqa: F401 - sets handlers of its own, which end the process with a message of an error
            take_signals()
        service.load()
    except BaseException as error:
        loading.set_exception(error)
        return
    facts = {**service.predictor.describe(), 'streams': service.predictor.options.streams,
             'batch': service.batcher.size}
    print('serve: ready: ' + ', '.join(f'{key}={value}' for key, value in facts.items()), flush=True)
    loading.set_result(None)
