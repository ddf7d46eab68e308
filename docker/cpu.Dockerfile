# autoprune on CPU.
#
#   docker build --file docker/cpu.Dockerfile --tag autoprune:0.1.0-cpu .
#
# One image serves every node of a Ray cluster (`ray start`) and the command line. All nodes,
# and whoever submits to them, need the same Python and the same Ray.
FROM python:3.11.13-slim-bookworm AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH_VERSION=2.13.0
ARG TORCHVISION_VERSION=0.28.0
ARG RAY_VERSION=2.60.0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/autoprune/bin:$PATH
RUN python -m venv /opt/autoprune
# The large packages first, so that a changed source file does not fetch them again.
RUN pip install --index-url "$TORCH_INDEX" \
        "torch==$TORCH_VERSION" "torchvision==$TORCHVISION_VERSION" \
    && pip install "ray[default]==$RAY_VERSION"
COPY . /src
RUN pip install "/src[all]"

FROM python:3.11.13-slim-bookworm
# Where a volume is mounted on /work/runs, it takes over this directory's owner.
RUN useradd --uid 1000 --create-home autoprune \
    && install --directory --owner=autoprune /work/data /work/runs
COPY --from=build /opt/autoprune /opt/autoprune
ENV PATH=/opt/autoprune/bin:$PATH \
    OMP_NUM_THREADS=1 \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
WORKDIR /work
USER 1000:1000
ENTRYPOINT ["autoprune"]
