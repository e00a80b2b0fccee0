# fasttrain with PyTorch's default build, which brings CUDA's libraries. From the source tree:
#     docker build -f docs/docker/cuda.Dockerfile -t fasttrain:cuda .
#     docker run --rm --gpus all -v "$PWD/runs:/home/trainer/runs" fasttrain:cuda sweep digits --device cuda
# The host needs a driver and NVIDIA's container toolkit.
FROM python:3.11-slim

# Triton compiles its launchers.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

COPY . /source
RUN pip install --no-cache-dir /source && useradd --uid 1000 --create-home trainer

USER 1000
WORKDIR /home/trainer
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["fasttrain"]
CMD ["--help"]
