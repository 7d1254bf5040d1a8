# One image for both daemons and for the command line; `docker compose` builds it.
#   docker build -t emailerctl . && docker run --rm emailerctl --help
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_CACHE_DIR=/var/cache/pip
WORKDIR /src
# What changes seldom first: the dependencies, each by its hash.
COPY requirements.lock ./
RUN --mount=type=cache,target=/var/cache/pip \
    python3 -m venv /opt/emailer \
    && /opt/emailer/bin/pip install --quiet --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY emailerctl ./emailerctl
COPY daemons ./daemons
RUN /opt/emailer/bin/pip install --quiet --no-deps --no-build-isolation . \
    && /opt/emailer/bin/pip uninstall --quiet --yes pip \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/emailer/lib

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="emailerctl" \
      org.opencontainers.image.description="Outbound e-mail that is never lost, never sent twice, and explains itself"
# A named volume takes over the owner of what is there: the store's folder is the daemons' own.
RUN install -d -m 0700 -o 10001 -g 10001 /var/lib/emailer /var/backups/emailer \
    && install -d -m 0755 /etc/emailer
COPY --from=build /opt/emailer /opt/emailer
ENV PATH=/opt/emailer/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
USER 10001:10001
WORKDIR /var/lib/emailer
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s --retries=3 \
    CMD ["emailerctl", "serve", "--check"]
ENTRYPOINT ["emailerctl"]
CMD ["serve", "--host", "0.0.0.0"]
