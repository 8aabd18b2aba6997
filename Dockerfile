# What `make demo` does, in a container:
#   docker build -t mtcm-kd . && docker run --rm -v "$PWD/demo:/mtcm-kd/demo" mtcm-kd
# torch comes with CUDA from the default index (docker run --gpus all ...). For a smaller image without it, name the index of
# CPU builds that pytorch.org gives:
#   docker build --build-arg TORCH_OPTIONS="--index-url URL" -t mtcm-kd .
FROM python:3.11-slim
ARG TORCH_OPTIONS=""
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /mtcm-kd
COPY . .
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir torch==2.13.0 $TORCH_OPTIONS \
    && .venv/bin/pip install --no-cache-dir ".[dev]" && touch .venv/ready
CMD ["make", "demo"]
