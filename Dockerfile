# The demo service. Build it with `docker build --tag aiometrics-demo .`, then run it with
# `docker run --rm -p 127.0.0.1:9400:9400 aiometrics-demo`.

FROM python:3.13-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN python -m venv /service && /service/bin/pip install --no-cache-dir '.[demo]'

FROM python:3.13-slim-bookworm
COPY --from=build /service /service
RUN useradd --system --no-create-home shop
USER shop
ENV PATH=/service/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
EXPOSE 9400
# Inside a container every address belongs to the container. Publishing the port decides who can
# reach it from outside.
ENTRYPOINT ["python", "-m", "aiometrics", "demo", "--addr", "0.0.0.0", "--port", "9400"]
