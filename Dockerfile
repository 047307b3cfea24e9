FROM python:3.13.15-bookworm AS build
# Not slim: there is a C compiler in it, for the part of runwire that is written in C.
WORKDIR /src
# With what a deployment needs of the extras: tokens, NATS, the archive. It has no PostgreSQL of its own.
COPY requirements-image.lock ./
RUN python -m venv --without-pip /opt/runwire \
    && pip --python /opt/runwire/bin/python install --no-cache-dir --disable-pip-version-check \
        --require-hashes --only-binary :all: --requirement requirements-image.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY src ./src
COPY docs ./docs
COPY alerts/thresholds.yaml ./alerts/
RUN pip --python /opt/runwire/bin/python install --no-cache-dir --disable-pip-version-check --no-deps .

FROM python:3.13.15-slim-bookworm
RUN groupadd --system --gid 10001 runwire \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin runwire \
    # A volume that is new when it is mounted here becomes the user's, as this folder is.
    && install --directory --owner=10001 --group=10001 /var/lib/runwire/archive \
    && install --directory --owner=10001 --group=10001 /var/lib/runwire/content
COPY --from=build /opt/runwire /opt/runwire
ENV PATH=/opt/runwire/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RUNWIRE_HOST=0.0.0.0 \
    RUNWIRE_ADMIN_HOST=0.0.0.0
# Agents of your own: mount or copy them here and name them in RUNWIRE_AGENTS.
WORKDIR /app
USER 10001:10001
EXPOSE 8080 9464
STOPSIGNAL SIGTERM
# Raises, and so fails, on anything but 200.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('RUNWIRE_ADMIN_PORT', '9464') + '/readyz', timeout=2)"]
ENTRYPOINT ["runwire", "serve"]
