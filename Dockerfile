# The program with the bundled model, and what it is linked with, on a bare base image.
#
#   docker build -t sparsegauge .
#   docker run --rm -v "$PWD:/work" sparsegauge demo -o demo
#
# With CUDA (the driver comes from the host, cuBLAS from the image):
#   docker build -t sparsegauge:cuda --build-arg SG_CUDA=ON \
#     --build-arg BUILD_IMAGE=nvidia/cuda:12.8.1-devel-ubuntu24.04 \
#     --build-arg RUN_IMAGE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 .
#   docker run --rm --gpus all -v "$PWD:/work" sparsegauge:cuda eval MODEL --device cuda …
ARG BUILD_IMAGE=debian:bookworm-slim
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
ARG SG_CUDA=OFF
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
        build-essential cmake ninja-build pkg-config libcjson-dev libsqlite3-dev libopenblas-dev libpcre2-dev \
        libutf8proc-dev libxxhash-dev && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN cmake -S /source -B /build -G Ninja -DSG_CUDA=${SG_CUDA} -DSG_TESTS=OFF && cmake --build /build && \
    cmake --install /build --prefix /opt/sparsegauge --strip && \
    cmake --install /build --prefix /opt/sparsegauge --component bundled

FROM ${RUN_IMAGE}
COPY --from=build /opt/sparsegauge /opt/sparsegauge
RUN ln -s /opt/sparsegauge/bin/sparsegauge /usr/local/bin/sparsegauge && sparsegauge version && \
    useradd --create-home user && mkdir /work && chown user /work
USER user
WORKDIR /work
ENTRYPOINT ["sparsegauge"]
CMD ["help"]
