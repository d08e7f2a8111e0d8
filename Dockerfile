# docker build --tag=rrsr_jax:cuda12 .                         for NVIDIA GPUs
# docker build --tag=rrsr_jax:tpu --build-arg=DEVICE=tpu .     for TPUs; DEVICE= for CPUs
# docker run --gpus=all --volume="$PWD/runs:/project/runs" rrsr_jax:cuda12 --config=configs/demo.py --workdir=runs/demo
FROM python:3.12-slim
ARG DEVICE=cuda12
WORKDIR /project
COPY . .
RUN pip install --no-cache-dir --editable . ${DEVICE:+"jax[$DEVICE]"}
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["python", "-m", "rrsr_jax.main"]
