# Three images, chosen by --target. Without it, what `make demo` does:
#   docker build -t mtcm-kd . && docker run --name demo mtcm-kd && docker cp demo:/mtcm-kd/demo . && docker rm demo
# compose.yaml runs all three together. torch comes with CUDA from the default index (docker run --gpus all ...). For a smaller
# image without it, name the index of CPU builds that pytorch.org gives:
#   docker build --build-arg TORCH_OPTIONS="--index-url URL" -t mtcm-kd .
FROM python:3.11-slim AS mlflow
WORKDIR /mlflow
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir "mlflow>=3.13,<4"
CMD [".venv/bin/mlflow", "server", "--host", "0.0.0.0", "--port", "5000", \
    "--allowed-hosts", "localhost:*,127.0.0.1:*,mlflow:*", \
    "--backend-store-uri", "sqlite:////store/mlflow.db", "--artifacts-destination", "/store/artifacts"]

FROM python:3.11-slim AS label
ARG TORCH_OPTIONS=""
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /mtcm-kd
COPY . .
RUN python -m venv .venv-label && .venv-label/bin/pip install --no-cache-dir torch==2.13.0 $TORCH_OPTIONS \
    && .venv-label/bin/pip install --no-cache-dir ".[label]" && touch .venv-label/ready
CMD ["make", "label", "STUDIES=/studies", "LABELS=/labels", "APP=/app", "HOST=0.0.0.0"]

FROM python:3.11-slim AS demo
ARG TORCH_OPTIONS=""
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /mtcm-kd
COPY . .
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir torch==2.13.0 $TORCH_OPTIONS \
    && .venv/bin/pip install --no-cache-dir ".[dev]" && touch .venv/ready
CMD ["make", "demo"]
