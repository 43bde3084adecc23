"""Drawing: the noise, the truncations against transformers' own, and the frequencies that come out."""

import numpy as np
import pytest
import torch

from askesis.inference.sampling import draw, truncate, uniform


def noise(count, seed=0):
    return torch.from_numpy(uniform(np.full(count, seed, dtype=np.uint64), np.arange(count, dtype=np.uint64)))


def test_noise_is_uniform_and_independent():
    x = noise(200_000).numpy()
    assert x.min() > 0 and x.max() < 1
    assert abs(x.mean() - 0.5) < 0.003 and abs(x.var() - 1 / 12) < 0.002
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.01
    over_seeds = uniform(np.arange(200_000, dtype=np.uint64), np.zeros(200_000, dtype=np.uint64))
    assert abs(over_seeds.mean() - 0.5) < 0.003 and abs(np.corrcoef(over_seeds[:-1], over_seeds[1:])[0, 1]) < 0.01


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_they_should(temperature):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    count = 100_000
    tokens, logprobs = draw(logits.expand(count, -1), noise(count), torch.full((count,), temperature))
    expected = (logits / temperature).softmax(dim=-1)
    frequencies = torch.bincount(tokens, minlength=5) / count
    torch.testing.assert_close(frequencies, expected, atol=0.006, rtol=0)
    torch.testing.assert_close(logprobs, expected.log()[tokens])


def test_truncation_is_transformers_own():
    from transformers.generation.logits_process import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0)) * 2
    for k, p, m in ((5, 1.0, 0.0), (0, 0.7, 0.0), (0, 1.0, 0.1), (10, 0.8, 0.0), (20, 0.95, 0.05), (1, 1.0, 0.0)):
        scores = logits.clone()
        scores = TopKLogitsWarper(k)(None, scores) if k else scores
        scores = TopPLogitsWarper(p)(None, scores) if p < 1 else scores
        scores = MinPLogitsWarper(m)(None, scores) if m else scores
        rows = torch.ones(64)
        ours = truncate(logits.softmax(dim=-1), (rows * k).int(), rows * p, rows * m)
        torch.testing.assert_close(ours / ours.sum(dim=-1, keepdim=True), scores.softmax(dim=-1), atol=1e-6, rtol=1e-4)


def test_greedy_takes_the_best_and_reports_temperature_one():
    logits = torch.randn(8, 30, generator=torch.Generator().manual_seed(1))
    tokens, logprobs = draw(logits, noise(8), torch.zeros(8))
    assert tokens.tolist() == logits.argmax(dim=-1).tolist()
    torch.testing.assert_close(logprobs, logits.log_softmax(dim=-1).max(dim=-1).values)
