# fasttrain with a CPU build of PyTorch. From the source tree:
#     docker build -f docs/docker/cpu.Dockerfile --build-arg TORCH_INDEX=URL -t fasttrain:cpu .
#     docker run --rm -v "$PWD/runs:/home/trainer/runs" fasttrain:cpu sweep digits
# URL is an index of CPU builds, as PyTorch's installation page names it.
FROM python:3.11-slim

# Triton and torch.compile call a compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX
RUN test -n "$TORCH_INDEX" \
    && pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch>=2.11" "torchvision>=0.26"

COPY . /source
RUN pip install --no-cache-dir /source && useradd --uid 1000 --create-home trainer

USER 1000
WORKDIR /home/trainer
ENTRYPOINT ["fasttrain"]
CMD ["--help"]
