# SPDX-License-Identifier: Apache-2.0
"""Images per second and latency of `cait serve`, beside infer.py on the same folder and a server without batches.

    python benchmarks/serve.py --model-dir=output/infer --images=dataset/digits/valid
    python benchmarks/serve.py --images=dataset/digits/valid --engines openvino/fp32 paddle/fp32 --check=10000

Closed-loop clients on loopback: each sends an image, waits for the answer and sends the next, for --seconds or --count
requests. `folder` is infer.py with its defaults on all images: what the engine, decoding included, does without HTTP.
`batched` is the server as by default, `unbatched` the same one with --batch-size=1. All take turns over the rounds, and
a ratio is the median over the rounds. With --check, that many requests of 16 clients to the first engine are all
compared with infer.py's answers: the same class, the probability within TOLERANCE of it; and the server's memory is
measured before and after.
Measure on an idle machine. The result is written to benchmarks/results/serve.json.
"""
from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)

from benchmarks.process_memory import status  # noqa: E402
from CaiT import runtime  # noqa: E402
from CaiT.cli import Parser  # noqa: E402
from CaiT.data.lists import list_images  # noqa: E402
from CaiT.errors import InputError, run  # noqa: E402
from CaiT.files import write_json  # noqa: E402
from CaiT.tools import benchmark  # noqa: E402

RESULT = HERE / 'results' / 'serve.json'
TOLERANCE = {'fp32': 1e-4, 'bf16': 0.05, 'int8': 0.05}  # of a probability; what rounding does in batches of other sizes
CHECK_CLIENTS = 16
WARM_UP = 1.0  # seconds
Answer = Tuple[int, float]  # class id, probability


class Client:
    """A connection that sends one request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(('127.0.0.1', port), timeout=120)
        # Otherwise the end of an image waits for the acknowledgment of its beginning, up to 40 ms.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b''

    def ask(self, image: bytes) -> Answer:
        """The most probable class of an encoded image; InputError when the server refuses."""
        head = f'POST /classify?topk=1 HTTP/1.1\r\nhost: x\r\ncontent-length: {len(image)}\r\n\r\n'.encode()
        self.socket.sendall(head + image)
        while b'\r\n\r\n' not in self.buffer:
            self._receive()
        head, _, rest = self.buffer.partition(b'\r\n\r\n')
        length = int(re.search(rb'content-length: (\d+)', head).group(1))
        while len(rest) < length:
            self._receive()
            rest = self.buffer.partition(b'\r\n\r\n')[2]
        self.buffer = rest[length:]
        if not head.startswith(b'HTTP/1.1 200'):
            raise InputError(f'the server answers {head.splitlines()[0].decode()}: {rest[:200].decode()}')
        best = json.loads(rest[:length])['predictions'][0]
        return best['class_id'], best['prob']

    def close(self) -> None:
        self.socket.close()

    def _receive(self) -> None:
        part = self.socket.recv(65536)
        if not part:
            raise InputError('the server closed the connection')
        self.buffer += part


def closed_loop(port: int, images: List[bytes], clients: int, seconds: float, count: int,
                compare: Callable[[int, Answer], None] = lambda *_: None) -> Dict[str, float]:
    """Throughput and latencies of ``clients``; ends after ``seconds`` or ``count`` requests. ``compare`` gets the
    number of the image and its answer. Raises what a client raised."""
    numbers, problems, latencies = itertools.count(), [], []
    start = time.perf_counter()

    def client() -> None:
        try:
            with contextlib.closing(Client(port)) as connection:
                while time.perf_counter() - start < seconds:
                    number = next(numbers)
                    if number >= count or problems:
                        return
                    before = time.perf_counter()
                    answer = connection.ask(images[number % len(images)])
                    latencies.append(time.perf_counter() - before)
                    compare(number % len(images), answer)
        except (OSError, InputError) as error:
            problems.append(error)
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return summary(latencies, time.perf_counter() - start)


def summary(latencies: List[float], seconds: float) -> Dict[str, float]:
    """Requests per second and the 50th, 95th and 99th percentile of the latency in milliseconds."""
    ordered = sorted(latencies)
    values = {f'p{part}': round(1000 * ordered[min(len(ordered) - 1, len(ordered) * part // 100)], 1)
              for part in (50, 95, 99)}
    return {'requests': len(ordered), 'images/s': round(len(ordered) / seconds, 1), **values}


@contextlib.contextmanager
def server(words: List[str]) -> Iterator[Tuple[int, int]]:
    """(port, process id) of a server that is ready; ended with SIGTERM."""
    process = subprocess.Popen([sys.executable, '-m', 'CaiT', 'serve', '--port=0', *words], stdout=subprocess.PIPE,
                               text=True, cwd=HERE.parent, env={**os.environ, 'PYTHONPATH': str(HERE.parent)})
    try:
        port = int(re.search(r':(\d+),', process.stdout.readline()).group(1))
        line = process.stdout.readline()
        if not line.startswith('serve: ready'):
            raise InputError(f'cait serve {" ".join(words)}: did not become ready')
        print(line.strip())
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def folder_run(words: List[str], paths: List[str]) -> Tuple[float, List[Answer]]:
    """(images per second, answers) of infer.py."""
    with tempfile.TemporaryDirectory() as folder:
        output, images = Path(folder) / 'r.jsonl', Path(folder) / 'list.txt'
        images.write_text('\n'.join(map(os.path.abspath, paths)) + '\n', encoding='utf-8')  # a list's are its folder's
        done = subprocess.run([sys.executable, str(HERE.parent / 'infer.py'), *words, f'--img-path={images}',
                               f'--output={output}'], capture_output=True, text=True)
        if done.returncode:
            raise InputError(f'infer.py: {done.stderr.strip()[-300:]}')
        rows = [json.loads(line) for line in output.read_text(encoding='utf-8').splitlines()]
    speed = float(re.search(r', ([\d.]+) images/s', done.stdout).group(1))
    return speed, [(row['class_id'], float(row['prob'])) for row in rows]


def measure(words: List[str], paths: List[str], args: Any) -> Dict[str, Any]:
    """All contenders in turn, over the rounds."""
    images = [Path(path).read_bytes() for path in paths]
    folder: List[float] = []
    found: Dict[str, Dict[str, List[Dict[str, float]]]] = {}
    with server(words) as (batched, _), server([*words, '--batch-size=1']) as (unbatched, _):
        for port in (batched, unbatched):
            closed_loop(port, images, max(args.clients), WARM_UP, args.count)
        for _ in range(args.rounds):
            folder.append(folder_run(words, paths)[0])
            for clients in args.clients:
                for name, port in (('batched', batched), ('unbatched', unbatched)):
                    row = closed_loop(port, images, clients, args.seconds, args.count)
                    found.setdefault(str(clients), {}).setdefault(name, []).append(row)
    return table(folder, found)


def table(folder: List[float], found: Dict[str, Dict[str, List[Dict[str, float]]]]) -> Dict[str, Any]:
    """Medians over the rounds, and the batched server's ratio to the folder and to the unbatched one."""
    clients = {}
    for count, rows in found.items():
        row = {name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
               for name, rounds in rows.items()}
        speeds = [one['images/s'] for one in rows['batched']]
        row['ratio to folder'] = round(statistics.median(a / b for a, b in zip(speeds, folder)), 3)
        row['ratio to unbatched'] = round(statistics.median(
            a / b['images/s'] for a, b in zip(speeds, rows['unbatched'])), 3)
        clients[count] = row
    return {'folder images/s': statistics.median(folder), 'clients': clients}


def check(words: List[str], precision: str, paths: List[str], count: int) -> Dict[str, Any]:
    """``count`` requests compared with infer.py's answers; InputError when one differs."""
    images, (_, expected) = [Path(path).read_bytes() for path in paths], folder_run(words, paths)
    largest, wrong = [0.0], []

    def compare(number: int, answer: Answer) -> None:
        difference = abs(answer[1] - expected[number][1])
        largest[0] = max(largest[0], difference)
        if answer[0] != expected[number][0] or difference > TOLERANCE[precision]:
            wrong.append((paths[number], expected[number], answer))
    with server(words) as (port, pid):
        memory = [round(status('VmRSS', pid), 1)]
        for part in (count // 10, count - count // 10):  # the first tenth fills buffers
            closed_loop(port, images, CHECK_CLIENTS, float('inf'), part, compare)
            memory.append(round(status('VmRSS', pid), 1))
    if wrong:
        raise InputError('{}: infer.py says {}, the server {}; {} of {} differ'.format(*wrong[0], len(wrong), count))
    return {'requests': count, 'different answers': 0, 'largest difference of a probability': largest[0],
            'memory in MB before, after a tenth, after all': memory}


def main(arguments: Any = None) -> None:
    parser = Parser(__doc__)
    parser.flag('model_dir', default='output/infer', metavar='FOLDER', help='export to serve')
    parser.flag('images', default='dataset/digits/valid', metavar='PATH', help='a folder or a list file')
    parser.flag('engines', nargs='+', default=['openvino/fp32'], metavar='BACKEND/PRECISION',
                help='engines to measure (default: openvino/fp32)')
    parser.flag('clients', nargs='+', type=int, default=[1, 4, 16, 64], metavar='N',
                help='numbers of clients at a time (default: 1 4 16 64)')
    parser.flag('rounds', type=int, default=3, metavar='N', help='0: only --check')
    parser.flag('seconds', type=float, default=6, metavar='S', help='of each measurement; default 6')
    parser.flag('count', type=int, default=5000, metavar='N', help='requests of each measurement at most')
    parser.flag('check', type=int, default=0, metavar='N', help='compare the answers of N requests to the first engine')
    parser.flag('output', default=str(RESULT), metavar='FILE', help='JSON file to write')
    flags = parser.parse_args(arguments)
    load, paths = os.getloadavg()[0], list_images(flags.images)
    result = {'processor': benchmark.processor(), 'cores': runtime.cores(), 'images': len(paths),
              'versions': benchmark.versions('fastapi', 'uvicorn', 'openvino', 'onnxruntime', 'paddlepaddle'),
              'load average before': round(load, 1), 'engines': {}}
    for engine in flags.engines:
        backend, _, precision = engine.partition('/')
        words = [f'--model-dir={flags.model_dir}', f'--backend={backend}', f'--precision={precision}']
        found = measure(words, paths, flags) if flags.rounds else {}
        if flags.check and engine == flags.engines[0]:
            found['check'] = check(words, precision, paths, flags.check)
        result['engines'][engine] = found
        print(json.dumps({engine: found}, indent=1))
        write_json(flags.output, result)
    print(f'written to {flags.output}')


if __name__ == '__main__':
    run(main)
