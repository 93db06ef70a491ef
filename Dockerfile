# The gateway, without an engine: deploy/compose has the rest. Built from the locked dependencies, each by its hash.
FROM python:3.12-slim-bookworm AS build
WORKDIR /source
RUN python -m venv /opt/gatehouse
COPY requirements.lock requirements-postgresql.lock ./
RUN /opt/gatehouse/bin/pip install --no-cache-dir --require-hashes -r requirements.lock -r requirements-postgresql.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY launcher launcher
COPY gatehouse gatehouse
COPY static static
COPY deploy deploy
RUN /opt/gatehouse/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.12-slim-bookworm
COPY --from=build /opt/gatehouse /opt/gatehouse
# a number, so that Kubernetes and others see that it is not root
RUN useradd --system --uid 10001 --home-dir /var/lib/gatehouse --shell /usr/sbin/nologin gatehouse \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/gatehouse
USER 10001:10001
ENV PATH=/opt/gatehouse/bin:$PATH PYTHONUNBUFFERED=1 \
    GATEHOUSE_CONFIG=/etc/gatehouse/gatehouse.yaml GATEHOUSE_STATE_DIR=/var/lib/gatehouse
VOLUME /var/lib/gatehouse
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
ENTRYPOINT ["gatehouse"]
CMD ["gateway"]
