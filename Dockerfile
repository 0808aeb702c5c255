# For a machine with a GPU and NVIDIA's container toolkit; PyTorch brings CUDA with it.
#   docker build -t jukebox .
#   docker run --gpus all -v "$PWD/samples:/jukebox/samples" -v jukebox-weights:/weights jukebox \
#       python jukebox/sample.py --model=1b_lyrics --name=samples/new
FROM python:3.12-slim

# A compiler, for the native sampler of a CPU.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /jukebox

# The requirements first: a change of the code does not fetch them again.
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt

COPY setup.py pyproject.toml README.md LICENSE ./
COPY jukebox ./jukebox
COPY examples ./examples
RUN pip install --no-cache-dir --no-deps -e .

# Weights of the released models outlive a container here.
ENV JUKEBOX_CACHE=/weights
VOLUME /weights

CMD ["python", "jukebox/sample.py", "--model=demo", "--name=samples/demo", "--sample_length_in_seconds=10"]
