# docker build --target server -t nestor-server .
# docker build --target worker -t nestor-worker .      (CPU; for CUDA add --build-arg TORCH_INDEX=https://pypi.org/simple)

FROM python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b AS python

FROM python AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY server server
COPY worker worker
COPY migrations migrations
RUN python -m pip wheel --quiet --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python AS base
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN useradd --uid 10001 --create-home nestor && install --directory --owner nestor --group nestor /home/nestor/.cache
WORKDIR /home/nestor

# The API server and the dashboard, without torch.
FROM base AS server
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints,target=/constraints \
    wheel=$(echo /wheels/*.whl) \
    && python -m pip install --quiet --no-cache-dir --constraint /constraints/dev.txt "${wheel}[server,objects]"
USER 10001
ENV NESTOR_HOST=0.0.0.0 NESTOR_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["nestor"]
CMD ["server"]

# The worker, with torch. Only the worker uses a GPU.
FROM base AS worker
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints,target=/constraints \
    wheel=$(echo /wheels/*.whl) \
    && python -m pip install --quiet --no-cache-dir --constraint /constraints/dev.txt \
       --extra-index-url "${TORCH_INDEX}" "${wheel}[worker,objects]"
USER 10001
# On SIGTERM, running trials write a checkpoint and return to the queue.
STOPSIGNAL SIGTERM
ENTRYPOINT ["nestor"]
CMD ["worker"]
