# docker build --target server -t nestor-server .
# docker build --target worker -t nestor-worker .      (CPU; for CUDA add --build-arg TORCH=cuda
#                                                        --build-arg TORCH_INDEX=https://pypi.org/simple)
#
# Everything is installed with the digests in constraints/images, which .ci/lock writes.

FROM python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b AS python

FROM python AS base
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1 PIP_QUIET=1 \
    PIP_ONLY_BINARY=:all:

FROM base AS wheel
RUN --mount=type=bind,source=constraints/images,target=/locked \
    python -m pip install --require-hashes --requirement /locked/build.txt
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY server server
COPY worker worker
COPY migrations migrations
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM base AS account
RUN useradd --uid 10001 --create-home nestor && install --directory --owner nestor --group nestor /home/nestor/.cache
WORKDIR /home/nestor

# The API server and the dashboard, without torch.
FROM account AS server
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints/images,target=/locked \
    python -m pip install --require-hashes --requirement /locked/server.txt \
    && python -m pip install --no-deps --no-index /wheels/*.whl && python -m pip check
USER 10001
ENV NESTOR_HOST=0.0.0.0 NESTOR_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["nestor"]
CMD ["server"]

# The worker, with torch. Only the worker uses a GPU.
FROM account AS worker
ARG TORCH=cpu TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints/images,target=/locked \
    python -m pip install --extra-index-url "${TORCH_INDEX}" \
       --require-hashes --requirement "/locked/worker-${TORCH}.txt" \
    && python -m pip install --no-deps --no-index /wheels/*.whl && python -m pip check
USER 10001
# On SIGTERM, running trials write a checkpoint and return to the queue.
STOPSIGNAL SIGTERM
ENTRYPOINT ["nestor"]
CMD ["worker"]
