"""Who may ask and how much: the names that the page answers to, and the places that one client has in the queue."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
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
    """Refuses a request for the device whose client has enough of them waiting, and one that names a path.

    Quick events never wait.
    """
    queue = blocks._queue
    push = queue.push

    async def push_within_limits(body: Any, request: Any, username: str | None) -> Any:
        if _names_a_path(body.data):
            return False, "A path instead of a file: upload the file itself.", "error"
        function = blocks.fns.get(body.fn_index)
        if function is not None and function.concurrency_id == DEVICE:
            waiting = list(queue.event_queue_per_concurrency_id[DEVICE].queue) if _has_device(queue) else []
            address = request.client.host if request.client else None
            mine = sum(event.session_hash == body.session_hash for event in waiting)
            near = sum(bool(event.request.client) and event.request.client.host == address for event in waiting)
            if mine >= PER_SESSION or near >= PER_ADDRESS:
                message = f"{max(mine, near)} of your requests are waiting. Try again when one is done."
                return False, message, "error"  # gradio replaces the message of a full queue by its own
            if len(waiting) >= PLACES:
                return False, f"The queue is full: {len(waiting)} requests are waiting. Try again soon.", "error"
        return await push(body, request, username)

    queue.push = push_within_limits


def _names_a_path(data: Any) -> bool:
    """Whether a request names a file of the server that was not uploaded. gradio's own refusal tells where it runs."""
    if isinstance(data, dict):
        path = data.get("path")
        if isinstance(path, str) and not path.lower().startswith(("http:", "https:")):
            uploads = Path(get_upload_folder()).resolve()
            return not Path(path).resolve().is_relative_to(uploads)
        return any(_names_a_path(value) for value in data.values())
    return isinstance(data, list) and any(_names_a_path(value) for value in data)


def _has_device(queue: Any) -> bool:
    return DEVICE in queue.event_queue_per_concurrency_id
