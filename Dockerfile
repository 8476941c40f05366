# One image for every part of zk0: a client in a container, the worker, the Prefect server; on CPU and GPU.
#
#   docker build -t zk0:latest .
#
# CUDA comes with torch's own wheels, the driver from the machine by the NVIDIA Container Toolkit: docs/docker.md.
FROM debian:trixie-slim AS packages
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv \
    && python3 -m venv /uv \
    && /uv/bin/pip install --no-cache-dir uv==0.13.9
WORKDIR /build
ENV UV_PROJECT_ENVIRONMENT=/opt/zk0 \
    UV_PYTHON=/usr/bin/python3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=hardlink \
    UV_COMPILE_BYTECODE=1 \
    UV_HTTP_TIMEOUT=300
# What the lock says, without the tools of development and the simulator.
COPY pyproject.toml uv.lock ./
RUN /uv/bin/uv sync --frozen --no-default-groups --no-install-project && rm -rf /root/.cache/uv

FROM packages AS build
COPY README.md LICENSE ./
COPY zk0 zk0
COPY tasks tasks
COPY flows flows
COPY deployments deployments
# zk0's own files are put aside, so that the image has them in a layer of their own.
RUN /uv/bin/uv sync --frozen --no-default-groups --no-editable && rm -rf /root/.cache/uv \
    && mkdir /zk0 && cd /opt/zk0/lib/python3*/site-packages \
    && cp -a --parents "$PWD/zk0" "$PWD/tasks" "$PWD/flows" "$PWD/deployments" "$PWD"/zk0-*.dist-info /opt/zk0/bin/zk0 /zk0

FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb \
    && groupadd --gid 65532 zk0 && useradd --uid 65532 --gid zk0 --create-home --shell /usr/sbin/nologin zk0 \
    && install -d -o zk0 -g zk0 /home/zk0/.prefect
# The large layer changes with the lock alone, the small one with zk0's sources.
COPY --from=packages /opt/zk0 /opt/zk0
COPY --from=build /zk0/opt/zk0 /opt/zk0
ENV PATH=/opt/zk0/bin:/usr/local/bin:/usr/bin:/bin
USER zk0
WORKDIR /home/zk0
CMD ["zk0", "--help"]
