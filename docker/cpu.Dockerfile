# The page on a CPU. Not built yet: no builder was at hand.
#   docker build --tag vectorfit --file docker/cpu.Dockerfile .
FROM python:3.12-slim
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 VECTORFIT_CACHE=/runs/.cache
WORKDIR /vectorfit
# PyTorch for CUDA is several gigabytes. To leave it out, give the index of PyTorch's CPU wheels (pytorch.org shows it under
# "CPU"): --build-arg TORCH_INDEX=URL. torch and torchvision then come from that one place, so that they match.
ARG TORCH_INDEX=
COPY . .
RUN if [ -n "$TORCH_INDEX" ]; then pip install --index-url "$TORCH_INDEX" --constraint constraints.txt torch torchvision; fi \
    && pip install --constraint constraints.txt '.[all]'
RUN useradd --create-home reader && mkdir /runs && chown reader /runs
USER reader
WORKDIR /home/reader
VOLUME /runs
EXPOSE 7860
# Within the container the page must listen on all addresses; publish the port on 127.0.0.1 alone.
CMD ["vectorfit", "app", "--runs", "/runs", "--base_model", "starter", "--server_name", "0.0.0.0", "--server_port", "7860"]
