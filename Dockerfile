# syntax=docker/dockerfile:1
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY producer producer
COPY worker worker
COPY gateway gateway
RUN python -m venv /opt/runstream \
    && /opt/runstream/bin/pip install --no-cache-dir '.[worker,gateway,sqlite,postgres]'

FROM python:3.13-slim
RUN useradd --uid 10001 --create-home --home-dir /app runstream
COPY --from=build /opt/runstream /opt/runstream
# PYTHONSAFEPATH: what lies in the working directory does not stand in for an installed module.
ENV PATH=/opt/runstream/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
USER 10001
# The exec form: SIGTERM reaches the worker itself, which then drains.
STOPSIGNAL SIGTERM
ENTRYPOINT ["runstream"]
CMD ["worker"]
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 CMD ["runstream", "worker", "--check"]
