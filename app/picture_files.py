"""Serves the galleries' pictures. An address holds the gallery's secret key, so only its browser knows it."""

import re
import tempfile
from pathlib import Path

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from vectorfit import VectorFitError

from .cards import PICTURES
from .gallery import Gallery

PICTURE = re.compile(r"(?:picture|base)-\d+\.png")
EVERYTHING = "all"
PRIVATE_CACHE = {"Cache-Control": "private, max-age=86400"}


def routes(gallery: Gallery) -> list[Route]:
    """The addresses PICTURES/KEY/DRAWING/FILE, and PICTURES/KEY/DRAWING.zip or PICTURES/KEY/all.zip."""

    def picture(request: Request) -> Response:
        key, drawing, file = (request.path_params[name] for name in ("key", "drawing", "file"))
        try:
            path = gallery.find(key, drawing).folder / file
        except VectorFitError:
            return Response(status_code=404)
        if not (PICTURE.fullmatch(file) and path.is_file()):
            return Response(status_code=404)
        return FileResponse(path, headers=PRIVATE_CACHE)

    def archive(request: Request) -> Response:
        key, drawing = request.path_params["key"], request.path_params["drawing"]
        folder = tempfile.TemporaryDirectory(prefix="vectorfit-zip-")
        try:
            path = gallery.zipped(key, Path(folder.name), "" if drawing == EVERYTHING else drawing)
        except VectorFitError:
            folder.cleanup()
            return Response(status_code=404)
        return FileResponse(path, filename=f"vectorfit-{path.name}", background=BackgroundTask(folder.cleanup))

    return [
        Route(f"/{PICTURES}/{{key}}/{{drawing}}.zip", archive),
        Route(f"/{PICTURES}/{{key}}/{{drawing}}/{{file}}", picture),
    ]
