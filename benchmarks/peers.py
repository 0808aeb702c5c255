"""Other implementations to be measured beside, run as black boxes with random weights of the same shapes.

They are installed into build/peers, which sees the PyTorch that runs this, so both compute with the same one. Each
runs in a process of its own that works only when asked, so that runs can be timed in turn.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from typing import Any

from common import ROOT

FOLDER = ROOT / "build" / "peers"
PACKAGES = {"transformers": "transformers==4.57.6", "jukebox-infer": "jukebox-infer==0.1.2"}
JOBS = ("sample", "prefill", "train")

SCRIPT = """
import json, logging, os, sys, time
logging.disable(logging.CRITICAL)
out, sys.stdout = sys.stdout, sys.stderr
import torch
a = json.loads(sys.argv[1])
torch.set_num_threads(a["threads"])
if a["library"] == "transformers":
    from transformers import JukeboxPriorConfig
    from transformers.models.deprecated.jukebox.modeling_jukebox import JukeboxConditionalAutoregressive
    lyrics = a["prime_len"] or 0
    pattern = "enc_dec_with_lyrics" if lyrics else "raw_column_previous_row_attention"
    config = JukeboxPriorConfig(attention_pattern=pattern, blocks=a["blocks"], num_layers=a["depth"],
        hidden_size=a["width"], n_heads=a["heads"], n_ctx=a["n_ctx"], music_vocab_size=2048,
        merged_decoder=bool(lyrics), metadata_conditioning=False, is_encoder_decoder=bool(lyrics),
        nb_relevant_lyric_tokens=lyrics, mask=True, attention_multiplier=0.25)
    model = JukeboxConditionalAutoregressive(config, n_ctx=a["n_ctx"], embed_dim=2048, audio_conditioning=False,
        metadata_conditioning=False)
    head = model.fc_proj_out
    head.device = torch.device("cpu")
else:
    torch.cuda.LongTensor = torch.LongTensor
    from jukebox_infer.prior.autoregressive import ConditionalAutoregressive2D
    model = ConditionalAutoregressive2D((a["n_ctx"],), 2048, width=a["width"], depth=a["depth"], heads=a["heads"],
        blocks=a["blocks"], attn_order=a["attn_order"], prime_len=a["prime_len"],
        merged_decoder=bool(a["prime_len"]))
    head = model.x_out
for p in model.parameters(): torch.nn.init.normal_(p, std=0.02)
codes = torch.randint(0, 2048, (a["batch"], a["n_ctx"]))
def report(seconds):
    print("TOOK", seconds, file=out, flush=True)
def wait():
    if not sys.stdin.readline(): os._exit(0)
    return time.perf_counter()
if a["job"] == "sample":
    # One long sample that stops before the head of every so many tokens, and goes on when asked.
    state = {"count": 0, "begin": 0.0}
    def step(module, inputs):
        if inputs[0].shape[1] != 1: return
        if state["count"] % a["tokens"] == 0:
            if state["count"]: report(time.perf_counter() - state["begin"])
            state["begin"] = wait()
        state["count"] += 1
    with torch.no_grad():
        model.eval()
        last = a["start"] + a["tokens"] * a["runs"] + 1
        if a["start"]:
            # Prefill has one position per call only where a prompt has one.
            kept = codes[:, :a["start"]]
            head.register_forward_pre_hook(step)
            model.primed_sample(a["batch"], kept, sample_tokens=last, chunk_size=256)
        else:
            head.register_forward_pre_hook(step)
            model.sample(a["batch"], sample_tokens=last)
    sys.exit()
if a["job"] == "prefill":
    model.eval()
    def run():
        with torch.no_grad():
            model.primed_sample(a["batch"], codes[:, :a["tokens"]], sample_tokens=a["tokens"] + 1, chunk_size=256)
else:
    model.train(); optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    def run():
        model(codes)[0].backward(); optimizer.step(); optimizer.zero_grad()
while True:
    begin = wait(); run(); report(time.perf_counter() - begin)
"""


def install() -> dict[str, str]:
    """Makes the environment, once.

    Returns:
        For each peer that can be imported, the Python that has it; others are told of in a line.
    """
    python = FOLDER / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
        packages = next((FOLDER / "lib").glob("python*/site-packages"))
        (packages / "host.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    found = {}
    for name, package in PACKAGES.items():
        has = [
            str(python),
            "-c",
            f"import importlib.metadata as m; assert m.version({name!r}) == {package.split('==')[1]!r}",
        ]
        if subprocess.run(has, capture_output=True).returncode:
            words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                print(f"{package} cannot be installed, its rows are left out: {done.stderr.strip()[-200:]}")
                continue
        found[name] = str(python)
    return found


class Peer:
    """One of the other implementations, in a process of its own that works when called and returns its seconds.

    Args:
        library: of PACKAGES; python: an interpreter that has it.
        job: of JOBS. A sample goes on where the call before stopped.
        config: n_ctx, width, depth, heads, blocks, attn_order and, with lyrics, prime_len.
        batch: songs; tokens: drawn in a call, or taken in.
        start: tokens that are taken in before the first call; runs: the most calls of a sample.
    """

    def __init__(
        self,
        library: str,
        python: str,
        job: str,
        config: dict[str, Any],
        batch: int,
        tokens: int,
        start: int = 0,
        runs: int = 1,
    ) -> None:
        import json

        import torch

        words = {"prime_len": None, **config, "library": library, "job": job, "threads": torch.get_num_threads()}
        words.update(batch=batch, tokens=tokens, start=start, runs=runs)
        self.process = subprocess.Popen(
            [python, "-c", SCRIPT, json.dumps(words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self) -> float:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the loop below tells
        for line in self.process.stdout:
            if line.startswith("TOOK"):
                return float(line.split()[1])
        raise RuntimeError("the peer stopped; run its Python by hand to see why")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def start_all(pythons: dict[str, str], job: str, *args: Any, **more: Any) -> dict[str, Peer]:
    """A process for each peer that can do a job: jukebox-infer does not train."""
    return {
        name: Peer(name, python, job, *args, **more)
        for name, python in pythons.items()
        if not (job == "train" and name == "jukebox-infer")
    }
