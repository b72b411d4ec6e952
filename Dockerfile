# ailab serve in a container: a wheel built in a first stage, a user without rights, a volume for the store.
#
#   docker build -t ailab .
#   docker run -d -p 127.0.0.1:8000:8000 -v ailab:/var/lib/ailab -v "$PWD/token:/run/secrets/ailab_token:ro" ailab
#
# `token` holds one line of 20 characters or more, readable by the user 10001: the token of an admin.

FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY ailab ailab
COPY api/ailab_api api/ailab_api
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:3.12-slim
COPY --from=build /dist /dist
RUN pip install --no-cache-dir /dist/*.whl \
    && groupadd --gid 10001 ailab \
    && useradd --uid 10001 --gid ailab --home-dir /var/lib/ailab --create-home --shell /usr/sbin/nologin ailab
# not the volume itself: a fresh disk may have a lost+found, and a folder that is not empty is no store
ENV AILAB_DIR=/var/lib/ailab/events PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/ailab
VOLUME ["/var/lib/ailab"]
EXPOSE 8000
# exit codes of Python: 0 where /health is 200, 1 otherwise
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]
# in exec form, so that SIGTERM reaches the server; it stops within 10 s
CMD ["ailab", "serve", "--host", "0.0.0.0", "--port", "8000", "--token-file", "/run/secrets/ailab_token"]
