"""Ranks, devices and the start and end of a job of several processes.

Who we are comes from the launcher's environment (MPI, Slurm or torchrun); no MPI library is needed on one host. On
several hosts mpi4py tells everybody the address of rank 0. Tensors travel by NCCL or gloo, never by MPI. Change here
how processes meet; launchers are in `launch`, the collectives themselves in `dist_adapter`.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from jukebox.utils import dist_adapter
from jukebox.utils.errors import UserError, user_message
from jukebox.utils.files import only_writer
from jukebox.utils.launch import Launch, abort_job, read_launch
from jukebox.utils.signals import stop_status, tell_stop
from jukebox.utils.watch import start_watch

TIMEOUT = timedelta(minutes=30)  # a collective that waits longer than this ends the job
MEETING = timedelta(seconds=60)  # a process that is not there by then will not come
DEFAULT_PORT = 29500
MEET_SECONDS = 120.0  # processes that work by themselves for longer meet so often, and a silent one is still found out

T = TypeVar("T")


def _ask_mpi(launch: Launch) -> Launch:
    """Fills in rank, size, local rank and the address of rank 0 by mpi4py.

    Raises:
        UserError: no working MPI library, or one of another make than the launcher.
    """
    ours = "mpi4py.MPI" not in sys.modules
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, an MPI library is not
        raise UserError(
            f"several hosts need mpi4py with an MPI library to find each other ({type(error).__name__}: {error}); "
            "pip install mpi4py mpich, or set MASTER_ADDR to the address of the first host"
        ) from error
    world = MPI.COMM_WORLD
    if not launch.unknown and (world.Get_size(), world.Get_rank()) != (launch.size, launch.rank):
        library = MPI.Get_library_version().split(",")[0].splitlines()[0]
        raise UserError(
            f"the launcher of {launch.launcher} started {launch.size} processes, and mpi4py's library ({library}) sees "
            f"{world.Get_size()}: they are of different MPIs; use the mpiexec that belongs to the library"
        )
    shared = world.Split_type(MPI.COMM_TYPE_SHARED)
    filled = replace(
        launch,
        rank=world.Get_rank(),
        size=world.Get_size(),
        local_rank=shared.Get_rank(),
        local_size=shared.Get_size(),
        address=world.bcast(_own_address() if world.Get_rank() == 0 else None, root=0),
    )
    shared.Free()
    if ours:  # all are here now; later a failing rank would wait for the others inside MPI's own exit
        MPI.Finalize()
    return filled


def _own_address() -> str:
    """A name or address of this host that other hosts can reach."""
    name = socket.gethostname()
    with contextlib.suppress(OSError):
        if not socket.gethostbyname(name).startswith("127."):
            return name
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.255.255.255", 1))  # sends nothing; picks the interface that leads outside
        return probe.getsockname()[0]
    return name


def pick_device(local_rank: int = 0, local_size: int | None = 1, wanted: str = "") -> torch.device:
    """The device of one process: its own GPU, or the Mac's, or the CPU.

    Args:
        local_rank: number of the process on its host.
        local_size: processes on the host, None if it is unknown.
        wanted: "cuda", "cuda:1", "mps", "cpu", or "" for the best there is.

    Raises:
        UserError: the wanted device is not there, or there are fewer GPUs than processes.
    """
    kind, _, index = wanted.partition(":")
    several = local_size is None or local_size > 1
    if kind == "" and torch.cuda.is_available():
        kind = "cuda"
    elif kind == "":
        kind = "mps" if torch.backends.mps.is_available() and not several else "cpu"
    if kind == "cuda":
        return _pick_gpu(local_rank, several, index)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device=mps: PyTorch finds no Apple GPU here; leave the flag out or use --device=cpu")
    if kind not in ("mps", "cpu"):
        raise UserError(f"--device={wanted}: choose cuda, cuda:0, mps or cpu")
    return torch.device(kind)


def _pick_gpu(local_rank: int, several: bool, index: str) -> torch.device:
    if not torch.cuda.is_available():
        raise UserError("--device=cuda: PyTorch finds no GPU it can use here; leave the flag out or use --device=cpu")
    if index and not index.isdigit():
        raise UserError(f"--device=cuda:{index}: write the number of the GPU, such as cuda:0")
    count = torch.cuda.device_count()
    shown_one = count == 1 and several and os.environ.get("CUDA_VISIBLE_DEVICES", "") != ""
    chosen = int(index) if index else 0 if shown_one else local_rank  # some launchers show each process its own GPU
    if chosen >= count:
        raise UserError(
            f"process {local_rank} of this host wants GPU {chosen}, and there are {count}: "
            f"start at most {count} processes per host, or use --device=cpu"
        )
    return torch.device("cuda", chosen)


_device = torch.device("cpu")  # what `setup_dist_from_mpi` gave last
_launch: Launch | None = None  # asked for once: an MPI library cannot be started again after it was finalised
_store: tuple[str, int] | None = None  # where the job meets


def setup_dist_from_mpi(
    master_addr: str | None = None,
    backend: str | None = None,
    port: int = DEFAULT_PORT,
    n_attempts: int | None = None,
    verbose: bool = False,
    *,
    device: str = "",
) -> tuple[int, int, torch.device]:
    """Joins the job that a launcher started; without a launcher it is a job of one and needs nothing.

    Calling it again gives the same answer; a process group that is running already is used as it is.

    Args:
        master_addr: address of the host of rank 0; None takes MASTER_ADDR, or finds it out.
        backend: "nccl" or "gloo"; None takes nccl for GPUs and gloo for CPUs.
        port: a free TCP port on the host of rank 0; MASTER_PORT wins, since launchers that set it may listen there.
        n_attempts, verbose: without effect; scripts that were written for the released code give them.
        device: as in `pick_device`.

    Returns:
        (rank, local_rank, device): number among all, number on this host, and the device to use.

    Raises:
        UserError: no such device, no MPI library if one is needed, or the port is taken.
    """
    global _launch, _device
    launch = _launch or read_launch()
    if launch.conflict:
        raise UserError(launch.conflict)
    if launch.unknown:
        launch = replace(_ask_mpi(launch), unknown=False)
    one_host = launch.size == 1 or launch.local_size == launch.size
    address = master_addr or launch.address or ("127.0.0.1" if one_host else None)
    running = dist_adapter.is_available()
    if running and launch.size == 1:  # a group of the caller's own
        launch = replace(launch, rank=dist_adapter.get_rank(), local_rank=dist_adapter.get_rank())
    elif launch.size > 1 and not running and (address is None or launch.local_rank is None):
        launch = _ask_mpi(launch)
        address = address or launch.address
    _launch = launch
    local_rank = launch.local_rank or 0
    torch_device = pick_device(local_rank, launch.local_size if launch.size > 1 else 1, device)
    if torch_device.type == "cuda":
        torch.cuda.set_device(torch_device)
    if launch.size > 1 and not running:
        if launch.port and port not in (launch.port, DEFAULT_PORT) and launch.rank == 0:
            print(f"MASTER_PORT={launch.port} of the environment counts, --port={port} does not", file=sys.stderr)
        _start_group(launch, address, launch.port or port, backend, torch_device)
    _device = torch_device
    return launch.rank, local_rank, torch_device


def given_device() -> torch.device:
    """The device that `setup_dist_from_mpi` gave last, so where models are; without a call of it the CPU."""
    return _device


def allreduce(x: float, op: Any = dist_adapter.ReduceOp.SUM) -> float:
    """The reduction of one number over all processes."""
    total = torch.tensor(float(x), device=_device)
    dist_adapter.all_reduce(total, op)
    return total.item()


def allgather(x: torch.Tensor) -> list[torch.Tensor]:
    """Everybody's tensor x, all of one shape, in order of ranks."""
    tensors = [torch.empty_like(x) for _ in range(dist_adapter.get_world_size())]
    dist_adapter.all_gather(tensors, x)
    return tensors


def interface_to(address: str, port: int) -> str:
    """The network device that other hosts reach this one by: that of the route to rank 0.

    By default gloo takes the address of the host's own name, which on many hosts is a loopback address
    that no other host can reach.

    Returns:
        Its name; "" if rank 0 is met on a loopback address, or if the system does not tell.
    """
    try:
        import fcntl

        family, _, _, _, place = socket.getaddrinfo(address, port, socket.AF_INET, socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # sends nothing: it only chooses the route
            own = probe.getsockname()[0]
            if own.startswith("127."):
                return ""
            for _, name in socket.if_nameindex():
                with contextlib.suppress(OSError):  # a device without an address
                    request = name.encode()[:15].ljust(256, b"\0")
                    found = fcntl.ioctl(probe.fileno(), 0x8915, request)  # SIOCGIFADDR of Linux
                    if socket.inet_ntoa(found[20:24]) == own:
                        return name
    except (ImportError, OSError, IndexError):
        pass
    return ""


def _start_group(launch: Launch, address: Any, port: int, backend: str | None, device: torch.device) -> None:
    if not dist.is_available():
        raise UserError("this build of PyTorch has no distributed support: start one process")
    backend = backend or ("nccl" if device.type == "cuda" else "gloo")
    if backend == "gloo" and "GLOO_SOCKET_IFNAME" not in os.environ:
        name = interface_to(address, port)
        if name:
            os.environ["GLOO_SOCKET_IFNAME"] = name
    global _store
    try:
        store = next(dist.rendezvous(f"tcp://{address}:{port}", launch.rank, launch.size, timeout=MEETING))[0]
        store.set_timeout(TIMEOUT)
        dist.init_process_group(
            backend,
            store=store,
            rank=launch.rank,
            world_size=launch.size,
            timeout=TIMEOUT,
            device_id=device if backend == "nccl" else None,
        )
        _store = (str(address), port)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        if "EADDRINUSE" in str(error) or "in use" in str(error):
            advice = f"MASTER_PORT={port + 1} in the environment" if launch.port else f"--port={port + 1}"
            raise UserError(f"port {port} is in use on {address}: choose another with {advice}") from error
        joined = re.search(r"(\d+)/(\d+) clients joined", str(error))
        why = f"{joined[1]} of {joined[2]} are there" if joined else str(error).splitlines()[0][:100]
        raise UserError(
            f"rank {launch.rank} of {launch.size} cannot meet the others at {address}:{port} within "
            f"{MEETING.seconds} s ({why}); see whether all were started by one launcher, and give the address of rank "
            "0's host with MASTER_ADDR"
        ) from error


def shutdown() -> None:
    """Leaves the process group, if there is one, after everybody is done."""
    if dist_adapter.is_available():
        dist.destroy_process_group()


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Ends this process at once when the block fails while others work with it, so that the whole job ends.

    Python's usual way out would wait in the exit handlers of communication libraries, and the other ranks in a
    collective, for ever. The message is printed with the rank before. In one process exceptions simply pass through.
    A process of the job that is stopped or hangs ends it too, see `watch`.
    """
    size = dist_adapter.get_world_size()
    watch = start_watch(*_store, dist_adapter.get_rank(), size) if _store and size > 1 else None
    try:
        yield
        if watch is not None:
            watch.stop()
    except BaseException as error:
        if dist_adapter.get_world_size() == 1:
            raise
        rank = dist_adapter.get_rank()
        message = user_message(error)
        lost = isinstance(error, RuntimeError) and re.search(r"[Cc]onnection (closed|reset)", str(error))
        if lost:  # the rank that failed has the message that matters
            gone = " and ".join(f"rank {other}" for other in watch.gone()) if watch is not None else ""
            why = f"{gone} has gone, killed perhaps for want of memory if it says nothing" if gone else ""
            print(f"rank {rank} stops: {why or 'another rank has gone'}", file=sys.stderr)
        elif isinstance(error, KeyboardInterrupt):
            print(tell_stop(error), file=sys.stderr)
            abort_job(stop_status(error))
        elif message or isinstance(error, SystemExit):
            print(f"error on rank {rank}: {message or error}", file=sys.stderr)
        else:
            print(f"rank {rank} failed:", file=sys.stderr)
            traceback.print_exception(error)
        abort_job(2 if message else 1)


@contextlib.contextmanager
def only_job(folder: str | os.PathLike[str], flag: str) -> Iterator[None]:
    """`only_writer` for all ranks of a job: rank 0 has the lock, and the block begins when it has it.

    Raises:
        UserError: on rank 0, another job is at work in the folder.
    """
    with only_writer(folder, flag) if dist_adapter.get_rank() == 0 else contextlib.nullcontext():
        dist_adapter.barrier()
        yield


def print_once(*words: Any) -> None:
    """Prints on rank 0 only."""
    if dist_adapter.get_rank() == 0:
        print(*words, flush=True)


def print_all(*words: Any) -> None:
    """Prints on every rank, with its number in front if there are several."""
    if dist_adapter.get_world_size() > 1:
        words = (f"[rank {dist_adapter.get_rank()}]", *words)
    sys.stdout.write(" ".join(map(str, words)) + "\n")  # one write, so that lines of several ranks do not mix
    sys.stdout.flush()


def average(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Means of named numbers over all ranks; every rank must give the same names."""
    if dist_adapter.get_world_size() == 1 or not values:
        return dict(values)
    names = sorted(values)
    kind = torch.float32 if device.type == "mps" else torch.float64
    tensor = torch.tensor([values[name] for name in names], dtype=kind, device=device)
    dist_adapter.all_reduce(tensor)
    return dict(zip(names, (tensor / dist_adapter.get_world_size()).tolist(), strict=True))


def gather_objects(value: Any) -> list[Any]:
    """Everybody's value, in order of ranks; small plain objects only."""
    if dist_adapter.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist_adapter.get_world_size()
    dist.all_gather_object(values, value)
    return values


def any_rank(flag: bool, device: torch.device | None = None) -> bool:
    """Whether the flag is up on at least one rank; all of them must ask.

    Args:
        device: where ranks meet; None: where their backend does.
    """
    if dist_adapter.get_world_size() == 1:
        return flag
    if device is None:
        device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    tensor = torch.tensor(float(flag), device=device)
    dist_adapter.all_reduce(tensor, op=dist_adapter.ReduceOp.MAX)
    return tensor.item() > 0


def in_step(items: Iterable[T], device: torch.device | None = None) -> Iterator[T]:
    """The items of this rank, which may be slower or quicker than the others with theirs. All ranks must take part.

    Every `MEET_SECONDS` all meet, and the last item is followed by such meetings until everybody is done. So no rank
    waits in a collective for as long as ends the job.
    """
    left = iter(items)
    while True:
        until, more = time.monotonic() + MEET_SECONDS, False
        for item in left:
            yield item
            more = time.monotonic() > until
            if more:
                break
        if not any_rank(more, device):
            return


def first_rank_first(make: Callable[[], T]) -> T:
    """What `make` makes, on rank 0 before the others, however long it takes there. All ranks must take part.

    Rank 0 works in a thread and meets the others every `MEET_SECONDS`.
    """
    if dist_adapter.get_world_size() == 1:
        return make()
    if dist_adapter.get_rank() > 0:
        while any_rank(False):
            pass
        return make()
    pool = ThreadPoolExecutor(1)
    made = pool.submit(make)
    while any_rank(not wait([made], MEET_SECONDS).done):
        pass
    pool.shutdown(wait=False)
    return made.result()
