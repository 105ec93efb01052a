# Training, evaluation, export and inference on a CPU.
#   docker build -t cait . && docker run --rm -it -v "$PWD/dataset:/cait/dataset" -v "$PWD/output:/cait/output" cait
# The image is Paddle's own, with Paddle and Python 3.10; docker pull was not possible where this file was written, so
# the steps below were executed in an environment with the same Paddle (make docker-steps).
FROM paddlepaddle/paddle:3.3.1

WORKDIR /cait
COPY pyproject.toml constraints.txt requirements-gpu.txt README.md export_model.py infer.py hubconf.py ./
COPY CaiT CaiT
COPY test_tipc test_tipc

# requirements-gpu.txt is everything but Paddle, which the image has.
RUN python -m pip install --no-cache-dir -c constraints.txt -r requirements-gpu.txt \
    && python -m pip install --no-cache-dir --no-deps -e . \
    && python CaiT/main_single_gpu.py -h > /dev/null && python infer.py -h > /dev/null

CMD ["bash"]
