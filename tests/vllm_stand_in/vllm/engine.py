"""Requests in, tokens out, a step at a time: as many sequences as may run, the next one in when one has ended."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch

from .exceptions import VLLMValidationError
from .outputs import CompletionOutput, Logprob, RequestOutput
from .sampling_params import RequestOutputKind, SamplingParams

BLOCK = 16


@dataclass
class Request:
    id: str
    prompt: list[int]
    params: SamplingParams
    num_cached: int = 0
    out: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    generator: torch.Generator | None = None


class LLMEngine:
    def __init__(self, network: Any, max_model_len: int, max_num_seqs: int, eos_token_id: int | None) -> None:
        self._network = network
        self._max_model_len = max_model_len
        self._max_num_seqs = max_num_seqs
        self._eos_token_id = eos_token_id
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._blocks: set[tuple[int, ...]] = set()
        self.served: list[Request] = []

    def add_request(self, request_id: str, prompt: dict[str, Any], params: SamplingParams) -> str:
        assert isinstance(request_id, str)
        ids = prompt["prompt_token_ids"]
        if not ids:
            raise VLLMValidationError("The decoder prompt cannot be empty")
        if len(ids) >= self._max_model_len:
            raise VLLMValidationError(f"The decoder prompt (length {len(ids)}) is too long")
        request = Request(request_id, ids, params)
        if params.seed is not None:
            request.generator = torch.Generator().manual_seed(params.seed)
        self._waiting.append(request)
        return request_id

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting or self._running)

    def reset_prefix_cache(self) -> bool:
        if self._running:
            return False
        self._blocks.clear()
        return True

    def step(self) -> list[RequestOutput]:
        while self._waiting and len(self._running) < self._max_num_seqs:
            self._admit(self._waiting.popleft())
        found = [self._advance(request) for request in self._running]
        self._running = [
            request for request, output in zip(self._running, found, strict=True) if not output[0].finished
        ]
        return [output for output, shown in found if shown]

    def _admit(self, request: Request) -> None:
        blocks = [tuple(request.prompt[: end + BLOCK]) for end in range(0, len(request.prompt) - BLOCK, BLOCK)]
        hits = 0
        while hits < len(blocks) and blocks[hits] in self._blocks:
            hits += 1
        request.num_cached = hits * BLOCK
        self._blocks |= set(blocks)
        self._running.append(request)
        self.served.append(request)

    def _advance(self, request: Request) -> tuple[RequestOutput, bool]:
        params = request.params
        logits = self._network(torch.tensor([request.prompt + request.out])).logits[0, -1].float()
        token = self._sample(logits, request)
        request.out.append(token)
        if params.logprob_token_ids is not None:
            table = logits.log_softmax(-1)
            request.logprobs.append({key: Logprob(float(table[key])) for key in (token, *params.logprob_token_ids)})
        reason = self._finish_reason(request)
        delta = params.output_kind is RequestOutputKind.DELTA
        completion = CompletionOutput(
            index=0,
            text="",
            token_ids=[token] if delta else list(request.out),
            cumulative_logprob=None,
            logprobs=request.logprobs if params.logprob_token_ids is not None else None,
            finish_reason=reason,
        )
        output = RequestOutput(
            request.id, None, request.prompt, None, [completion], reason is not None, request.num_cached
        )
        return output, reason is not None or params.output_kind is not RequestOutputKind.FINAL_ONLY

    def _sample(self, logits: torch.Tensor, request: Request) -> int:
        params = request.params
        if params.temperature == 0:
            return int(logits.argmax())
        probabilities, order = (logits / params.temperature).softmax(-1).sort(descending=True)
        probabilities[probabilities.cumsum(-1) - probabilities >= params.top_p] = 0
        return int(order[torch.multinomial(probabilities, 1, generator=request.generator)])

    def _finish_reason(self, request: Request) -> str | None:
        params = request.params
        token = request.out[-1]
        if (token == self._eos_token_id and not params.ignore_eos) or token in (params.stop_token_ids or ()):
            return "stop"
        full = len(request.prompt) + len(request.out) >= self._max_model_len
        return "length" if full or len(request.out) >= (params.max_tokens or self._max_model_len) else None
