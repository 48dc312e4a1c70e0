# The page on a GPU. Not built yet: no builder was at hand.
#   docker build --tag vectorfit-cuda --file docker/cuda.Dockerfile .
FROM python:3.12-slim
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 VECTORFIT_CACHE=/runs/.cache HF_HOME=/runs/.hub
WORKDIR /vectorfit
# PyTorch's usual wheels for Linux bring CUDA's libraries; the host needs NVIDIA's driver and container toolkit.
COPY . .
RUN pip install --constraint constraints.txt '.[all]'
RUN useradd --create-home reader && mkdir /runs && chown reader /runs
USER reader
WORKDIR /home/reader
VOLUME /runs
EXPOSE 7860
# Within the container the page must listen on all addresses; publish the port on 127.0.0.1 alone.
CMD ["vectorfit", "app", "--runs", "/runs", "--server_name", "0.0.0.0", "--server_port", "7860"]
