# One image for the servers, the workers and the migration; docker-compose.yml says which is which.

FROM python:3.13-slim AS build
RUN pip install --no-cache-dir uv
WORKDIR /parley
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-build

FROM python:3.13-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home parley
WORKDIR /parley
ENV PATH=/parley/.venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /parley/.venv .venv
COPY app.py composition.py settings.py ./
COPY vocabulary vocabulary
COPY telemetry telemetry
COPY db db
COPY llm llm
COPY streams streams
COPY runs runs
COPY schema schema
COPY resolvers resolvers
COPY transports transports
USER parley
EXPOSE 8000
CMD ["python", "app.py"]
