# syntax=docker/dockerfile:1
# Two images: `server` (API, controller, command line; no torch) and `worker`.
#   docker build --target server -t frontier-server .
#   docker build --target worker --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 -t frontier-worker .
FROM python:3.11-slim AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 frontier && mkdir /data && chown frontier /data
WORKDIR /src
ENV FRONTIER_HOME=/data

FROM base AS server
COPY . .
RUN pip install --constraint constraints.txt '.[server]'
USER frontier
WORKDIR /data
VOLUME /data
EXPOSE 8470
ENTRYPOINT ["frontier"]
CMD ["--help"]

FROM base AS worker
# A CPU build unless another index is named; torch comes first, so that nothing else chooses its version.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt .
RUN pip install --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch==2.13.0
COPY . .
RUN pip install --constraint constraints.txt '.[worker]'
USER frontier
WORKDIR /data
VOLUME /data
ENTRYPOINT ["frontier"]
CMD ["worker"]
