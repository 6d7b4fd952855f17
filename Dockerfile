# Two stages: one that installs, and one that runs and has neither compiler nor pip's cache.

FROM python:3.13-slim-trixie AS build
RUN python -m venv /opt/venv
# Dependencies first: they change seldom, and this layer is kept until they do. The hashes make sure that what is
# installed is what was locked. The cache stays outside the image.
COPY requirements.txt /src/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --quiet --require-hashes --requirement /src/requirements.txt
COPY pyproject.toml README.md /src/
COPY service /src/service
# --no-build-isolation: built with the locked setuptools instead of one fetched now.
RUN /opt/venv/bin/pip install --quiet --no-deps --no-build-isolation /src \
 && /opt/venv/bin/pip uninstall --quiet --yes pip

FROM python:3.13-slim-trixie
# A fixed number, so that the owner of the volume stays the same over rebuilds.
RUN groupadd --gid 10001 tocsin \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tocsin \
 && install --directory --owner=tocsin --group=tocsin --mode=0750 /data
COPY --from=build /opt/venv /opt/venv
# Readable to the user below, whatever umask the checkout was made under.
COPY --chmod=755 deploy /app/deploy
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TOCSIN_DATA=/data \
    TOCSIN_RUNTIME=/tmp/tocsin \
    TOCSIN_WEB_ADDRESS=0.0.0.0:8000 \
    TOCSIN_PROGRAMS=web,monitor
USER 10001:10001
VOLUME /data
EXPOSE 8000
# Ready, with the exact status; the engine's shell and curl are not needed.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["python", "-I", "-S", "/app/deploy/healthcheck.py", "http://127.0.0.1:8000/readyz"]
# supervise.py is PID 1: it handles SIGTERM, reaps, and ends when a program is given up.
CMD ["python", "/app/deploy/supervisor/supervise.py"]
