"""Who may ask and how much: the names that the page answers to, and the places that one client has in the queue."""

from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from .components import DEVICE

PER_SESSION, PER_ADDRESS, PLACES = 10, 50, 60  # requests that may wait: of a session, of an address, of all

# Starlette takes what stands before the first colon as the name: "[" of the address [::1].
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[")


def known_hosts(names: list[str]) -> list[Middleware]:
    """Refuses requests for another host name. A foreign page could otherwise reach this one by a name of its own."""
    return [Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK_NAMES, *names], www_redirect=False)]


def limit_places(blocks: gr.Blocks) -> None:
    """Refuses a request for the device whose client has enough of them waiting. Quick events never wait."""
    queue = blocks._queue
    push = queue.push

    async def push_within_limits(body: Any, request: Any, username: str | None) -> Any:
        function = blocks.fns.get(body.fn_index)
        if function is not None and function.concurrency_id == DEVICE:
            waiting = list(queue.event_queue_per_concurrency_id[DEVICE].queue) if _has_device(queue) else []
            address = request.client.host if request.client else None
            mine = sum(event.session_hash == body.session_hash for event in waiting)
            near = sum(bool(event.request.client) and event.request.client.host == address for event in waiting)
            if mine >= PER_SESSION or near >= PER_ADDRESS:
                message = f"{max(mine, near)} of your requests are waiting. Try again when one is done."
                return False, message, "queue_full"
            if len(waiting) >= PLACES:
                return False, f"The queue is full: {len(waiting)} requests are waiting. Try again soon.", "queue_full"
        return await push(body, request, username)

    queue.push = push_within_limits


def _has_device(queue: Any) -> bool:
    return DEVICE in queue.event_queue_per_concurrency_id
