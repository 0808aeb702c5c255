"""The three averages against each other and against the sum written out."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_training import tiny_hps
from torch import nn

from jukebox.hparams import pick
from jukebox.training.ema import (
    CPUEMA,
    EMA,
    AverageOptions,
    FusedEMA,
    averaged_state,
    averaged_weights,
    default_mu,
    make_ema,
    read_counters,
    tell_start,
)


class Net(nn.Module):
    """Half and float parameters, a shared one, a frozen one and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a = nn.Parameter(torch.randn(3, 4, generator=generator).half())
        self.b = nn.Parameter(torch.randn(5, generator=generator))
        self.c = nn.Parameter(torch.randn(2, 2, generator=generator).half())
        self.shared = self.b
        self.frozen = nn.Parameter(torch.randn(2, generator=generator), requires_grad=False)
        self.register_buffer("k", torch.randn(3, generator=generator))


def _walk(net: Net, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


@pytest.mark.parametrize("kind", ["plain", "fused", "cpu"])
def test_the_sum_written_out(kind: str) -> None:
    net, mu, freq = Net(), 0.9, 3
    average = {
        "plain": lambda: EMA(net.parameters(), mu),
        "fused": lambda: FusedEMA(net.parameters(), mu),
        "cpu": lambda: CPUEMA(net.parameters(), mu, freq),
    }[kind]()
    every, decay = (freq, mu**freq) if kind == "cpu" else (1, mu)
    trained = [p for p in net.parameters() if p.requires_grad]
    expected = [p.detach().double() for p in trained]
    for step in range(1, 11):
        _walk(net, step)
        average.step()
        if step % every == 0:
            expected = [decay * e + (1 - decay) * p.detach().double() for e, p in zip(expected, trained, strict=True)]
    for got, e in zip(average.averages(), expected, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), e, rtol=0, atol=1e-6)


def test_a_single_float_parameter_is_not_shared_with_its_average() -> None:
    for kind in (EMA, FusedEMA, CPUEMA):
        parameter = nn.Parameter(torch.ones(4))
        average = kind([parameter], 0.5)
        with torch.no_grad():
            parameter.fill_(3.0)
        average.step()
        assert average.averages()[0].tolist() == [2.0] * 4 and parameter.tolist() == [3.0] * 4


def test_swapping_twice_gives_back_the_weights() -> None:
    for kind in (EMA, FusedEMA, CPUEMA):
        net = Net()
        average = kind(net.parameters(), 0.5)
        _walk(net, 1)
        average.step()
        raw, mean = copy.deepcopy(net.state_dict()), [a.clone() for a in average.averages()]
        average.swap()
        assert torch.equal(net.a, mean[0].half()) and torch.equal(net.b, mean[1])
        average.swap()
        assert all(torch.equal(value, raw[key]) for key, value in net.state_dict().items())


def test_averaged_weights_lose_nothing() -> None:
    net = Net()
    average = FusedEMA(net.parameters(), 0.5)
    _walk(net, 1)
    average.step()
    raw, mean = copy.deepcopy(net.state_dict()), [a.clone() for a in average.averages()]
    with pytest.raises(RuntimeError), averaged_weights(average):
        assert torch.equal(net.c, mean[2].half()) and torch.equal(net.frozen, raw["frozen"])
        raise RuntimeError
    assert all(torch.equal(value, raw[key]) for key, value in net.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(average.averages(), mean, strict=True))
    with averaged_weights(None):
        assert torch.equal(net.a, raw["a"])


def test_averaged_state_has_the_models_keys_and_types() -> None:
    net = Net()
    average = EMA(net.parameters(), 0.5)
    _walk(net, 1)
    average.step()
    state, own = averaged_state(net, average), net.state_dict()
    assert list(state) == list(own) and all(state[k].dtype == own[k].dtype for k in own)
    assert torch.equal(state["a"], average.averages()[0].half()) and torch.equal(state["shared"], state["b"])
    assert torch.equal(state["frozen"], own["frozen"]) and torch.equal(state["k"], own["k"])
    assert not torch.equal(state["b"], own["b"])
    assert all(torch.equal(a, b) for a, b in zip(averaged_state(net, None).values(), own.values(), strict=True))


def test_the_choice_of_an_average() -> None:
    parameters = list(Net().parameters())
    assert make_ema(parameters, pick(AverageOptions, tiny_hps(ema=False)), 1) is None
    assert type(make_ema(parameters, pick(AverageOptions, tiny_hps()), 1)) is FusedEMA
    assert type(make_ema(parameters, pick(AverageOptions, tiny_hps(ema_fused=False)), 1)) is EMA
    cpu = make_ema(parameters, pick(AverageOptions, tiny_hps(cpu_ema=True, cpu_ema_freq=7, mu=0.9)), 1)
    assert isinstance(cpu, CPUEMA) and cpu.freq == 7 and cpu.mu == pytest.approx(0.9**7)
    assert default_mu(None, 4, 8) == 0.996 and default_mu(0, 1, 1) == 0.999875 and default_mu(0.5, 1, 1) == 0.5


@pytest.mark.parametrize("saved", [EMA, FusedEMA, CPUEMA])
@pytest.mark.parametrize("kind", [EMA, FusedEMA, CPUEMA])
def test_a_state_is_taken_up_by_every_kind(saved: type[EMA], kind: type[EMA]) -> None:
    net = Net()
    one = saved(net.parameters(), 0.9)
    for step in range(1, 4):
        _walk(net, step)
        one.step()
    other = kind(net.parameters(), 0.9)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(one.averages(), other.averages(), strict=True))
    assert other.state_dict()["calls"] == one.calls == 3 and other.start == one.start == pytest.approx(0.9**3)
    _walk(net, 4)
    for average in (one, other):
        average.step()
    for a, b in zip(one.averages(), other.averages(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "fused", "cpu"])
def test_a_warm_up_forgets_the_start(kind: str) -> None:
    net, mu, freq = Net(), 0.7, 3 if kind == "cpu" else 1
    average = {
        "plain": lambda: EMA(net.parameters(), mu, warmup=True),
        "fused": lambda: FusedEMA(net.parameters(), mu, warmup=True),
        "cpu": lambda: CPUEMA(net.parameters(), mu ** (1 / freq), freq, warmup=True),
    }[kind]()
    trained = [p for p in net.parameters() if p.requires_grad]
    expected, share = [p.detach().double() for p in trained], 1.0
    for update in range(25):
        for step in range(freq):
            _walk(net, update * freq + step)
            average.step()
        decay = min(0.7, (1 + update) / (10 + update))  # 0.7 from update 20 on
        share *= decay
        expected = [decay * e + (1 - decay) * p.detach().double() for e, p in zip(expected, trained, strict=True)]
        assert average.start == pytest.approx(share)
        assert bool(tell_start(average)) == (update == 0)  # 10 % after the first update, 1.8 % after the second
    for got, e in zip(average.averages(), expected, strict=True):
        torch.testing.assert_close(got.double(), e, rtol=0, atol=1e-6)


def test_the_share_of_the_start_is_told() -> None:
    average = EMA([nn.Parameter(torch.ones(1))], 0.9995)
    for _ in range(560):
        average.step()
    assert tell_start(average).startswith("76 % of the averaged weights") and tell_start(None) == ""
    other = EMA(average.params, 0.9995)
    other.load_state_dict({"averages": average.averages(), **read_counters({"weights": {}, "calls": 0}, 2300)})
    assert tell_start(other).startswith("32 % of the averaged weights")  # an older state: one such step after another
